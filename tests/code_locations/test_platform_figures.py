"""Dagster's runs and materializations in the warehouse: every row once, the second load none, and the report."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
import yaml

from runtime.load import location
from tests.support.database import Database
from tests.support.traffic import ASSETS, Traffic

ISSUES, ORDERS, SUMMARY = ASSETS
REPORT = Path("data/reports/deployment.html")


@pytest.fixture
def instance(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """An instance on Postgres, and a DuckDB warehouse."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    monkeypatch.setenv("DESTINATION__DUCKDB__CREDENTIALS", str(tmp_path / "warehouse.duckdb"))
    url = database.url.replace("postgresql:", "postgresql+psycopg2:")
    (tmp_path / "dagster.yaml").write_text(yaml.dump({"storage": {"postgres": {"postgres_url": url}}}))
    with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
        yield opened


@pytest.fixture
def figures(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module as a process of the test's deployment imports it: a pipeline keeps the warehouse of its import."""
    monkeypatch.delitem(sys.modules, "code_locations.platform.figures", raising=False)
    return import_module("code_locations.platform.figures")


def load(instance: dg.DagsterInstance, figures: Any) -> dict[str, Any]:
    """Materializes both. Returns the rows that were sent to each table."""
    defs = dg.Definitions.merge(location.defs, dg.Definitions(assets=[figures.figures, figures.deployment_report]))
    job = defs.resolve_implicit_global_asset_job_def()
    # In a process: its own run is younger than a minute, and so not among the rows.
    result = job.execute_in_process(instance=instance)
    found = [event.materialization for event in result.get_asset_materialization_events()]
    return {m.asset_key.path[-1]: m.metadata["rows_loaded"].value for m in found if "rows_loaded" in m.metadata}


def rows(sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect("warehouse.duckdb") as connection:
        return connection.execute(f"SET schema = 'raw_dagster'; SET timezone = 'UTC'; {sql}").fetchall()


def test_each_run_and_materialization_is_loaded_once(instance: dg.DagsterInstance, figures: Any) -> None:
    traffic, day = Traffic(instance), datetime.now(UTC) - timedelta(days=2)
    good = traffic.run(day, ISSUES, "sandbox/engine", tags={"dagster/schedule_name": "github_every_six_hours"})
    bad = traffic.run(day + timedelta(hours=1), SUMMARY, fails=True)
    traffic.run(day + timedelta(hours=2), SUMMARY, finishes=False)

    assert load(instance, figures) == {"runs": 2, "materializations": 1}
    columns = "run_id, status, partition, launched_by, queue_seconds, run_seconds, failure_class, failure"
    assert rows(f"SELECT {columns} FROM runs ORDER BY created_at") == [
        (good, "SUCCESS", "sandbox/engine", "schedule github_every_six_hours", 5.0, 27.0, None, None),
        (bad, "FAILURE", None, "user", 5.0, 24.0, "ConfigFieldMissing", "no token"),
    ]
    [(run_id, asset, source, partition)] = rows("SELECT run_id, asset, source, partition FROM materializations")
    assert (run_id, asset, source, partition) == (good, "github/issues", "github", "sandbox/engine")

    assert load(instance, figures) == {"runs": 0, "materializations": 0}

    last = traffic.run(day + timedelta(hours=3), ISSUES, "sandbox/engine")
    assert load(instance, figures) == {"runs": 1, "materializations": 1}
    assert rows("SELECT run_id FROM runs ORDER BY created_at DESC LIMIT 1") == [(last,)]
    assert rows("SELECT count(*), count(DISTINCT run_id) FROM runs") == [(3, 3)]


def test_pages_leave_no_row_out(instance: dg.DagsterInstance, figures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "PAGE", 3)
    traffic, day = Traffic(instance), datetime.now(UTC) - timedelta(days=2)
    runs = [traffic.run(day + timedelta(minutes=number), SUMMARY) for number in range(8)]

    assert load(instance, figures) == {"runs": 8, "materializations": 8}
    assert {run_id for (run_id,) in rows("SELECT run_id FROM runs")} == {*runs}


def test_the_report_has_charts_and_the_causes_of_failures(instance: dg.DagsterInstance, figures: Any) -> None:
    traffic, today = Traffic(instance), datetime.now(UTC)
    for days in (3, 2):
        traffic.run(today - timedelta(days=days), ISSUES, "sandbox/engine")
        traffic.run(today - timedelta(days=days), SUMMARY, fails=True)

    load(instance, figures)

    page = REPORT.read_text()
    assert page.count("<svg") >= 5
    assert "<td>2<td>no location<td>ConfigFieldMissing<td>no token" in page


def test_a_report_of_an_empty_warehouse_is_a_page(instance: dg.DagsterInstance, figures: Any) -> None:
    assert load(instance, figures) == {"runs": 0, "materializations": 0}
    assert "Dagster in the last 30 days" in REPORT.read_text()
