"""GitHub's failures: rate limits are waited for, timeouts halve the page, and messages say what to change."""

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

from dlt_sources.errors import PermanentSourceError, SourceError, TransientSourceError
from dlt_sources.github import github_reactions, github_repo_events, github_stargazers, github_totals
from dlt_sources.http import LimitError
from tests.support.sandbox import GithubApi
from tests.support.source_warehouse import SourceWarehouse


def read_stargazers(**options: Any) -> list[dict[str, Any]]:
    return list(github_stargazers("sandbox", "handbook", **options).resources["stargazers"])


def read_issues(name: str = "handbook", **options: Any) -> list[dict[str, Any]]:
    return list(github_reactions("sandbox", name, **options).resources["issues"])


def test_a_wrong_token_fails_without_a_retry(
    github_api: GithubApi, warehouse: SourceWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCES__GITHUB__ACCESS_TOKEN", "a-wrong-token")
    error = warehouse.load_error(github_reactions("sandbox", "handbook"))
    assert isinstance(error, PermanentSourceError)
    assert isinstance(error, TerminalException)
    assert "401" in str(error)
    assert "SOURCES__GITHUB__ACCESS_TOKEN" in str(error)
    assert "a-wrong-token" not in str(error)
    assert github_api.sandbox.counts()["total"] == 1


@pytest.mark.parametrize("token", [None, "", "  "])
def test_an_error_names_a_missing_token(
    github_api: GithubApi, warehouse: SourceWarehouse, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    monkeypatch.setenv("ACCESS_TOKEN", "somebody-else's")
    monkeypatch.delenv("SOURCES__GITHUB__ACCESS_TOKEN")
    if token is not None:
        monkeypatch.setenv("SOURCES__GITHUB__ACCESS_TOKEN", token)
    for source in (github_reactions("sandbox", "handbook"), github_repo_events("sandbox", "handbook")):
        error = warehouse.load_error(source)
        variable = "SOURCES__GITHUB__ACCESS_TOKEN"
        assert str(error) == f"{variable} is missing, empty or a placeholder: set it to read from GitHub."
        assert isinstance(error, PermanentSourceError)
    assert github_api.sandbox.counts()["total"] == 0


def test_variables_without_the_source_in_their_name_are_ignored(
    github_api: GithubApi, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_an_argument_takes_precedence_over_the_variable(github_api: GithubApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCES__GITHUB__ACCESS_TOKEN", "a-wrong-token")
    assert len(read_stargazers(access_token=github_api.token)) == 90
    assert github_totals("sandbox", "handbook", github_api.token)["stargazers"] == 90


def test_an_error_names_a_missing_scope(github_api: GithubApi) -> None:
    github_api.sandbox.fault(
        "status", status=403, message="Resource not accessible", headers={"X-Accepted-OAuth-Scopes": "repo"}
    )
    with pytest.raises(PermanentSourceError, match=r"403.*not accessible.*ACCESS_TOKEN needs .*scope repo\.$"):
        list(github_repo_events("sandbox", "handbook").resources["repo_events"])
    github_api.sandbox.fault("graphql_error", type="FORBIDDEN")
    with pytest.raises(PermanentSourceError, match=r"sandbox/handbook \(FORBIDDEN: .*ACCESS_TOKEN needs .*scope"):
        read_stargazers()
    assert github_api.sandbox.counts()["total"] == 2


def test_an_error_names_an_unknown_repository(github_api: GithubApi) -> None:
    with pytest.raises(PermanentSourceError, match=r"no repository sandbox/nowhere.*check owner and name"):
        read_issues("nowhere")
    with pytest.raises(PermanentSourceError, match=r"/repos/sandbox/nowhere/events.*404.*check the names"):
        list(github_repo_events("sandbox", "nowhere").resources["repo_events"])
    assert github_api.sandbox.counts()["total"] == 2


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
def test_a_load_waits_for_a_short_limit(github_api: GithubApi, kind: str, options: dict[str, Any]) -> None:
    github_api.sandbox.fault(kind, **options)
    start = time.monotonic()
    assert len(read_stargazers()) == 90
    waits = options.get("status") != 503  # a broken server only retries
    assert (time.monotonic() - start >= 0.4) is waits
    assert github_api.sandbox.counts()["total"] == 2


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        ("graphql_error", {"type": "RATE_LIMITED"}, "primary"),
        ("secondary_limit", {}, "secondary"),
        ("primary_limit", {}, "primary"),
    ],
)
def test_a_limit_longer_than_the_wait_fails_with_its_end(
    github_api: GithubApi, monkeypatch: pytest.MonkeyPatch, kind: str, options: dict[str, Any], name: str
) -> None:
    monkeypatch.setenv("SOURCES__GITHUB__MAX_WAIT", "5")
    github_api.sandbox.fault(kind, seconds=1_800, **options)
    sentence = f"GitHub's {name} rate limit is used up until {datetime.now(UTC):%Y}-.* UTC; .*MAX_WAIT"
    with pytest.raises(LimitError, match=sentence) as failure:
        read_stargazers()
    assert isinstance(failure.value, TransientException)
    assert failure.value.wait == pytest.approx(1_800, abs=5)
    assert github_api.sandbox.counts()["total"] == 1


def test_a_load_slows_down_before_it_reaches_the_limit(github_api: GithubApi) -> None:
    github_api.sandbox.settings(graphql_points=3, window_seconds=1)
    assert len(read_stargazers(items_per_page=20)) == 90
    assert github_api.sandbox.counts()["by_status"] == {"200": 5}
    assert not any(call["fault"] for call in github_api.sandbox.requests())


def test_an_issue_that_mentions_a_rate_limit_is_not_taken_for_one(github_api: GithubApi) -> None:
    github_api.change("new_issue", title="RATE_LIMITED", body='{"errors": [{"message": "secondary rate limit"}]}')
    assert len(read_issues()) == 131


@pytest.mark.parametrize("kind", ["connection_reset", "truncated_body"])
def test_a_broken_connection_is_retried(github_api: GithubApi, kind: str) -> None:
    github_api.sandbox.fault(kind)
    assert len(read_stargazers()) == 90
    github_api.sandbox.fault(kind, times=None)
    with pytest.raises(
        TransientSourceError, match=rf"connection to GitHub broke at {github_api.url}/graphql .* after 5 attempts"
    ):
        read_stargazers()
    assert github_api.sandbox.counts()["total"] == 2 + 5


def test_a_server_error_is_retried(github_api: GithubApi) -> None:
    github_api.sandbox.fault("status", status=500, times=4)
    assert len(read_stargazers()) == 90
    github_api.sandbox.fault("status", status=500, times=None)
    with pytest.raises(TransientSourceError, match=rf"failed at {github_api.url}/graphql \(500.* after 5 attempts"):
        read_stargazers()
    with pytest.raises(TransientSourceError, match=r"/events.* \(500.* after 5 attempts"):
        list(github_repo_events("sandbox", "handbook").resources["repo_events"])
    assert github_api.sandbox.counts()["total"] == 5 + 5 + 5


def test_a_malformed_body_fails_with_its_url(github_api: GithubApi) -> None:
    github_api.sandbox.fault("malformed_json", times=2)
    with pytest.raises(TransientSourceError, match=rf"invalid JSON \(\d+ bytes at {github_api.url}/graphql"):
        read_stargazers()
    with pytest.raises(TransientSourceError, match=r"invalid JSON \(\d+ bytes at .*/events\?per_page=100&page=1"):
        list(github_repo_events("sandbox", "handbook").resources["repo_events"])


def test_pages_that_time_out_are_halved_for_the_rest_of_the_load(github_api: GithubApi) -> None:
    github_api.sandbox.fault("heavy_page", first=30, times=None)
    rows = read_issues()
    assert len(rows) == 130
    assert all(len(row["comments"]) == row["comments_totalCount"] for row in rows)
    assert all(len(row["reactions"]) == row["reactions_totalCount"] for row in rows)
    calls = [call["fault"] for call in github_api.sandbox.requests() if call["operation"] == "Issues"]
    assert calls == ["heavy_page"] * 2 + [None] * 6  # 100, 50, then 25 to the end


@pytest.mark.parametrize(
    ("kind", "options"),
    [("graphql_error", {"type": "TIMEOUT"}), ("status", {"status": 502}), ("status", {"status": 504})],
)
def test_the_page_size_is_restored_after_an_outage(github_api: GithubApi, kind: str, options: dict[str, Any]) -> None:
    github_api.sandbox.fault(kind, times=8, **options)
    assert len(read_issues("website")) == 300
    calls = [call["fault"] for call in github_api.sandbox.requests() if call["operation"] == "Issues"]
    assert calls == [kind] * 8 + [None] * 4  # halved down to single items, then in hundreds again


def test_a_request_without_an_answer_halves_the_page(github_api: GithubApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCES__GITHUB__TIMEOUT", "0.5")
    github_api.sandbox.fault("slow", seconds=1)
    assert len(read_stargazers()) == 90
    assert github_api.sandbox.counts()["total"] == 3


def test_an_error_names_an_item_that_times_out_alone(github_api: GithubApi) -> None:
    github_api.sandbox.fault("heavy_page", nodes=0, times=None)
    with pytest.raises(TransientSourceError, match="Even a single item fails: sandbox/handbook, after cursor None"):
        read_issues()
    assert github_api.sandbox.counts()["total"] == 6 + 5  # 100, 50, 25, 12, 6, 3, then 1 for each attempt


def test_a_null_item_is_left_out_with_a_warning(
    github_api: GithubApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("dlt"), "propagate", True)
    github_api.sandbox.fault("null_node", connection="items")
    assert len(read_issues()) == 129
    assert "sandbox/handbook: GitHub returned null for 1 items" in caplog.text


def test_null_comments_and_reactions_become_rows_of_nulls(github_api: GithubApi, warehouse: SourceWarehouse) -> None:
    github_api.create_repository("nulls", issues=1, comments_per_issue=3, reactions_per_issue=3)
    github_api.sandbox.fault("null_node", connection="comments")
    warehouse.load(github_reactions("sandbox", "nulls").with_resources("issues"))
    github_api.sandbox.fault("null_node", connection="reactions")
    nulls = warehouse.value("SELECT count(*) FROM issues__comments WHERE id IS NULL AND author__login IS NULL")
    assert (nulls, warehouse.value("SELECT count(*) FROM issues__comments")) == (1, 3)
    warehouse.load(github_reactions("sandbox", "nulls", full_reload=True).with_resources("issues"))
    assert warehouse.value("SELECT count(*) FROM issues__reactions WHERE content IS NULL") == 1


@pytest.fixture
def forgetful() -> Iterator[ThreadingHTTPServer]:
    """A GitHub that counts two comments of an issue but always lists one; it records the names of `queries`."""
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


def test_an_incomplete_list_of_comments_is_read_again_with_a_warning(
    github_api: GithubApi, forgetful: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("dlt"), "propagate", True)
    monkeypatch.setenv("SOURCES__GITHUB__API_BASE_URL", f"http://127.0.0.1:{forgetful.server_port}")
    (row,) = read_issues()
    assert (len(row["comments"]), row["comments_totalCount"]) == (1, 2)
    assert forgetful.queries == ["Issues", "MoreComments"]
    assert "http://issue/1: GitHub counts 2 comments, but lists 1" in caplog.text


def test_no_message_contains_the_token(
    github_api: GithubApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("dlt"), "propagate", True)
    faults: list[tuple[str, dict[str, Any]]] = [
        ("status", {"status": 500, "times": 9, "message": f"Bearer {github_api.token} failed"}),
        ("status", {"status": 403, "message": f"{github_api.token} may not"}),
        ("status", {"status": 422, "message": f"{github_api.token} is wrong"}),
        ("connection_reset", {"times": 9}),
        ("graphql_error", {"type": "FORBIDDEN", "message": f"{github_api.token} may not"}),
        ("graphql_error", {"type": "SURPRISE", "message": f"{github_api.token} surprises"}),
    ]
    with caplog.at_level(logging.DEBUG, "dlt"):
        for kind, options in faults:
            github_api.sandbox.fault(kind, **options)
            with pytest.raises(SourceError) as failure:
                read_stargazers()
            chain: BaseException | None = failure.value
            while chain:
                assert github_api.token not in f"{chain} {chain!r}"
                chain = chain.__cause__ or chain.__context__
            github_api.sandbox.clear_faults()
    assert "Next attempt" in caplog.text
    assert github_api.token not in caplog.text
