"""A second load of Thinkific: all changes, and how to recognise deletions, which it does not report."""

from datetime import datetime
from typing import Any

import pytest

from dlt_sources.errors import PermanentSourceError
from dlt_sources.thinkific import thinkific
from tests.support.sandbox import ThinkificApi
from tests.support.source_warehouse import SourceWarehouse

WHOLE = {"courses": 12, "users": 600, "course_reviews": 150}  # read by every load
ALL = WHOLE | {"enrollments": 2_400}


def roots(loaded: dict[str, int]) -> dict[str, int]:
    return {table: rows for table, rows in loaded.items() if "__" not in table and rows}


def rows_in(warehouse: SourceWarehouse) -> dict[str, int]:
    return {table: warehouse.value(f"SELECT count(*) FROM {table}") for table in ALL}


def test_a_second_load_loads_no_enrollments_and_adds_no_rows(
    thinkific_api: ThinkificApi, warehouse: SourceWarehouse
) -> None:
    assert roots(warehouse.load(thinkific())) == ALL
    thinkific_api.sandbox.forget_requests()
    assert roots(warehouse.load(thinkific())) == WHOLE
    assert thinkific_api.sandbox.counts()["by_path"]["/thinkific/enrollments"] == 1
    assert rows_in(warehouse) == ALL


def test_a_load_on_another_machine_continues_from_the_state_in_the_warehouse(
    thinkific_api: ThinkificApi, any_warehouse: SourceWarehouse
) -> None:
    any_warehouse.load(thinkific())
    any_warehouse.pipeline = any_warehouse.fresh_pipeline("elsewhere")
    assert roots(any_warehouse.load(thinkific())) == WHOLE


def test_changes_are_loaded(thinkific_api: ThinkificApi, any_warehouse: SourceWarehouse) -> None:
    any_warehouse.load(thinkific())
    [(unfinished,)] = any_warehouse.rows("SELECT min(id) FROM enrollments WHERE NOT completed")
    thinkific_api.change("progress", id=unfinished, percentage=1)
    user = thinkific_api.change("new", "users")
    thinkific_api.change("new", "enrollments", user_id=user["id"])
    thinkific_api.change("edit", "courses", id=101, name="Renamed")
    thinkific_api.change("new", "course_reviews")
    changed = WHOLE | {"users": 601, "course_reviews": 151}
    assert roots(any_warehouse.load(thinkific())) == changed | {"enrollments": 2}
    assert rows_in(any_warehouse) == changed | {"enrollments": 2_401}
    done = f"SELECT completed, percentage_completed, completed_at = updated_at FROM enrollments WHERE id = {unfinished}"
    assert any_warehouse.rows(done) == [(True, 1.0, True)]
    assert any_warehouse.value("SELECT name FROM courses WHERE id = 101") == "Renamed"


@pytest.mark.parametrize("hours_ago", [1, 47])
def test_an_update_that_becomes_visible_late_is_loaded(
    thinkific_api: ThinkificApi, warehouse: SourceWarehouse, hours_ago: float
) -> None:
    warehouse.load(thinkific())
    late = thinkific_api.change("progress", percentage=0.9, hours_ago=hours_ago)
    assert roots(warehouse.load(thinkific()))["enrollments"] == 1
    assert warehouse.value(f"SELECT percentage_completed FROM enrollments WHERE id = {late['id']}") == 0.9


def test_a_change_on_a_page_already_read_is_loaded_by_the_next_load(
    thinkific_api: ThinkificApi, warehouse: SourceWarehouse
) -> None:
    passed: list[int] = []
    changed: list[str] = []

    def change_what_was_read(row: dict[str, Any]) -> dict[str, Any]:
        if not passed:
            passed.append(row["id"])
            changed.append(thinkific_api.change("progress", id=row["id"], percentage=0.33)["updated_at"])
            thinkific_api.change("progress", id=row["id"] + 2_399, percentage=0.44)  # newer, and still to come
        return row

    source = thinkific().with_resources("enrollments")
    source.resources["enrollments"].add_map(change_what_was_read)
    warehouse.load(source)
    percentages = f"SELECT percentage_completed FROM enrollments WHERE id = {passed[0]}"
    assert warehouse.value(percentages) != 0.33
    assert warehouse.value("SELECT count(*) FROM enrollments WHERE percentage_completed = 0.44") == 1
    cursor = warehouse.pipeline.state["sources"]["thinkific"]["resources"]["enrollments"]["sandbox"]
    assert datetime.fromisoformat(cursor) < datetime.fromisoformat(changed[0])
    warehouse.load(thinkific())
    assert warehouse.value(percentages) == 0.33


@pytest.mark.parametrize("table", ["users", "enrollments"])
def test_a_deletion_during_the_load_hides_no_other_row(
    thinkific_api: ThinkificApi, warehouse: SourceWarehouse, table: str
) -> None:
    deleted: list[int] = []

    def delete_what_was_read(row: dict[str, Any]) -> dict[str, Any]:
        if not deleted:
            deleted.append(row["id"])
            thinkific_api.change("delete", table, id=row["id"])
        return row

    source = thinkific().with_resources(table)
    source.resources[table].add_map(delete_what_was_read)
    warehouse.load(source)
    assert warehouse.value(f"SELECT count(*) FROM {table}") == ALL[table]
    assert thinkific_api.sandbox.counts()["by_path"][f"/thinkific/{table}"] == 2 * -(-ALL[table] // 250)


def test_each_site_has_its_own_cursor(
    thinkific_api: ThinkificApi, warehouse: SourceWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCES__THINKIFIC__SUBDOMAIN", "elsewhere")
    assert isinstance(warehouse.load_error(thinkific()), PermanentSourceError)
    assert warehouse.extract(thinkific("sandbox"))["enrollments"] == 2_400
    state = warehouse.pipeline.state["sources"]["thinkific"]["resources"]["enrollments"]
    assert list(state) == ["sandbox"]


def test_a_failed_load_loads_nothing_and_the_next_one_everything(
    thinkific_api: ThinkificApi, warehouse: SourceWarehouse
) -> None:
    thinkific_api.sandbox.fault("status", status=401, match={"path": "/course_reviews"})
    assert isinstance(warehouse.load_error(thinkific()), PermanentSourceError)
    assert thinkific_api.sandbox.faults() == []
    assert roots(warehouse.load(thinkific())) == ALL
    thinkific_api.change("progress", percentage=1)
    thinkific_api.sandbox.fault("status", status=401, match={"path": "/course_reviews"})
    warehouse.load_error(thinkific())
    assert roots(warehouse.load(thinkific())) == WHOLE | {"enrollments": 1}


def test_a_full_reload_tells_deleted_rows_by_their_load_id(
    thinkific_api: ThinkificApi, warehouse: SourceWarehouse
) -> None:
    warehouse.load(thinkific())
    deleted = thinkific_api.change("delete", "users", id=1_050)["id"]
    assert roots(warehouse.load(thinkific(full_reload=True)))["enrollments"] == 2_396
    assert roots(warehouse.load(thinkific())).get("enrollments") is None
    for table, key in (("users", "id"), ("enrollments", "user_id")):
        newest = f"(SELECT max(_dlt_load_id) FROM {table})"
        gone = warehouse.rows(f"SELECT DISTINCT {key} FROM {table} WHERE _dlt_load_id < {newest}")
        assert gone == [(deleted,)]
