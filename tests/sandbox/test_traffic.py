"""Faults apply as often as requested, to matching requests only, and are logged."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.support.sandbox import Sandbox

PAGE = """query Page($first: Int!) {repository(owner: "sandbox", name: "website") {
    issues(first: $first) {totalCount nodes {number comments(first: 100) {nodes {id}}}}}}"""
REPOSITORY = "/repos/sandbox/website"


def page(sandbox: Sandbox, first: int = 10) -> requests.Response:
    """A GraphQL page."""
    return sandbox.github.graphql(PAGE, {"first": first})


@pytest.mark.parametrize("status", [401, 403, 404, 500, 502, 503])
def test_a_status_fault_applies_the_given_number_of_times(sandbox: Sandbox, status: int) -> None:
    sandbox.fault("status", times=2, status=status, retry_after=7)
    answers = [sandbox.github.get(REPOSITORY) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [status, status, 200]
    assert answers[0].headers["retry-after"] == "7"
    assert sandbox.counts()["by_status"] == {str(status): 2, "200": 1}


def test_a_fault_applies_only_to_matching_requests(sandbox: Sandbox) -> None:
    sandbox.fault("status", status=503, match={"operation": "Page", "contains": '"first": 5}'})
    sandbox.fault("status", status=502, match={"path": "/events", "method": "GET"})
    answers = [
        sandbox.github.get(REPOSITORY),
        page(sandbox, 4),
        page(sandbox, 5),
        sandbox.github.get(f"{REPOSITORY}/events"),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 503, 502]
    assert [call["fault"] for call in sandbox.requests()] == [None, None, "status", "status"]
    assert sandbox.faults() == []


def test_faults_apply_in_the_order_of_queueing(sandbox: Sandbox) -> None:
    sandbox.fault("graphql_error", type="FORBIDDEN")
    sandbox.fault("status", status=500)
    assert [page(sandbox).status_code for _ in range(3)] == [200, 500, 200]


def test_a_permanent_fault_ends_when_it_is_removed(sandbox: Sandbox) -> None:
    sandbox.fault("heavy_page", times=None, first=25)
    assert [page(sandbox, first).status_code for first in (100, 50, 25, 26)] == [502, 502, 200, 502]
    sandbox.clear_faults()
    assert page(sandbox, 100).status_code == 200


def test_a_heavy_page_can_be_defined_by_its_number_of_nodes(sandbox: Sandbox) -> None:
    sandbox.fault("heavy_page", times=None, nodes=2_000)
    assert [page(sandbox, first).status_code for first in (20, 19)] == [502, 200]


def test_a_connection_reset_drops_the_tcp_connection(sandbox: Sandbox) -> None:
    sandbox.fault("connection_reset")
    with pytest.raises(requests.ConnectionError, match="reset"):
        sandbox.github.get(REPOSITORY)
    assert sandbox.github.get(REPOSITORY).status_code == 200
    assert [call["status"] for call in sandbox.requests()] == [None, 200]


def test_a_truncated_body_ends_before_its_content_length(sandbox: Sandbox) -> None:
    sandbox.fault("truncated_body")
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
        page(sandbox)
    assert page(sandbox).ok


def test_malformed_json_cannot_be_parsed(sandbox: Sandbox) -> None:
    sandbox.fault("malformed_json")
    answer = page(sandbox)
    assert answer.status_code == 200
    with pytest.raises(requests.JSONDecodeError):
        answer.json()


def test_simulated_limits_say_how_long_to_wait(sandbox: Sandbox) -> None:
    sandbox.fault("secondary_limit", seconds=3)
    sandbox.fault("primary_limit", seconds=5)
    secondary, primary = page(sandbox), sandbox.github.get(REPOSITORY)
    assert (secondary.status_code, secondary.headers["retry-after"]) == (403, "3")
    assert "secondary rate limit" in secondary.json()["message"]
    assert (primary.status_code, primary.headers["x-ratelimit-remaining"]) == (403, "0")
    assert 3 < int(primary.headers["x-ratelimit-reset"]) - time.time() <= 6
    assert page(sandbox).headers["x-ratelimit-remaining"] != "0"


@pytest.mark.parametrize("kind", ["RATE_LIMITED", "NOT_FOUND", "FORBIDDEN", "SOMETHING_NEW"])
def test_graphql_errors_have_status_200(sandbox: Sandbox, kind: str) -> None:
    sandbox.fault("graphql_error", type=kind, message="Told so")
    answer = page(sandbox)
    assert answer.status_code == 200
    assert answer.json()["data"] is None
    (error,) = answer.json()["errors"]
    assert (error["type"], error["message"]) == (kind, "Told so")


def test_a_graphql_timeout_has_no_type(sandbox: Sandbox) -> None:
    sandbox.fault("graphql_error", type="TIMEOUT")
    (error,) = page(sandbox).json()["errors"]
    assert set(error) == {"message"}
    assert error["message"].startswith("Something went wrong while executing your query.")


def test_partial_errors_come_with_the_real_data(sandbox: Sandbox) -> None:
    whole = page(sandbox).json()
    sandbox.fault("graphql_error", type="FORBIDDEN", partial=True)
    partial = page(sandbox).json()
    assert partial["data"] == whole["data"]
    assert partial["errors"][0]["type"] == "FORBIDDEN"


@pytest.mark.parametrize("connection", ["issues", "comments"])
def test_a_node_can_be_replaced_by_null(sandbox: Sandbox, connection: str) -> None:
    sandbox.fault("null_node", connection=connection)
    rows = page(sandbox, 50).json()["data"]["repository"]["issues"]["nodes"]
    comments = [row["comments"]["nodes"] for row in rows if row]
    assert (rows[0] is None) == (connection == "issues")
    assert any(nodes[0] is None for nodes in comments if nodes) == (connection == "comments")


def test_delays_of_concurrent_requests_overlap(sandbox: Sandbox) -> None:
    sandbox.settings(latency_ms=200)
    started = time.monotonic()
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: requests.get(f"{sandbox.github.url}/nix", timeout=60), range(10)))
    took = time.monotonic() - started
    assert len(answers) == 10
    assert 0.2 <= took < 1.0


def test_concurrent_clients_get_the_same_pages(sandbox: Sandbox) -> None:
    expected = [page(sandbox, first).json() for first in range(1, 30)]

    def ask(first: int) -> Any:
        body = {"query": PAGE, "variables": {"first": first}}
        return requests.post(
            f"{sandbox.github.url}/graphql", json=body, headers=sandbox.github.headers, timeout=60
        ).json()

    sandbox.settings(latency_ms=5)
    sandbox.forget_requests()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, list(range(1, 30)) * 4))
    assert answers == expected * 4
    assert sandbox.counts()["total"] == 116


def test_a_slow_response_is_slow_once(sandbox: Sandbox) -> None:
    sandbox.fault("slow", seconds=0.4)
    took = []
    for _ in range(2):
        started = time.monotonic()
        assert page(sandbox).ok
        took.append(time.monotonic() - started)
    assert took[0] >= 0.4 > took[1]
