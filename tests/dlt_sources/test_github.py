"""A load of GitHub: all rows and child rows, typed and described columns."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dlt_sources.github import github_reactions, github_repo_events, github_stargazers, github_totals
from tests.support.sandbox import GithubApi
from tests.support.source_warehouse import SourceWarehouse

THREAD = {
    "repository_owner": "VARCHAR",
    "repository_name": "VARCHAR",
    "number": "BIGINT",
    "url": "VARCHAR",
    "title": "VARCHAR",
    "body": "VARCHAR",
    "state": "VARCHAR",
    "closed": "BOOLEAN",
    "author_association": "VARCHAR",
    "author__login": "VARCHAR",
    "author__avatar_url": "VARCHAR",
    "author__url": "VARCHAR",
    "created_at": "TIMESTAMP WITH TIME ZONE",
    "updated_at": "TIMESTAMP WITH TIME ZONE",
    "closed_at": "TIMESTAMP WITH TIME ZONE",
    "reactions_total_count": "BIGINT",
    "comments_total_count": "BIGINT",
}
COMMENT = {
    "id": "VARCHAR",
    "url": "VARCHAR",
    "body": "VARCHAR",
    "created_at": "TIMESTAMP WITH TIME ZONE",
    "author_association": "VARCHAR",
    "author__login": "VARCHAR",
    "author__avatar_url": "VARCHAR",
    "author__url": "VARCHAR",
    "reactions_total_count": "BIGINT",
}
USER = {"user__login": "VARCHAR", "user__avatar_url": "VARCHAR", "user__url": "VARCHAR"}
REACTION = {"content": "VARCHAR", "created_at": "TIMESTAMP WITH TIME ZONE"} | USER
EVENT = {
    "repository_owner": "VARCHAR",
    "repository_name": "VARCHAR",
    "id": "VARCHAR",
    "type": "VARCHAR",
    "created_at": "TIMESTAMP WITH TIME ZONE",
    "public": "BOOLEAN",
    "actor__id": "BIGINT",
    "actor__login": "VARCHAR",
    "repo__id": "BIGINT",
    "repo__name": "VARCHAR",
}


def test_creating_a_source_needs_no_secret_and_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCES__GITHUB__ACCESS_TOKEN", raising=False)
    assert set(github_reactions("o", "n").resources) == {"issues", "pull_requests"}
    assert set(github_stargazers("o", "n").resources) == {"stargazers"}
    assert set(github_repo_events("o", "n").resources) == {"repo_events"}


def test_all_rows_are_loaded_with_all_child_rows(github_api: GithubApi, any_warehouse: SourceWarehouse) -> None:
    loaded = any_warehouse.load(github_reactions("sandbox", "handbook"), github_stargazers("sandbox", "handbook"))
    totals = github_totals("sandbox", "handbook")
    assert totals == {"issues": 130, "pull_requests": 60, "stargazers": 90}
    assert {table: loaded[table] for table in totals} == totals
    for table in ("issues", "pull_requests"):
        for child in ("reactions", "comments"):
            counts = any_warehouse.rows(
                f"SELECT t.{child}_total_count, count(c._dlt_id) FROM {table} t LEFT JOIN {table}__{child} c "
                f"ON c._dlt_root_id = t._dlt_id GROUP BY t._dlt_id, t.{child}_total_count"
            )
            assert [row for row in counts if row[0] != row[1]] == []
            assert max(total for total, _ in counts) > 100
        distinct = any_warehouse.value(f"SELECT count(DISTINCT id) FROM {table}__comments")
        assert distinct == loaded[f"{table}__comments"]
        reacted = any_warehouse.rows(
            f"SELECT c.reactions_total_count, count(r._dlt_id) FROM {table}__comments c "
            f"LEFT JOIN {table}__comments__reactions r ON r._dlt_parent_id = c._dlt_id "
            "GROUP BY c._dlt_id, c.reactions_total_count"
        )
        assert all((total or 0) == count for total, count in reacted)
    assert any_warehouse.value("SELECT max(reactions_total_count) FROM issues__comments") > 100


def test_tables_have_the_documented_columns_and_types(github_api: GithubApi, any_warehouse: SourceWarehouse) -> None:
    any_warehouse.load(github_reactions("sandbox", "handbook"), github_stargazers("sandbox", "handbook"))
    for table in ("issues", "pull_requests"):
        assert any_warehouse.columns(table) == THREAD
        assert any_warehouse.columns(f"{table}__reactions") == REACTION
        assert any_warehouse.columns(f"{table}__comments") == COMMENT
        assert any_warehouse.columns(f"{table}__comments__reactions") == REACTION
    stargazer = {"repository_owner": "VARCHAR", "repository_name": "VARCHAR"} | USER
    assert any_warehouse.columns("stargazers") == stargazer | {"starred_at": "TIMESTAMP WITH TIME ZONE"}
    assert any_warehouse.undescribed(*any_warehouse.tables()) == set()


def test_an_empty_repository_creates_empty_tables_with_typed_columns(
    github_api: GithubApi, warehouse: SourceWarehouse
) -> None:
    warehouse.load(github_reactions("sandbox", "empty"), github_stargazers("sandbox", "empty"))
    assert warehouse.columns("issues") == warehouse.columns("pull_requests") == THREAD
    assert warehouse.value("SELECT count(*) FROM issues") == 0
    assert warehouse.value("SELECT count(*) FROM stargazers") == 0
    assert warehouse.load(github_repo_events("sandbox", "empty")) == {}


def test_a_deleted_account_becomes_null(github_api: GithubApi, warehouse: SourceWarehouse) -> None:
    warehouse.load(github_reactions("sandbox", "handbook"))
    for table in ("issues", "pull_requests", "issues__comments"):
        nobody = f"SELECT count(*) FROM {table} WHERE author__login IS NULL AND author__url IS NULL AND url <> ''"
        assert warehouse.value(nobody) > 0
    assert warehouse.value("SELECT count(*) FROM issues__reactions WHERE user__login IS NULL AND content <> ''") == 1


@pytest.mark.parametrize(("rows", "pages"), [(0, 1), (1, 1), (100, 1), (101, 2), (10_000, 100)])
def test_a_list_of_any_length_is_read_with_the_fewest_pages(
    github_api: GithubApi, warehouse: SourceWarehouse, rows: int, pages: int
) -> None:
    sizes = {"issues": rows, "pull_requests": rows, "stargazers": rows} if rows <= 101 else {"issues": rows}
    github_api.create_repository("paged", **sizes)
    github_api.sandbox.forget_requests()
    loaded = warehouse.load(github_reactions("sandbox", "paged"), github_stargazers("sandbox", "paged"))
    requests = github_api.sandbox.counts()["by_operation"]
    operations = {"issues": "Issues", "pull_requests": "PullRequests", "stargazers": "Stargazers"}
    for table in sizes:
        assert loaded[table] == rows
        assert warehouse.value(f"SELECT count(*) FROM {table}") == rows
        assert requests[operations[table]] == pages


def test_reactions_of_comments_are_read_in_batches(github_api: GithubApi, warehouse: SourceWarehouse) -> None:
    github_api.create_repository("loud", issues=10, comments_per_issue=11, reactions_per_comment=1)
    github_api.create_repository("calm", issues=10, comments_per_issue=11)
    github_api.sandbox.forget_requests()
    assert warehouse.load(github_reactions("sandbox", "loud"))["issues__comments__reactions"] == 110
    assert github_api.sandbox.counts()["by_operation"] == {"Issues": 1, "CommentReactions": 3, "PullRequests": 1}
    github_api.sandbox.forget_requests()
    warehouse.load(github_reactions("sandbox", "calm"))
    assert github_api.sandbox.counts()["by_operation"] == {"Issues": 1, "PullRequests": 1}


def test_each_type_of_event_has_its_own_table(github_api: GithubApi, warehouse: SourceWarehouse) -> None:
    loaded = warehouse.load(github_repo_events("sandbox", "handbook"))
    assert sum(loaded.values()) == 260
    assert {"push_event", "issues_event", "watch_event", "issue_comment_event"} <= set(loaded)
    for table, rows in loaded.items():
        columns = warehouse.columns(table)
        assert {name: columns.get(name) for name in EVENT} == EVENT
        assert not {f"{table}.{name}" for name in EVENT} & warehouse.undescribed(table)
        assert warehouse.value(f"SELECT count(DISTINCT id) FROM {table} WHERE repository_name = 'handbook'") == rows


def test_totals_exclude_rows_newer_than_the_load(github_api: GithubApi) -> None:
    before = datetime.now(UTC)
    created = datetime.fromisoformat(github_api.change("new_issue")["updated_at"])
    github_api.change("new_stargazer")
    assert github_totals("sandbox", "handbook") == {"issues": 131, "pull_requests": 60, "stargazers": 91}
    before = created - timedelta(seconds=1)
    totals = {"issues": 130, "pull_requests": 60, "stargazers": 90}
    assert github_totals("sandbox", "handbook", created_before=before) == totals
    long_ago = datetime(2020, 1, 1)  # noqa: DTZ001
    nothing = {"issues": 0, "pull_requests": 0, "stargazers": 0}
    assert github_totals("sandbox", "website", created_before=long_ago) == nothing


def test_the_command_loads_without_an_orchestrator(
    github_api: GithubApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    command = [sys.executable, "-m", "dlt_sources.github", "sandbox/handbook", "sandbox/empty", "--max-items", "5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("into dataset raw_github") == 2
    wrong = subprocess.run([*command[:3], "handbook"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "a repository is named owner/name" in wrong.stderr
