"""Faults happen as often as told, to the requests that they are for, and leave a trace in the log."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import requests

if TYPE_CHECKING:
    from tests.conftest import Sandbox

PAGE = """query Page($first: Int!) {repository(owner: "sandbox", name: "website") {
    issues(first: $first) {totalCount nodes {number comments(first: 100) {nodes {id}}}}}}"""
REPOSITORY = "/repos/sandbox/website"


def page(sandbox: Sandbox, first: int = 10) -> requests.Response:
    """A GraphQL page."""
    return sandbox.graphql(PAGE, {"first": first})


@pytest.mark.parametrize("status", [401, 403, 404, 500, 502, 503])
def test_a_status_happens_as_often_as_told(sandbox: Sandbox, status: int) -> None:
    sandbox.fault("status", times=2, status=status, retry_after=7)
    answers = [sandbox.get(REPOSITORY) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [status, status, 200]
    assert answers[0].headers["retry-after"] == "7"
    assert sandbox.counts()["by_status"] == {str(status): 2, "200": 1}


def test_a_fault_waits_for_the_request_it_is_for(sandbox: Sandbox) -> None:
    sandbox.fault("status", status=503, match={"operation": "Page", "contains": '"first": 5}'})
    sandbox.fault("status", status=502, match={"path": "/events", "method": "GET"})
    answers = [sandbox.get(REPOSITORY), page(sandbox, 4), page(sandbox, 5), sandbox.get(f"{REPOSITORY}/events")]
    assert [answer.status_code for answer in answers] == [200, 200, 503, 502]
    assert [call["fault"] for call in sandbox.requests()] == [None, None, "status", "status"]
    assert sandbox.faults() == []


def test_faults_meet_requests_in_their_order(sandbox: Sandbox) -> None:
    sandbox.fault("graphql_error", type="FORBIDDEN")
    sandbox.fault("status", status=500)
    assert [page(sandbox).status_code for _ in range(3)] == [200, 500, 200]


def test_a_lasting_fault_ends_when_it_is_removed(sandbox: Sandbox) -> None:
    sandbox.fault("heavy_page", times=None, first=25)
    assert [page(sandbox, first).status_code for first in (100, 50, 25, 26)] == [502, 502, 200, 502]
    sandbox.clear_faults()
    assert page(sandbox, 100).status_code == 200


def test_a_page_can_be_too_heavy_by_its_nodes(sandbox: Sandbox) -> None:
    sandbox.fault("heavy_page", times=None, nodes=2_000)
    assert [page(sandbox, first).status_code for first in (20, 19)] == [502, 200]


def test_the_connection_is_really_dropped(sandbox: Sandbox) -> None:
    sandbox.fault("connection_reset")
    with pytest.raises(requests.ConnectionError, match="reset"):
        sandbox.get(REPOSITORY)
    assert sandbox.get(REPOSITORY).status_code == 200
    assert [call["status"] for call in sandbox.requests()] == [None, 200]


def test_a_body_can_end_too_soon(sandbox: Sandbox) -> None:
    sandbox.fault("truncated_body")
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
        page(sandbox)
    assert page(sandbox).ok


def test_a_body_can_be_no_json(sandbox: Sandbox) -> None:
    sandbox.fault("malformed_json")
    answer = page(sandbox)
    assert answer.status_code == 200
    with pytest.raises(requests.JSONDecodeError):
        answer.json()


def test_both_limits_say_how_long_to_wait(sandbox: Sandbox) -> None:
    sandbox.fault("secondary_limit", seconds=3)
    sandbox.fault("primary_limit", seconds=5)
    secondary, primary = page(sandbox), sandbox.get(REPOSITORY)
    assert (secondary.status_code, secondary.headers["retry-after"]) == (403, "3")
    assert "secondary rate limit" in secondary.json()["message"]
    assert (primary.status_code, primary.headers["x-ratelimit-remaining"]) == (403, "0")
    assert 3 < int(primary.headers["x-ratelimit-reset"]) - time.time() <= 6
    assert page(sandbox).headers["x-ratelimit-remaining"] != "0"


@pytest.mark.parametrize("kind", ["RATE_LIMITED", "NOT_FOUND", "FORBIDDEN", "SOMETHING_NEW"])
def test_graphql_errors_come_with_200(sandbox: Sandbox, kind: str) -> None:
    sandbox.fault("graphql_error", type=kind, message="Told so")
    answer = page(sandbox)
    assert answer.status_code == 200
    assert answer.json()["data"] is None
    (error,) = answer.json()["errors"]
    assert (error["type"], error["message"]) == (kind, "Told so")


def test_a_timeout_has_no_type(sandbox: Sandbox) -> None:
    sandbox.fault("graphql_error", type="TIMEOUT")
    (error,) = page(sandbox).json()["errors"]
    assert set(error) == {"message"}
    assert error["message"].startswith("Something went wrong while executing your query.")


def test_errors_may_come_beside_data(sandbox: Sandbox) -> None:
    whole = page(sandbox).json()
    sandbox.fault("graphql_error", type="FORBIDDEN", partial=True)
    partial = page(sandbox).json()
    assert partial["data"] == whole["data"]
    assert partial["errors"][0]["type"] == "FORBIDDEN"


@pytest.mark.parametrize("connection", ["issues", "comments"])
def test_a_node_can_be_null(sandbox: Sandbox, connection: str) -> None:
    sandbox.fault("null_node", connection=connection)
    rows = page(sandbox, 50).json()["data"]["repository"]["issues"]["nodes"]
    comments = [row["comments"]["nodes"] for row in rows if row]
    assert (rows[0] is None) == (connection == "issues")
    assert any(nodes[0] is None for nodes in comments if nodes) == (connection == "comments")


def test_waits_of_many_clients_overlap(sandbox: Sandbox) -> None:
    sandbox.settings(latency_ms=200)
    started = time.monotonic()
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: requests.get(f"{sandbox.github_url}/nix", timeout=60), range(10)))
    took = time.monotonic() - started
    assert len(answers) == 10
    assert 0.2 <= took < 1.0


def test_many_clients_get_what_one_gets(sandbox: Sandbox) -> None:
    expected = [page(sandbox, first).json() for first in range(1, 30)]

    def ask(first: int) -> Any:
        body = {"query": PAGE, "variables": {"first": first}}
        return requests.post(f"{sandbox.github_url}/graphql", json=body, headers=sandbox.headers, timeout=60).json()

    sandbox.settings(latency_ms=5)
    sandbox.forget_requests()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, list(range(1, 30)) * 4))
    assert answers == expected * 4
    assert sandbox.counts()["total"] == 116


def test_a_slow_answer_is_slow_once(sandbox: Sandbox) -> None:
    sandbox.fault("slow", seconds=0.4)
    took = []
    for _ in range(2):
        started = time.monotonic()
        assert page(sandbox).ok
        took.append(time.monotonic() - started)
    assert took[0] >= 0.4 > took[1]


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("/faults", {"kind": "earthquake"}, "there is no fault 'earthquake'; known: status"),
        ("/faults", {"kind": "slow", "match": {"host": "x"}}, "a fault cannot match on host"),
        ("/settings", {"latency": 1}, "there is no setting 'latency'; known: latency_ms"),
        ("/settings", {"latency_ms": -1}, "latency_ms has to be a number from 0 on, not -1"),
        ("/github/repositories", {"name": "x", "issue": 1}, "there is no size 'issue'; known: issues"),
        ("/github/repositories", {"name": "x/y"}, "name has to be a word"),
        ("/github/changes", {"kind": "rename"}, "there is no change 'rename'; known: close"),
        ("/github/changes", {"kind": "edit", "repository": "x/y"}, "there is no repository 'x/y'"),
        ("/github/changes", {"kind": "edit", "number": 9999}, "the change 'edit' of sandbox/handbook"),
    ],
)
def test_a_wrong_control_call_says_what_is_right(
    sandbox: Sandbox, path: str, body: dict[str, Any], sentence: str
) -> None:
    answer = sandbox.http.post(f"{sandbox.url}/_sandbox{path}", json=body, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(sentence)
