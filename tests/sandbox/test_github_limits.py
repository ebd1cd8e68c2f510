"""GitHub's authentication, query costs and rate limits."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from tests.support.sandbox import Sandbox

VIEWER = "{viewer {login} rateLimit {limit cost remaining used nodeCount resetAt}}"


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "sandbox-token", "Basic sandbox-token"])
@pytest.mark.parametrize("path", ["/graphql", "/repos/sandbox/handbook"])
def test_a_missing_or_wrong_token_gets_status_401(sandbox: Sandbox, authorization: str | None, path: str) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    method = "POST" if path == "/graphql" else "GET"
    body = {"query": VIEWER} if method == "POST" else None
    response = sandbox.http.request(method, f"{sandbox.github.url}{path}", headers=headers, json=body, timeout=60)
    assert response.status_code == 401
    assert response.json()["message"] == "Bad credentials"


@pytest.mark.parametrize("scheme", ["bearer", "Bearer", "token"])
@pytest.mark.parametrize("path", ["/graphql", "/api/graphql"])
def test_the_token_is_accepted_in_both_schemes_and_at_both_paths(sandbox: Sandbox, scheme: str, path: str) -> None:
    headers = {"Authorization": f"{scheme} {sandbox.github.token}"}
    response = sandbox.http.post(
        f"{sandbox.github.url}{path}", json={"query": "{viewer {login}}"}, headers=headers, timeout=60
    )
    assert response.json() == {"data": {"viewer": {"login": "sandbox-user"}}}


def test_a_querys_cost_follows_githubs_formula(sandbox: Sandbox) -> None:
    query = """{repository(owner: "sandbox", name: "website") {
        issues(first: 100) {nodes {comments(first: 50) {nodes {reactions(first: 10) {nodes {content}}}}}}}
        rateLimit {cost nodeCount remaining used}}"""
    limit = sandbox.github.graphql(query).json()["data"]["rateLimit"]
    requests = 1 + 100 + 100 * 50
    assert limit == {
        "cost": round(requests / 100),
        "nodeCount": 100 + 100 * 50 + 100 * 50 * 10,
        "remaining": 5_000 - 51,
        "used": 51,
    }
    assert sandbox.counts()["cost"] == 51


def test_an_exhausted_graphql_limit_gets_status_200_until_its_reset(sandbox: Sandbox) -> None:
    sandbox.settings(graphql_points=2, window_seconds=1)
    left = [sandbox.github.graphql(VIEWER).json()["data"]["rateLimit"]["remaining"] for _ in range(2)]
    refused = sandbox.github.graphql(VIEWER)
    assert left == [1, 0]
    assert refused.status_code == 200
    assert refused.json()["errors"][0]["type"] == "RATE_LIMITED"
    assert refused.headers["x-ratelimit-remaining"] == "0"
    time.sleep(max(0.0, int(refused.headers["x-ratelimit-reset"]) - time.time()))
    limit = sandbox.github.graphql(VIEWER).json()["data"]["rateLimit"]
    assert limit["remaining"] == 1
    assert datetime.fromisoformat(limit["resetAt"]) > datetime.now(UTC)


def test_rest_has_a_limit_of_its_own(sandbox: Sandbox) -> None:
    sandbox.settings(rest_requests=1, window_seconds=60)
    assert sandbox.github.get("/repos/sandbox/handbook").headers["x-ratelimit-remaining"] == "0"
    refused = sandbox.github.get("/repos/sandbox/handbook")
    assert (refused.status_code, refused.headers["x-ratelimit-remaining"]) == (403, "0")
    assert refused.json()["message"].startswith("API rate limit exceeded")
    resources = sandbox.github.get("/rate_limit").json()["resources"]
    assert resources["core"] | {"reset": 0} == {"limit": 1, "used": 1, "remaining": 0, "reset": 0}
    assert resources["graphql"]["remaining"] == 5_000


def test_too_many_requests_per_minute_hit_the_secondary_limit(sandbox: Sandbox) -> None:
    sandbox.settings(graphql_points_per_minute=1)
    assert sandbox.github.graphql(VIEWER).status_code == 200
    refused = sandbox.github.graphql(VIEWER)
    assert refused.status_code == 403
    assert "secondary rate limit" in refused.json()["message"]
    assert 1 <= int(refused.headers["retry-after"]) <= 60


def test_a_missing_object_is_null_with_an_error(sandbox: Sandbox) -> None:
    answer = sandbox.github.graphql('{repository(owner: "sandbox", name: "nothing") {id}}')
    assert answer.status_code == 200
    assert answer.json() == {
        "data": {"repository": None},
        "errors": [
            {
                "type": "NOT_FOUND",
                "path": ["repository"],
                "locations": [{"line": 1, "column": 2}],
                "message": "Could not resolve to a Repository with the name 'sandbox/nothing'.",
            }
        ],
    }
    nodes = sandbox.github.graphql('{nodes(ids: ["nonsense"]) {id}}').json()
    assert nodes["data"] == {"nodes": [None]}
    assert nodes["errors"][0]["type"] == "NOT_FOUND"
    assert sandbox.github.get("/repos/sandbox/nothing/events").status_code == 404


def test_a_query_that_does_not_match_the_schema_is_rejected(sandbox: Sandbox) -> None:
    answer = sandbox.github.graphql("{repository(owner: 1, name: 2) {stars}}").json()
    assert "data" not in answer
    assert any("stars" in error["message"] for error in answer["errors"])
