"""The deployment's own figures: Dagster's runs and materializations as tables in the warehouse, and a report."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from statistics import quantiles
from typing import Any

import dagster as dg
import dlt
from dagster import DagsterEventType, DagsterRunStatus
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType
from dlt.common.configuration.specs import BaseConfiguration
from dlt.common.destination.exceptions import DestinationUndefinedEntity
from dlt.common.schema.typing import TColumnSchema
from dlt.extract import DltResource

from runtime import charts
from runtime.load.checks import primary_key_checks
from runtime.load.locks import duckdb_file_lock
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import warehouse_pipeline

DAYS = 30  # of the report
PAGE = 500
# What was written within the last minute may not be visible in its order yet: a cursor would pass over a row.
SETTLED = timedelta(minutes=1)
FINISHED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
LAUNCHERS = {"dagster/schedule_name": "schedule", "dagster/sensor_name": "sensor", "dagster/backfill": "backfill"}

Columns = dict[str, TColumnSchema]
# All of them, so that a column exists before it has a value: the report and BI tools name it.
RUN_COLUMNS: Columns = {
    **{
        name: {"data_type": "text"}
        for name in (
            *("run_id", "location", "job", "status", "partition", "launched_by", "backfill_id", "retry_of"),
            *("failure_class", "failure"),
        )
    },
    **{name: {"data_type": "timestamp"} for name in ("created_at", "started_at", "ended_at", "updated_at")},
    **{name: {"data_type": "double"} for name in ("queue_seconds", "run_seconds")},
}
MATERIALIZATION_COLUMNS: Columns = {
    **{name: {"data_type": "bigint"} for name in ("storage_id", "rows_loaded", "bytes_of_load")},
    **{name: {"data_type": "text"} for name in ("run_id", "asset", "source", "partition")},
    "created_at": {"data_type": "timestamp"},
    "load_seconds": {"data_type": "double"},
}

Row = dict[str, Any]
pipeline = warehouse_pipeline("dagster", "raw_dagster")


@dlt.source(name="dagster", section="dagster", spec=BaseConfiguration)
def dagster_figures(instance: dg.DagsterInstance | None = None) -> Iterator[DltResource]:
    """Finished runs and materializations of a Dagster instance. A load reads those since the previous one."""

    @dlt.resource(
        write_disposition="merge",
        primary_key="run_id",
        columns=RUN_COLUMNS,
    )
    def runs(updated_at: Any = dlt.sources.incremental[datetime]("updated_at")) -> Iterator[list[Row]]:  # noqa: B008
        """Finished runs, one row each: location, job, status, times, what launched it, and why it failed."""
        assert instance
        filters = dg.RunsFilter(
            statuses=FINISHED, updated_after=updated_at.start_value, updated_before=datetime.now(UTC) - SETTLED
        )
        last = None
        while records := instance.get_run_records(filters, limit=PAGE, ascending=True, cursor=last):
            yield [_run(instance, record) for record in records]
            last = records[-1].dagster_run.run_id

    @dlt.resource(
        write_disposition="merge",
        primary_key="storage_id",
        columns=MATERIALIZATION_COLUMNS,
    )
    def materializations(storage_id: Any = dlt.sources.incremental[int]("storage_id")) -> Iterator[list[Row]]:  # noqa: B008
        """Materializations of all assets, one row each, with rows and seconds if dlt loaded it. `bytes_of_load` is that
        of all tables of the run's load."""
        assert instance
        before = (datetime.now(UTC) - SETTLED).timestamp()
        for key in instance.get_asset_keys():
            last = storage_id.start_value  # `last_value` moves on with the first asset's rows
            while True:
                found = dg.AssetRecordsFilter(asset_key=key, after_storage_id=last, before_timestamp=before)
                records = instance.fetch_materializations(found, limit=PAGE, ascending=True).records
                if not records:
                    break
                yield [_materialization(key, record) for record in records]
                last = records[-1].storage_id

    yield runs
    yield materializations


def _run(instance: dg.DagsterInstance, record: dg.RunRecord) -> Row:
    run = record.dagster_run
    started, ended = _time(record.start_time), _time(record.end_time)
    begun = started or ended  # a run that was cancelled in the queue never started
    failure_class, failure = _failure(instance, run) if run.status == DagsterRunStatus.FAILURE else (None, None)
    launcher = next((f"{kind} {run.tags[tag]}" for tag, kind in LAUNCHERS.items() if tag in run.tags), "user")
    return {
        "run_id": run.run_id,
        "location": run.remote_job_origin.location_name if run.remote_job_origin else None,
        "job": run.job_name,
        "status": run.status.value,
        "partition": run.tags.get("dagster/partition"),
        "launched_by": "backfill" if launcher.startswith("backfill") else launcher,
        "backfill_id": run.tags.get("dagster/backfill"),
        "retry_of": run.parent_run_id,
        "created_at": record.create_timestamp,
        "started_at": started,
        "ended_at": ended,
        "updated_at": record.update_timestamp,
        "queue_seconds": (begun - record.create_timestamp).total_seconds() if begun else None,
        "run_seconds": (ended - started).total_seconds() if started and ended else None,
        "failure_class": failure_class,
        "failure": failure,
    }


def _failure(instance: dg.DagsterInstance, run: dg.DagsterRun) -> tuple[str | None, str]:
    """The class of the first failed step's root cause, and the first line of what the run says."""
    records = instance.get_records_for_run(run.run_id, of_type=DagsterEventType.STEP_FAILURE, limit=1).records
    event = records[0].event_log_entry.dagster_event if records else None
    error = event.step_failure_data.error if event else None
    if not error:
        return None, "The run's process was lost, or the run was deleted before it was read."
    while error.cause and "dagster" in (error.cls_name or "").lower():
        error = error.cause  # Dagster's own wrapper
    line = re.sub(r"^[\w.]+: ", "", error.message.strip().partition("\n")[0])
    while error.cause:
        error = error.cause
    return error.cls_name, line[:300]


def _materialization(key: dg.AssetKey, record: dg.EventLogRecord) -> Row:
    found = record.asset_materialization
    metadata = {name: value.value for name, value in found.metadata.items()} if found else {}
    seconds = [metadata.get(f"seconds_{step}") for step in ("extract", "normalize", "load")]
    return {
        "storage_id": record.storage_id,
        "created_at": _time(record.timestamp),
        "run_id": record.run_id,
        "asset": key.to_user_string(),
        "source": key.path[0],
        "partition": record.partition_key,
        "rows_loaded": metadata.get("rows_loaded"),
        "bytes_of_load": metadata.get("bytes_loaded"),
        "load_seconds": sum(filter(None, seconds)) if any(seconds) else None,
    }


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


@dlt_assets(
    dlt_source=dagster_figures(),
    dlt_pipeline=pipeline,
    name="dagster",
    dagster_dlt_translator=SourceTranslator(
        source="dagster", owners=["team:platform"], fresh_within=timedelta(hours=26)
    ),
)
def figures(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
    yield from dlt.run(context=context, dlt_source=dagster_figures(context.instance))


@dg.asset(
    key=["reports", "deployment"],
    deps=list(figures.keys),
    group_name="reports",
    owners=["team:platform"],
    kinds={"html"},
    description="Runs, failures, waits and rows of the last days, in one HTML file with charts.",
)
def deployment_report(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    since = datetime.now(UTC) - timedelta(days=DAYS)
    runs = _rows(
        "SELECT created_at, location, status, queue_seconds, run_seconds, failure_class, failure FROM runs "
        "WHERE created_at >= %s ORDER BY created_at",
        since,
    )
    loads = _rows(
        "SELECT created_at, source, run_id, rows_loaded, bytes_of_load FROM materializations "
        "WHERE created_at >= %s AND rows_loaded IS NOT NULL ORDER BY created_at",
        since,
    )
    where = charts.publish(report(runs, loads), "deployment", "platform")
    return dg.MaterializeResult(
        metadata={
            **where,
            "runs": len(runs),
            "failed": sum(run[2] == "FAILURE" for run in runs),
        }
    )


def _rows(sql: str, since: datetime) -> list[Any]:
    """The result of a query. Nothing if the table does not exist: dlt creates it with its first row."""
    with suppress(DestinationUndefinedEntity), duckdb_file_lock(pipeline), pipeline.sql_client() as client:
        return list(client.execute_sql(sql, since) or ())
    return []


def report(runs: list[Any], loads: list[Any]) -> str:
    """The page, from rows of both tables."""
    by_status, by_location, waits, seconds = (defaultdict[str, Any](lambda: defaultdict(list)) for _ in range(4))
    causes: Counter[tuple[str, str, str]] = Counter()
    for created, location, status, queue, duration, failure_class, failure in runs:
        day = created.date()
        by_status[status.lower()][day].append(1)
        by_location[location or "no location"][day].append(1)
        if queue is not None:
            waits[""][day].append(queue)
        if duration is not None:
            seconds[location or "no location"][day].append(duration)
        if failure:
            causes[location or "no location", failure_class or "", failure] += 1
    rows, sizes = (defaultdict[str, Any](lambda: defaultdict(list)) for _ in range(2))
    of_load: dict[tuple[str, str, date], int] = {}
    for created, source, run_id, count, size in loads:
        rows[source][created.date()].append(count)
        of_load[source, run_id, created.date()] = size or 0  # one load has one size, whatever its number of tables
    for (source, _, day), size in of_load.items():
        sizes[source][day].append(size / 1e6)
    return charts.page(
        f"Dagster in the last {DAYS} days",
        [
            f"<p>Until {datetime.now(UTC):%Y-%m-%d %H:%M} UTC</p>",
            charts.line_chart("Runs per day, by status", _lines(by_status, sum)),
            charts.line_chart("Runs per day, by location", _lines(by_location, sum)),
            charts.line_chart("Seconds in the queue, 95th percentile", _lines(waits, _p95)),
            charts.line_chart("Seconds per run, 95th percentile", _lines(seconds, _p95)),
            charts.line_chart("Rows loaded per day, by source", _lines(rows, sum)),
            charts.line_chart("Megabytes loaded per day, by source", _lines(sizes, sum)),
            charts.table(
                "Failures by cause",
                ["runs", "location", "error", "first line"],
                [[number, *cause] for cause, number in causes.most_common(20)],
            ),
        ],
    )


def _lines(figures: dict[str, dict[date, list[float]]], combined: Any) -> dict[str, list[tuple[date, float]]]:
    return {name: [(day, combined(values)) for day, values in sorted(days.items())] for name, days in figures.items()}


def _p95(values: list[float]) -> float:
    return quantiles(values, n=20)[-1] if len(values) > 1 else values[0]


defs = dg.Definitions(
    assets=[figures, deployment_report],
    asset_checks=[primary_key_checks(figures)],
    schedules=[
        dg.ScheduleDefinition(
            name="dagster_daily",
            target=dg.AssetSelection.assets(figures, deployment_report),
            cron_schedule="10 3 * * *",
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description="Each night: loads finished runs and materializations, and writes the report. "
            "On from the first start.",
        )
    ],
)
