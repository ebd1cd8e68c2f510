"""What goes wrong at GitHub: waited for, asked again in smaller pieces, or told in a sentence that says what to do."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from dlt.common.exceptions import TerminalException, TransientException

from dlt_sources.github import github_reactions, github_repo_events, github_stargazers, github_totals
from dlt_sources.http import LimitError, PermanentSourceError, SourceError, TransientSourceError
from tests.conftest import Sandbox
from tests.dlt_sources.conftest import Warehouse


def read_stargazers(**options: Any) -> list[dict[str, Any]]:
    return list(github_stargazers("sandbox", "handbook", **options).resources["stargazers"])


def read_issues(name: str = "handbook", **options: Any) -> list[dict[str, Any]]:
    return list(github_reactions("sandbox", name, **options).resources["issues"])


def test_a_wrong_token_fails_at_once(github: Sandbox, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCES__GITHUB__ACCESS_TOKEN", "a-wrong-token")
    error = warehouse.refused(github_reactions("sandbox", "handbook"))
    assert isinstance(error, PermanentSourceError)
    assert isinstance(error, TerminalException)
    assert "401" in str(error)
    assert "SOURCES__GITHUB__ACCESS_TOKEN" in str(error)
    assert "a-wrong-token" not in str(error)
    assert github.counts()["total"] == 1


@pytest.mark.parametrize("token", [None, "", "  "])
def test_a_missing_token_is_named(
    github: Sandbox, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    monkeypatch.setenv("ACCESS_TOKEN", "somebody-else's")
    monkeypatch.delenv("SOURCES__GITHUB__ACCESS_TOKEN")
    if token is not None:
        monkeypatch.setenv("SOURCES__GITHUB__ACCESS_TOKEN", token)
    for source in (github_reactions("sandbox", "handbook"), github_repo_events("sandbox", "handbook")):
        error = warehouse.refused(source)
        assert str(error) == "SOURCES__GITHUB__ACCESS_TOKEN is missing or empty: set it to read from GitHub."
        assert isinstance(error, PermanentSourceError)
    assert github.counts()["total"] == 0


def test_bare_variables_change_nothing(github: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = {
        "ACCESS_TOKEN": "other",
        "OWNER": "other",
        "NAME": "other",
        "MAX_ITEMS": "1",
        "API_BASE_URL": "http://other",
    }
    for name, value in bare.items():
        monkeypatch.setenv(name, value)
    assert len(read_stargazers()) == 90


def test_an_argument_wins_over_the_variable(github: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCES__GITHUB__ACCESS_TOKEN", "a-wrong-token")
    assert len(read_stargazers(access_token=github.token)) == 90
    assert github_totals("sandbox", "handbook", github.token)["stargazers"] == 90


def test_a_missing_scope_is_named(github: Sandbox) -> None:
    github.fault("status", status=403, message="Resource not accessible", headers={"X-Accepted-OAuth-Scopes": "repo"})
    with pytest.raises(PermanentSourceError, match=r"403.*not accessible.*ACCESS_TOKEN needs .*scope repo\.$"):
        list(github_repo_events("sandbox", "handbook").resources["repo_events"])
    github.fault("graphql_error", type="FORBIDDEN")
    with pytest.raises(PermanentSourceError, match=r"sandbox/handbook \(FORBIDDEN: .*ACCESS_TOKEN needs .*scope"):
        read_stargazers()
    assert github.counts()["total"] == 2


def test_an_unknown_repository_is_named(github: Sandbox) -> None:
    with pytest.raises(PermanentSourceError, match=r"no repository sandbox/nowhere.*check owner and name"):
        read_issues("nowhere")
    with pytest.raises(PermanentSourceError, match=r"/repos/sandbox/nowhere/events.*404.*check the names"):
        list(github_repo_events("sandbox", "nowhere").resources["repo_events"])
    assert github.counts()["total"] == 2


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("graphql_error", {"type": "RATE_LIMITED"}),
        ("secondary_limit", {}),
        ("primary_limit", {}),
        ("status", {"status": 429, "retry_after": 1}),
        ("status", {"status": 503, "retry_after": 1}),
    ],
)
def test_a_short_limit_is_waited_for(github: Sandbox, kind: str, options: dict[str, Any]) -> None:
    github.fault(kind, **options)
    start = time.monotonic()
    assert len(read_stargazers()) == 90
    waits = options.get("status") != 503  # a broken server only retries
    assert (time.monotonic() - start >= 0.4) is waits
    assert github.counts()["total"] == 2


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        ("graphql_error", {"type": "RATE_LIMITED"}, "primary"),
        ("secondary_limit", {}, "secondary"),
        ("primary_limit", {}, "primary"),
    ],
)
def test_a_long_limit_ends_the_load_and_says_until_when(
    github: Sandbox, monkeypatch: pytest.MonkeyPatch, kind: str, options: dict[str, Any], name: str
) -> None:
    monkeypatch.setenv("SOURCES__GITHUB__MAX_WAIT", "5")
    github.fault(kind, seconds=1_800, **options)
    sentence = f"GitHub's {name} rate limit is used up until {datetime.now(UTC):%Y}-.* UTC; .*MAX_WAIT"
    with pytest.raises(LimitError, match=sentence) as failure:
        read_stargazers()
    assert isinstance(failure.value, TransientException)
    assert failure.value.wait == pytest.approx(1_800, abs=5)
    assert github.counts()["total"] == 1


def test_it_slows_down_ahead_of_the_limit(github: Sandbox) -> None:
    github.settings(graphql_points=3, window_seconds=1)
    assert len(read_stargazers(items_per_page=20)) == 90
    assert github.counts()["by_status"] == {"200": 5}
    assert not any(call["fault"] for call in github.requests())


def test_words_about_limits_in_an_issue_are_no_limit(github: Sandbox) -> None:
    github.change("new_issue", title="RATE_LIMITED", body='{"errors": [{"message": "secondary rate limit"}]}')
    assert len(read_issues()) == 131


@pytest.mark.parametrize("kind", ["connection_reset", "truncated_body"])
def test_a_broken_connection_is_tried_again(github: Sandbox, kind: str) -> None:
    github.fault(kind)
    assert len(read_stargazers()) == 90
    github.fault(kind, times=None)
    with pytest.raises(TransientSourceError, match=rf"broke off at {github.github_url}/graphql .* after 5 attempts"):
        read_stargazers()
    assert github.counts()["total"] == 2 + 5


def test_a_broken_server_is_tried_again(github: Sandbox) -> None:
    github.fault("status", status=500, times=4)
    assert len(read_stargazers()) == 90
    github.fault("status", status=500, times=None)
    with pytest.raises(TransientSourceError, match=rf"failed at {github.github_url}/graphql \(500.* after 5 attempts"):
        read_stargazers()
    with pytest.raises(TransientSourceError, match=r"/events.* \(500.* after 5 attempts"):
        list(github_repo_events("sandbox", "handbook").resources["repo_events"])
    assert github.counts()["total"] == 5 + 5 + 5


def test_a_malformed_body_names_its_address(github: Sandbox) -> None:
    github.fault("malformed_json", times=2)
    with pytest.raises(TransientSourceError, match=rf"no valid JSON \(\d+ bytes at {github.github_url}/graphql"):
        read_stargazers()
    with pytest.raises(TransientSourceError, match=r"no valid JSON \(\d+ bytes at .*/events\?per_page=100&page=1"):
        list(github_repo_events("sandbox", "handbook").resources["repo_events"])


def test_heavy_pages_are_halved_and_stay_so(github: Sandbox) -> None:
    github.fault("heavy_page", first=30, times=None)
    rows = read_issues()
    assert len(rows) == 130
    assert all(len(row["comments"]) == row["comments_totalCount"] for row in rows)
    assert all(len(row["reactions"]) == row["reactions_totalCount"] for row in rows)
    calls = [call["fault"] for call in github.requests() if call["operation"] == "Issues"]
    assert calls == ["heavy_page"] * 2 + [None] * 6  # 100, 50, then 25 to the end


@pytest.mark.parametrize(
    ("kind", "options"),
    [("graphql_error", {"type": "TIMEOUT"}), ("status", {"status": 502}), ("status", {"status": 504})],
)
def test_an_outage_leaves_no_tiny_pages(github: Sandbox, kind: str, options: dict[str, Any]) -> None:
    github.fault(kind, times=8, **options)
    assert len(read_issues("website")) == 300
    calls = [call["fault"] for call in github.requests() if call["operation"] == "Issues"]
    assert calls == [kind] * 8 + [None] * 4  # down to 1 that fails as well, 1, and the rest in hundreds


def test_a_request_without_answer_asks_for_less(github: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCES__GITHUB__TIMEOUT", "0.5")
    github.fault("slow", seconds=1)
    assert len(read_stargazers()) == 90
    assert github.counts()["total"] == 3


def test_an_item_too_heavy_alone_is_named(github: Sandbox) -> None:
    github.fault("heavy_page", nodes=0, times=None)
    with pytest.raises(TransientSourceError, match="Even a single item fails: sandbox/handbook, after cursor None"):
        read_issues()
    assert github.counts()["total"] == 6 + 5  # 100, 50, 25, 12, 6, 3, and 1 as often as any request is tried


def test_a_null_among_the_items_is_left_out_and_told(
    github: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("dlt"), "propagate", True)
    github.fault("null_node", connection="items")
    assert len(read_issues()) == 129
    assert "sandbox/handbook: GitHub hides 1 items" in caplog.text


def test_a_null_among_comments_and_reactions_is_kept(github: Sandbox, warehouse: Warehouse) -> None:
    github.create_repository("nulls", issues=1, comments_per_issue=3, reactions_per_issue=3)
    github.fault("null_node", connection="comments")
    warehouse.load(github_reactions("sandbox", "nulls").with_resources("issues"))
    github.fault("null_node", connection="reactions")
    nulls = warehouse.value("SELECT count(*) FROM issues__comments WHERE id IS NULL AND author__login IS NULL")
    assert (nulls, warehouse.value("SELECT count(*) FROM issues__comments")) == (1, 3)
    warehouse.load(github_reactions("sandbox", "nulls", full_reload=True).with_resources("issues"))
    assert warehouse.value("SELECT count(*) FROM issues__reactions WHERE content IS NULL") == 1


@pytest.fixture
def forgetful() -> Iterator[ThreadingHTTPServer]:
    """A GitHub that counts two comments of an issue, but lists one, in each answer; `queries` is what it was asked."""
    queries: list[str] = []
    people: dict[str, Any] = {"author": None, "authorAssociation": "NONE", "createdAt": "2026-01-01T00:00:00Z"}
    page = {"hasNextPage": False, "endCursor": None}
    comment = {"id": "C1", "url": "c", "body": "b", "reactionGroups": None} | people
    comments = {"totalCount": 2, "pageInfo": page, "nodes": [comment]}
    issue: dict[str, Any] = {
        "id": "I1",
        "number": 1,
        "url": "http://issue/1",
        "title": "t",
        "body": "",
        "state": "OPEN",
    }
    issue |= {"closed": False, "closedAt": None, "updatedAt": "2026-01-01T00:00:00Z", "comments": comments} | people
    issue["reactions"] = {"totalCount": 0, "pageInfo": page, "nodes": []}
    answers = {
        "Issues": {"repository": {"items": {"totalCount": 1, "pageInfo": page, "nodes": [issue]}}},
        "MoreComments": {"node": {"comments": comments}},
    }

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            queries.append(body["query"].split("(")[0].removeprefix("query "))
            answer = json.dumps({"data": answers[queries[-1]]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.queries = queries  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


def test_children_that_do_not_add_up_are_read_again_and_told(
    github: Sandbox, forgetful: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("dlt"), "propagate", True)
    monkeypatch.setenv("SOURCES__GITHUB__API_BASE_URL", f"http://127.0.0.1:{forgetful.server_port}")
    (row,) = read_issues()
    assert (len(row["comments"]), row["comments_totalCount"]) == (1, 2)
    assert forgetful.queries == ["Issues", "MoreComments"]
    assert "http://issue/1: GitHub counts 2 comments, but lists 1" in caplog.text


def test_the_token_is_in_no_message(
    github: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("dlt"), "propagate", True)
    faults: list[tuple[str, dict[str, Any]]] = [
        ("status", {"status": 500, "times": 9, "message": f"Bearer {github.token} failed"}),
        ("status", {"status": 403, "message": f"{github.token} may not"}),
        ("status", {"status": 422, "message": f"{github.token} is wrong"}),
        ("connection_reset", {"times": 9}),
        ("graphql_error", {"type": "FORBIDDEN", "message": f"{github.token} may not"}),
        ("graphql_error", {"type": "SURPRISE", "message": f"{github.token} surprises"}),
    ]
    with caplog.at_level(logging.DEBUG, "dlt"):
        for kind, options in faults:
            github.fault(kind, **options)
            with pytest.raises(SourceError) as failure:
                read_stargazers()
            chain: BaseException | None = failure.value
            while chain:
                assert github.token not in f"{chain} {chain!r}"
                chain = chain.__cause__ or chain.__context__
            github.clear_faults()
    assert "Next attempt" in caplog.text
    assert github.token not in caplog.text
