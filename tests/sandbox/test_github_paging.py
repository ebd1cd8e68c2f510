"""GitHub's paging returns every row once, at page boundaries and while the data changes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.sandbox import Sandbox

ISSUES = """
query Issues($name: String!, $first: Int, $last: Int, $after: String, $before: String, $order: IssueOrder) {
  repository(owner: "sandbox", name: $name) {
    issues(first: $first, last: $last, after: $after, before: $before, orderBy: $order) {
      totalCount
      nodes { number updatedAt }
      pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
    }
  }
}
"""
STARS = """
query Stars($name: String!, $after: String) {
  repository(owner: "sandbox", name: $name) {
    stargazers(first: 100, after: $after, orderBy: {field: STARRED_AT, direction: DESC}) {
      totalCount
      edges { starredAt cursor node { login } }
      pageInfo { hasNextPage endCursor }
    }
  }
}
"""
NEWEST_FIRST = {"field": "UPDATED_AT", "direction": "DESC"}


def issues(sandbox: Sandbox, **variables: Any) -> dict[str, Any]:
    """One page of issues."""
    answer = sandbox.github.graphql(ISSUES, variables).json()
    assert "errors" not in answer
    return dict(answer["data"]["repository"]["issues"])


def all_issues(sandbox: Sandbox, name: str, first: int = 100) -> tuple[list[int], int]:
    """The numbers of all issues, newest change first, and how many pages that took."""
    numbers: list[int] = []
    pages, after = 0, None
    while True:
        page = issues(sandbox, name=name, first=first, after=after, order=NEWEST_FIRST)
        numbers += [row["number"] for row in page["nodes"]]
        pages += 1
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            return numbers, pages


@pytest.mark.parametrize(("rows", "pages"), [(0, 1), (1, 1), (100, 1), (101, 2), (10_000, 100)])
def test_paging_returns_every_issue_once(sandbox: Sandbox, rows: int, pages: int) -> None:
    sandbox.github.create_repository("sized", issues=rows)
    numbers, took = all_issues(sandbox, "sized")
    assert (len(numbers), len(set(numbers)), took) == (rows, rows, pages)
    assert issues(sandbox, name="sized", first=1)["totalCount"] == rows


def test_paging_returns_stargazers_once_and_newest_first(sandbox: Sandbox) -> None:
    edges: list[dict[str, Any]] = []
    after, more = None, True
    while more:
        data = sandbox.github.graphql(STARS, {"name": "website", "after": after}).json()["data"]
        page = data["repository"]["stargazers"]
        edges += page["edges"]
        after, more = page["pageInfo"]["endCursor"], page["pageInfo"]["hasNextPage"]
    assert len({edge["node"]["login"] for edge in edges}) == len(edges) == page["totalCount"] == 450
    dates = [edge["starredAt"] for edge in edges]
    assert dates == sorted(dates, reverse=True)


def test_backward_paging_returns_the_same_rows(sandbox: Sandbox) -> None:
    forwards, _ = all_issues(sandbox, "website")
    backwards: list[int] = []
    before = None
    while True:
        page = issues(sandbox, name="website", last=70, before=before, order=NEWEST_FIRST)
        backwards = [row["number"] for row in page["nodes"]] + backwards
        before = page["pageInfo"]["startCursor"]
        if not page["pageInfo"]["hasPreviousPage"]:
            break
    assert backwards == forwards


def test_many_issues_share_a_second(sandbox: Sandbox) -> None:
    rows = issues(sandbox, name="website", first=100, order=NEWEST_FIRST)["nodes"]
    assert len({row["updatedAt"] for row in rows}) < len(rows) - 10


def test_a_cursor_stays_valid_when_rows_before_and_after_it_change(sandbox: Sandbox) -> None:
    expected, _ = all_issues(sandbox, "website")
    first = issues(sandbox, name="website", first=100, order=NEWEST_FIRST)
    sandbox.github.change("new_issue", "sandbox/website")
    sandbox.github.change("edit", "sandbox/website", number=first["nodes"][50]["number"], title="Moved to the front")
    cursor = first["pageInfo"]["endCursor"]
    second = issues(sandbox, name="website", first=100, after=cursor, order=NEWEST_FIRST)
    assert [row["number"] for row in second["nodes"]] == expected[100:200]


def test_a_cursor_stays_valid_when_its_own_row_moves(sandbox: Sandbox) -> None:
    expected, _ = all_issues(sandbox, "website")
    first = issues(sandbox, name="website", first=100, order=NEWEST_FIRST)
    sandbox.github.change("edit", "sandbox/website", number=expected[99], title="The last of the page")
    cursor = first["pageInfo"]["endCursor"]
    second = issues(sandbox, name="website", first=100, after=cursor, order=NEWEST_FIRST)
    assert [row["number"] for row in second["nodes"]] == expected[100:200]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ("", "MISSING_PAGINATION_BOUNDARIES", "You must provide a `first` or `last` value"),
        ("(first: 101)", "EXCESSIVE_PAGINATION", "exceeds the `first` limit of 100 records"),
        ("(last: 101)", "EXCESSIVE_PAGINATION", "exceeds the `last` limit of 100 records"),
        ("(first: 1, last: 1)", "INVALID_PAGINATION_BOUNDARIES", "Passing both `first` and `last`"),
        ('(first: 1, after: "bm9uc2Vuc2U=")', "INVALID_CURSOR_ARGUMENTS", "`bm9uc2Vuc2U=` does not appear to be a"),
    ],
)
def test_wrong_paging_arguments_get_githubs_errors(sandbox: Sandbox, arguments: str, kind: str, message: str) -> None:
    rows = f"rows: issues{arguments} {{nodes {{number}}}}"
    response = sandbox.github.graphql(f'{{repository(owner: "sandbox", name: "website") {{{rows}}}}}')
    (error,) = response.json()["errors"]
    assert response.status_code == 200
    assert (error["type"], error["path"]) == (kind, ["repository", "rows"])
    assert message in error["message"]
    assert error["locations"] == [{"line": 1, "column": 49}]


def test_a_total_count_needs_no_page_size(sandbox: Sandbox) -> None:
    answer = sandbox.github.graphql('{repository(owner: "sandbox", name: "website") {issues {totalCount}}}').json()
    assert answer == {"data": {"repository": {"issues": {"totalCount": 300}}}}


def test_a_query_for_too_many_nodes_is_rejected(sandbox: Sandbox) -> None:
    query = """query Huge($n: Int!) {repository(owner: "sandbox", name: "website") {issues(first: $n) {nodes {
        comments(first: $n) {nodes {reactions(first: $n) {nodes {content}}}}}}}}"""
    (error,) = sandbox.github.graphql(query, {"n": 100}).json()["errors"]
    assert error["type"] == "MAX_NODE_LIMIT_EXCEEDED"
    assert "1,010,100 possible nodes" in error["message"]
    assert "errors" not in sandbox.github.graphql(query, {"n": 50}).json()


def test_issues_can_be_filtered_by_their_last_change(sandbox: Sandbox) -> None:
    query = """query Since($since: DateTime!) {repository(owner: "sandbox", name: "handbook") {
        issues(first: 100, filterBy: {since: $since}) {totalCount nodes {number updatedAt}}}}"""
    number = issues(sandbox, name="handbook", first=1)["nodes"][0]["number"]
    changed = sandbox.github.change("edit", number=number, title="New")
    for since in (changed["updated_at"], changed["updated_at"].replace("Z", "+00:00")):
        page = sandbox.github.graphql(query, {"since": since}).json()["data"]["repository"]["issues"]
        assert page == {"totalCount": 1, "nodes": [{"number": number, "updatedAt": changed["updated_at"]}]}


@pytest.mark.parametrize("prefix", ["", "/api/v3"])
def test_rest_links_lead_through_all_pages(sandbox: Sandbox, prefix: str) -> None:
    sandbox.github.create_repository("sized", issues=150, pull_requests=51)
    response = sandbox.github.get(f"{prefix}/repos/sandbox/sized/issues?state=all&per_page=100")
    rows = response.json()
    assert set(response.links) == {"next", "last"}
    while "next" in response.links:
        address = response.links["next"]["url"]
        assert address.startswith(f"{sandbox.github.url}{prefix}/repos/")
        response = sandbox.http.get(address, headers=sandbox.github.headers, timeout=60)
        rows += response.json()
    assert set(response.links) == {"prev", "first"}
    assert len({row["number"] for row in rows}) == len(rows) == 201
    assert sum("pull_request" in row for row in rows) == 51


def test_rest_links_have_the_host_of_the_request(sandbox: Sandbox) -> None:
    response = sandbox.github.get("/repos/sandbox/website/events", headers={"Host": "sandbox:8000"})
    assert response.links["next"]["url"] == "http://sandbox:8000/github/repos/sandbox/website/events?page=2"
    assert response.json()[0]["repo"]["url"] == "http://sandbox:8000/github/repos/sandbox/website"


def test_the_events_feed_has_at_most_300_events(sandbox: Sandbox) -> None:
    sandbox.github.create_repository("busy", issues=3, events=1_000)
    last = sandbox.github.get("/repos/sandbox/busy/events?per_page=100&page=3")
    assert len(last.json()) == 100
    assert "next" not in last.links


def test_an_unchanged_response_gets_status_304(sandbox: Sandbox) -> None:
    path = "/repos/sandbox/website/events"
    first = sandbox.github.get(path)
    assert first.headers["x-poll-interval"] == "60"
    known = {"If-None-Match": first.headers["etag"]}
    again = sandbox.github.get(path, headers=known)
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["x-ratelimit-used"] == first.headers["x-ratelimit-used"]
    sandbox.github.change("new_event", "sandbox/website")
    assert sandbox.github.get(path, headers=known).status_code == 200
