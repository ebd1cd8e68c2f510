"""GitHub's data is reproducible, contains what breaks loaders, and changes only on request."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.sandbox import Sandbox, StartSandbox

EVERYTHING = """
query Everything($name: String!, $after: String) {
  repository(owner: "sandbox", name: $name) {
    issues(first: 50, after: $after) {
      pageInfo { hasNextPage endCursor }
      nodes {
        ...Parts
        id number title body state closed closedAt createdAt updatedAt
        comments(first: 50) { totalCount nodes { ...Parts id body createdAt updatedAt } }
      }
    }
  }
}
fragment Parts on Comment {
  author { __typename login url avatarUrl(size: 40) }
  authorAssociation
  ... on Reactable {
    reactions(first: 100) { totalCount nodes { content createdAt user { login } } }
    reactionGroups { content createdAt reactors { totalCount } }
  }
}
"""


def issues(sandbox: Sandbox, name: str = "handbook") -> list[dict[str, Any]]:
    """All issues with their first comments and reactions."""
    rows: list[dict[str, Any]] = []
    after, more = None, True
    while more:
        answer = sandbox.github.graphql(EVERYTHING, {"name": name, "after": after}).json()
        assert "errors" not in answer
        page = answer["data"]["repository"]["issues"]
        rows += page["nodes"]
        after, more = page["pageInfo"]["endCursor"], page["pageInfo"]["hasNextPage"]
    return rows


def thread(sandbox: Sandbox, number: int, selection: str, kind: str = "issue") -> dict[str, Any]:
    """One issue or pull request of the handbook."""
    query = f'{{repository(owner: "sandbox", name: "handbook") {{{kind}(number: {number}) {{{selection}}}}}}}'
    return dict(sandbox.github.graphql(query).json()["data"]["repository"][kind])


def test_the_same_seed_gives_the_same_bytes_in_every_process(start_sandbox: StartSandbox) -> None:
    first, second = start_sandbox(PYTHONHASHSEED="1"), start_sandbox(PYTHONHASHSEED="2")
    other = start_sandbox("--seed", "2")

    def answers(server: Sandbox) -> list[bytes]:
        pages = [server.github.graphql(EVERYTHING, {"name": name}).content for name in ("handbook", "engine")]
        host = {"Host": "sandbox"}
        return [*pages, server.github.get("/repos/sandbox/website/events?per_page=100", headers=host).content]

    assert answers(first) == answers(second)
    assert answers(first) != answers(other)


def test_the_handbook_contains_what_breaks_loaders(sandbox: Sandbox) -> None:
    rows = issues(sandbox)
    comments = [comment for row in rows for comment in row["comments"]["nodes"]]
    assert len(rows) == 130
    assert max(row["comments"]["totalCount"] for row in rows) > 130
    assert max(row["reactions"]["totalCount"] for row in rows) > 120
    assert max(comment["reactions"]["totalCount"] for comment in comments) > 110
    assert any(row["author"] is None for row in rows)
    assert any(comment["author"] is None for comment in comments)
    assert any(reaction["user"] is None for row in rows for reaction in row["reactions"]["nodes"])
    assert {row["author"]["__typename"] for row in rows if row["author"]} == {"User", "Bot"}
    bodies = [row["body"] for row in rows]
    assert "" in bodies
    assert max(map(len, bodies)) > 60_000
    assert any("\u202e" in body for body in bodies)
    assert any("👨\u200d👩\u200d👧\u200d👦" in body for body in bodies)


def test_reactions_states_and_times_are_consistent(sandbox: Sandbox) -> None:
    for row in issues(sandbox):
        for item in (row, *row["comments"]["nodes"]):
            reactions, groups = item["reactions"], item["reactionGroups"]
            assert len(groups) == 8
            if reactions["totalCount"] > len(reactions["nodes"]):
                continue
            for group in groups:
                own = [reaction for reaction in reactions["nodes"] if reaction["content"] == group["content"]]
                assert group["createdAt"] == min((reaction["createdAt"] for reaction in own), default=None)
                assert group["reactors"]["totalCount"] == sum(reaction["user"] is not None for reaction in own)
            pairs = [
                (reaction["user"]["login"], reaction["content"]) for reaction in reactions["nodes"] if reaction["user"]
            ]
            assert len(set(pairs)) == len(pairs)
        assert row["closed"] == (row["closedAt"] is not None) == (row["state"] == "CLOSED")
        assert row["createdAt"] <= row["updatedAt"]
        assert all(row["createdAt"] <= comment["createdAt"] <= row["updatedAt"] for comment in row["comments"]["nodes"])


def test_the_empty_repository_has_no_rows(sandbox: Sandbox) -> None:
    query = """{repository(owner: "sandbox", name: "empty") {issues(first: 1) {totalCount nodes {id}}
        pullRequests(first: 1) {totalCount nodes {id}} stargazers(first: 1) {totalCount edges {cursor}}}}"""
    found = sandbox.github.graphql(query).json()["data"]["repository"]
    assert found["issues"] == found["pullRequests"] == {"totalCount": 0, "nodes": []}
    assert found["stargazers"] == {"totalCount": 0, "edges": []}
    assert sandbox.github.get("/repos/sandbox/empty/events").json() == []


def test_a_repository_of_any_size_can_be_created(sandbox: Sandbox) -> None:
    sandbox.github.create_repository(
        "sized",
        issues=7,
        pull_requests=3,
        stargazers=101,
        events=20,
        comments_per_issue=4,
        comments_per_pull_request=2,
        reactions_per_issue=3,
        reactions_per_comment=5,
    )
    rows = issues(sandbox, "sized")
    assert [row["comments"]["totalCount"] for row in rows] == [4] * 7
    assert [row["reactions"]["totalCount"] for row in rows] == [3] * 7
    assert {c["reactions"]["totalCount"] for row in rows for c in row["comments"]["nodes"]} == {5}
    assert sandbox.github.get("/repos/sandbox/sized").json()["stargazers_count"] == 101
    assert len(sandbox.github.get("/repos/sandbox/sized/events").json()) == 20
    sandbox.reset()
    assert sandbox.github.get("/repos/sandbox/sized").status_code == 404


def test_node_finds_every_kind_of_row_by_id(sandbox: Sandbox) -> None:
    (row, *_) = [row for row in issues(sandbox) if row["comments"]["nodes"]]
    ids = [row["id"], row["comments"]["nodes"][0]["id"]]
    query = "query Nodes($ids: [ID!]!) {nodes(ids: $ids) {__typename id}}"
    sandbox.reset()
    nodes = sandbox.github.graphql(query, {"ids": ids}).json()["data"]["nodes"]
    assert [(node["__typename"], node["id"]) for node in nodes] == [("Issue", ids[0]), ("IssueComment", ids[1])]
    aliases = " ".join(f'a{place}: node(id: "{found}") {{id}}' for place, found in enumerate(ids))
    assert sandbox.github.graphql(f"{{{aliases}}}").json()["data"] == {"a0": {"id": ids[0]}, "a1": {"id": ids[1]}}


def test_changes_are_visible_until_a_reset(sandbox: Sandbox) -> None:
    before = issues(sandbox)
    new = sandbox.github.change("new_issue", title="Fresh")
    commented = sandbox.github.change("new_comment", number=before[0]["number"], body="Me too")
    closed = sandbox.github.change("close", merge=True)
    after = issues(sandbox)
    assert len(after) == len(before) + 1
    assert after[-1]["title"] == "Fresh"
    assert after[0]["updatedAt"] == commented["updated_at"] > max(row["updatedAt"] for row in before)
    assert after[0]["comments"]["totalCount"] == before[0]["comments"]["totalCount"] + 1
    merged = thread(sandbox, closed["number"], "state merged mergedAt closedAt updatedAt", "pullRequest")
    assert merged["state"] == "MERGED"
    assert merged["mergedAt"] == merged["closedAt"] == merged["updatedAt"] == closed["updated_at"]
    assert new["updated_at"] < commented["updated_at"] < closed["updated_at"]
    sandbox.reset()
    assert issues(sandbox) == before
    assert sandbox.github.change("new_issue", title="Fresh") == new


def test_rows_of_a_deleted_author_stay_without_an_author(sandbox: Sandbox) -> None:
    sandbox.github.change("new_issue", login="leaver")
    number = sandbox.github.change("new_issue", login="leaver")["number"]
    sandbox.github.change("delete_author", login="leaver")
    assert thread(sandbox, number, "author {login} title") == {"author": None, "title": "A new issue"}


def test_a_late_event_appears_behind_newer_ones(sandbox: Sandbox) -> None:
    path = "/repos/sandbox/handbook/events"
    before = sandbox.github.get(path).json()
    late = [sandbox.github.change("late_event", behind=2)["id"] for _ in range(3)]
    after = sandbox.github.get(path).json()
    assert [event["id"] for event in after[:2]] == [event["id"] for event in before[:2]]
    assert {event["id"] for event in after[2:5]} == set(late)
    assert after[2]["created_at"] < after[1]["created_at"]
    assert after[5] == before[2]


def test_an_events_payload_does_not_change_with_its_issue(sandbox: Sandbox) -> None:
    number = sandbox.github.change("new_issue", title="As it was")["number"]
    for _ in range(40):
        sandbox.github.change("new_event", event_type="IssuesEvent")
    path = "/repos/sandbox/handbook/events?per_page=100"
    before = sandbox.github.get(path).content
    for issue in range(1, number):
        sandbox.github.change("edit", number=issue, title="As it is now")
    assert sandbox.github.get(path).content == before


def test_a_new_star_is_the_newest(sandbox: Sandbox) -> None:
    star = sandbox.github.change("new_stargazer", login="fan")
    query = """{repository(owner: "sandbox", name: "handbook") {stargazerCount
        stargazers(first: 1, orderBy: {field: STARRED_AT, direction: DESC}) {edges {starredAt node {login}}}}}"""
    found = sandbox.github.graphql(query).json()["data"]["repository"]
    assert found["stargazerCount"] == 91
    assert found["stargazers"]["edges"] == [{"starredAt": star["starred_at"], "node": {"login": "fan"}}]


ARCHIVE = {
    "repo": "group/draft",
    "issues": [
        {
            "number": 2,
            "id": "MDU6SXNzdWUy",
            "title": "Typo",
            "state": "CLOSED",
            "author": "ann",
            "authorAssociation": "MEMBER",
            "body": "In section 3",
            "createdAt": "2015-01-01T00:00:00Z",
            "updatedAt": "2015-01-02T00:00:00Z",
            "closedAt": "2015-01-02T00:00:00Z",
            "comments": [
                {
                    "author": "bob",
                    "authorAssociation": "NONE",
                    "body": "Thanks",
                    "createdAt": "2015-01-01T10:00:00Z",
                    "updatedAt": "2015-01-01T10:00:00Z",
                }
            ],
        }
    ],
    "pulls": [],
}


def test_an_archive_is_served_as_it_was_recorded(start_sandbox: StartSandbox, tmp_path: Path) -> None:
    path = tmp_path / "archive.json"
    path.write_text(json.dumps(ARCHIVE), encoding="utf-8")
    server = start_sandbox(SANDBOX_GITHUB_ARCHIVES=str(path))
    query = """{node(id: "MDU6SXNzdWUy") {... on Issue {number url title author {login url} repository {nameWithOwner}
        comments(first: 9) {nodes {id body author {login}}} reactions(first: 9) {totalCount}}}}"""
    node = server.github.graphql(query).json()["data"]["node"]
    (comment,) = node.pop("comments")["nodes"]
    assert node == {
        "number": 2,
        "url": "https://github.com/group/draft/issues/2",
        "title": "Typo",
        "author": {"login": "ann", "url": "https://github.com/ann"},
        "repository": {"nameWithOwner": "group/draft"},
        "reactions": {"totalCount": 0},
    }
    assert (comment["body"], comment["author"]["login"]) == ("Thanks", "bob")
    assert comment["id"].startswith("IC_")
    assert server.github.get("/repos/group/draft/events").json() == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is not JSON"),
        ("[]", "is malformed"),
        ('{"repo": "group"}', "is malformed: its repo is 'group', not owner/name"),
        ('{"repo": "group/draft", "issues": []}', "is malformed: it lacks 'pulls'"),
        (json.dumps(ARCHIVE).replace('"title"', '"name"'), "is malformed: it lacks 'title'"),
    ],
)
def test_an_unreadable_archive_stops_the_start_with_an_error_message(
    tmp_path: Path, content: str | None, reason: str
) -> None:
    path = tmp_path / "archive.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-c", "from sandbox.__main__ import main; main()"],
        env={"SANDBOX_GITHUB_ARCHIVES": str(path), "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"the archive {path} ")
    assert reason in ended.stderr
    assert ended.stderr.count("\n") == 1
