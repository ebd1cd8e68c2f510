"""A second load of GitHub: all changes, and nothing else."""

from collections import Counter
from typing import Any

import pytest
from dlt.extract import DltSource

from dlt_sources.errors import PermanentSourceError
from dlt_sources.github import github_reactions, github_repo_events, github_stargazers
from tests.support.sandbox import GithubApi
from tests.support.source_warehouse import SourceWarehouse


def handbook(**options: Any) -> list[DltSource]:
    return [github_reactions("sandbox", "handbook", **options), github_stargazers("sandbox", "handbook", **options)]


def test_a_second_load_loads_nothing_with_one_request_per_table(
    github_api: GithubApi, warehouse: SourceWarehouse
) -> None:
    warehouse.extract(*handbook(), github_repo_events("sandbox", "handbook"))
    github_api.sandbox.forget_requests()
    assert warehouse.extract(*handbook(), github_repo_events("sandbox", "handbook")) == {}
    counts = github_api.sandbox.counts()
    assert counts["by_operation"] == {"Issues": 1, "PullRequests": 1, "Stargazers": 1}
    assert counts["by_status"] == {"200": 3, "304": 3}


def test_a_load_on_another_machine_continues_from_the_state_in_the_warehouse(
    github_api: GithubApi, warehouse: SourceWarehouse
) -> None:
    warehouse.load(*handbook())
    warehouse.pipeline = warehouse.fresh_pipeline("elsewhere")
    assert warehouse.load(*handbook()) == {}


def test_only_changed_rows_are_loaded_with_their_children(
    github_api: GithubApi, any_warehouse: SourceWarehouse
) -> None:
    any_warehouse.load(*handbook())
    issue = any_warehouse.value("SELECT min(number) FROM issues")
    github_api.change("edit", number=issue, title="Changed")
    github_api.change("new_comment", number=issue, body="And another")
    merged = github_api.change("close", merge=True)["number"]
    github_api.change("new_stargazer", login="late-riser")
    github_api.sandbox.forget_requests()
    loaded = any_warehouse.load(*handbook())
    assert [loaded[table] for table in ("issues", "pull_requests", "stargazers")] == [1, 1, 1]
    requests = github_api.sandbox.counts()["by_operation"]
    assert [requests[name] for name in ("Issues", "PullRequests", "Stargazers")] == [1, 1, 1]
    assert any_warehouse.rows(f"SELECT state, closed FROM pull_requests WHERE number = {merged}") == [("MERGED", True)]
    assert any_warehouse.value(f"SELECT title FROM issues WHERE number = {issue}") == "Changed"
    assert any_warehouse.value("SELECT count(*) FROM issues__comments WHERE body = 'And another'") == 1
    for table, rows in {"issues": 130, "pull_requests": 60, "stargazers": 91}.items():
        assert any_warehouse.value(f"SELECT count(*) FROM {table}") == rows


@pytest.mark.parametrize("table", ["issues", "pull_requests"])
def test_a_change_within_the_second_of_the_cursor_is_loaded(
    github_api: GithubApi, warehouse: SourceWarehouse, table: str
) -> None:
    warehouse.load(*handbook())
    (newest,) = warehouse.rows(f"SELECT number, reactions_total_count FROM {table} ORDER BY updated_at DESC LIMIT 1")
    github_api.change("new_reaction", number=newest[0])  # which does not move updatedAt
    loaded = warehouse.load(*handbook())
    assert {name: rows for name, rows in loaded.items() if "__" not in name} == {table: 1}
    total = warehouse.value(f"SELECT reactions_total_count FROM {table} WHERE number = {newest[0]}")
    assert total == newest[1] + 1
    assert warehouse.load(*handbook()) == {}


def test_each_repository_of_a_pipeline_has_its_own_cursor(github_api: GithubApi, warehouse: SourceWarehouse) -> None:
    github_api.change("new_issue", repository="sandbox/handbook")  # newer than all of the other repository
    website = [github_reactions("sandbox", "website"), github_stargazers("sandbox", "website")]
    assert warehouse.extract(*handbook()) == {"issues": 131, "pull_requests": 60, "stargazers": 90}
    assert warehouse.extract(*website) == {"issues": 300, "pull_requests": 200, "stargazers": 450}
    assert warehouse.extract(*handbook(), *website) == {}


@pytest.mark.parametrize("max_items", [1, 10, 100, 105])
def test_max_items_bounds_the_rows_exactly(github_api: GithubApi, warehouse: SourceWarehouse, max_items: int) -> None:
    loaded = warehouse.extract(github_reactions("sandbox", "website", max_items=max_items))
    assert (loaded["issues"], loaded["pull_requests"]) == (max_items, max_items)
    assert github_api.sandbox.counts()["by_operation"]["Issues"] == -(-max_items // 100)


def test_bounded_loads_of_issues_continue_until_all_are_loaded(
    github_api: GithubApi, warehouse: SourceWarehouse
) -> None:
    sizes = []
    while loaded := warehouse.load(github_reactions("sandbox", "handbook", max_items=40).with_resources("issues")):
        sizes.append(loaded["issues"])
    assert sizes == [40, 40, 40, 10]
    assert warehouse.value("SELECT count(*) FROM issues") == 130


def test_bounded_loads_get_past_a_second_with_more_rows_than_the_bound(
    github_api: GithubApi, warehouse: SourceWarehouse
) -> None:
    rows = list(github_reactions("sandbox", "handbook").resources["issues"])
    assert max(Counter(row["updatedAt"] for row in rows).values()) > 5
    sizes = []
    while found := warehouse.extract(github_reactions("sandbox", "handbook", max_items=5).with_resources("issues")):
        sizes.append(found["issues"])
    assert sizes == [5] * 26


@pytest.mark.parametrize("table", ["pull_requests", "stargazers"])
def test_a_bounded_load_of_the_newest_rows_leaves_no_gap(
    github_api: GithubApi, warehouse: SourceWarehouse, table: str
) -> None:
    def load(**options: Any) -> int:
        (source,) = (source for source in handbook(**options) if table in source.resources)
        return warehouse.extract(source.with_resources(table)).get(table, 0)

    everything = {"pull_requests": 60, "stargazers": 90}[table]
    assert load(max_items=10) == 10
    assert load() == everything
    github_api.change("new_pull_request")
    github_api.change("new_pull_request")
    github_api.change("new_stargazer")
    github_api.change("new_stargazer")
    assert load(max_items=1) == 1
    assert load() == 2
    assert load(max_items=1) == 0


def test_a_failed_load_loads_nothing_and_the_next_one_everything(
    github_api: GithubApi, warehouse: SourceWarehouse
) -> None:
    source = github_reactions("sandbox", "handbook", items_per_page=50)
    github_api.sandbox.fault("status", status=401, match={"operation": "Issues", "contains": '"after"'})
    assert isinstance(warehouse.load_error(source), PermanentSourceError)
    assert github_api.sandbox.faults() == []
    loaded = warehouse.load(github_reactions("sandbox", "handbook"))
    assert (loaded["issues"], loaded["pull_requests"]) == (130, 60)


def test_a_row_that_changes_during_the_load_is_kept_once_in_its_later_state(
    github_api: GithubApi, warehouse: SourceWarehouse
) -> None:
    changed: list[int] = []

    def edit_the_first(row: dict[str, Any]) -> dict[str, Any]:
        if not changed:
            changed.append(row["number"])
            github_api.change("edit", number=row["number"], title="Changed meanwhile")
        return row

    for table, times in (("issues", 2), ("pull_requests", 1)):
        changed.clear()
        source = github_reactions("sandbox", "handbook", items_per_page=20).with_resources(table)
        source.resources[table].add_map(edit_the_first)
        first = warehouse.load(source)
        again = warehouse.load(github_reactions("sandbox", "handbook").with_resources(table))
        assert first[table] + again.get(table, 0) == {"issues": 131, "pull_requests": 61}[table]
        assert again.get(table, 0) == 2 - times
        count = warehouse.value(f"SELECT count(*) FROM {table} WHERE title = 'Changed meanwhile'")
        assert count == 1
        for child in ("comments", "reactions"):
            total = warehouse.value(f"SELECT sum({child}_total_count) FROM {table}")
            assert warehouse.value(f"SELECT count(*) FROM {table}__{child}") == total


def test_a_full_reload_reads_one_repository_from_the_beginning(
    github_api: GithubApi, warehouse: SourceWarehouse
) -> None:
    everything = {"issues": 130, "pull_requests": 60, "stargazers": 90}
    assert warehouse.load(*handbook()).items() >= everything.items()
    website = github_reactions("sandbox", "website")
    warehouse.extract(website)
    oldest = warehouse.value("SELECT number FROM issues ORDER BY updated_at LIMIT 1")
    github_api.change("new_reaction", number=oldest)
    assert warehouse.extract(*handbook()) == {}
    assert warehouse.extract(*handbook(full_reload=True)) == everything
    assert warehouse.extract(*handbook(), website) == {}


def test_late_events_are_loaded_once(github_api: GithubApi, warehouse: SourceWarehouse) -> None:
    def load(**options: Any) -> dict[str, int]:
        return warehouse.load(github_repo_events("sandbox", "handbook", **options))

    everything = load()
    pushes = everything["push_event"]
    github_api.change("new_event")
    assert load() == {"push_event": 1}
    late = [github_api.change("late_event", behind=behind)["id"] for behind in (3, 120, 250)]
    assert load() == {"push_event": 3}
    assert load() == {}
    assert warehouse.value(f"SELECT count(*) FROM push_event WHERE id IN ({str(late)[1:-1]})") == 3
    assert warehouse.value("SELECT count(*) FROM push_event") == pushes + 4
    assert sum(load(full_reload=True).values()) == sum(everything.values()) + 4
    assert warehouse.value("SELECT count(*) FROM push_event") == pushes + 4
