"""Deletes what is old: logs, runs, ticks, what runs printed, staging. The catalogue stays as it is."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import DagsterEventType as Type
from dagster_postgres import PostgresEventLogStorage
from pydantic import Field
from sqlalchemy import Connection, text

from runtime.load.retries import disable_run_retries
from runtime.load.sweep import drop_abandoned_staging
from runtime.load.warehouse import warehouse_pipeline

BATCH = 5_000  # rows that one statement deletes: each commits by itself, and other processes do not wait for it
KINDS = {
    "logs": ("RETENTION_DAYS_LOGS", "events in the logs of finished runs; materializations and checks stay"),
    "history": ("RETENTION_DAYS_HISTORY", "materializations, observations and check results that newer ones replaced"),
    "runs": ("RETENTION_DAYS_RUNS", "finished runs that the catalogue does not refer to"),
    "ticks": ("RETENTION_DAYS_TICKS", "ticks of schedules and sensors, but the last of each"),
    "output": ("RETENTION_DAYS_OUTPUT", "files with what runs and ticks printed"),
    "staging": ("RETENTION_DAYS_STAGING", "staging datasets in the warehouse that crashed runs left"),
}
# Types that are not named here, such as those of a later Dagster, stay.
LOG_TYPES = [
    *(Type.STEP_OUTPUT, Type.STEP_INPUT, Type.STEP_FAILURE, Type.STEP_START, Type.STEP_SUCCESS, Type.STEP_SKIPPED),
    *(Type.STEP_WORKER_STARTING, Type.STEP_WORKER_STARTED, Type.STEP_UP_FOR_RETRY, Type.STEP_RESTARTED),
    *(Type.RESOURCE_INIT_STARTED, Type.RESOURCE_INIT_SUCCESS, Type.RESOURCE_INIT_FAILURE),
    *(Type.STEP_EXPECTATION_RESULT, Type.OBJECT_STORE_OPERATION, Type.ASSET_STORE_OPERATION),
    *(Type.LOADED_INPUT, Type.HANDLED_OUTPUT, Type.ENGINE_EVENT, Type.LOGS_CAPTURED),
    *(Type.HOOK_COMPLETED, Type.HOOK_ERRORED, Type.HOOK_SKIPPED),
    *(Type.ASSET_CHECK_EVALUATION_PLANNED, Type.ASSET_CHECK_EVALUATION),  # the table of check results has them, too
]
# Of these, Dagster reads the last one of an asset and partition, and no page lists the others.
STATE_TYPES = [Type.ASSET_MATERIALIZATION_PLANNED, Type.FRESHNESS_STATE_CHANGE, Type.ASSET_HEALTH_CHANGED]
TYPES = {"log_types": [type.value for type in LOG_TYPES], "state_types": [type.value for type in STATE_TYPES]}
FINISHED = "('SUCCESS', 'FAILURE', 'CANCELED')"

# A run that a backfill or a retry under way may still read has not ended in this sense.
ENDED = f"""
    r.status IN {FINISHED} AND coalesce(to_timestamp(r.end_time) AT TIME ZONE 'UTC', r.update_timestamp) < :before
    AND NOT EXISTS (SELECT FROM bulk_actions b WHERE b.key = r.backfill_id
        AND b.status IN ('REQUESTED', 'CANCELING', 'FAILING'))
    AND NOT EXISTS (SELECT FROM run_tags g JOIN runs u ON u.run_id = g.run_id WHERE u.status NOT IN {FINISHED}
        AND g.key IN ('dagster/root_run_id', 'dagster/parent_run_id') AND g.value = r.run_id)"""
OF_ENDED = f"""
    t.timestamp < :before AND (t.run_id IN (SELECT r.run_id FROM runs r WHERE {ENDED})
        OR NOT EXISTS (SELECT FROM runs r WHERE r.run_id = t.run_id))"""
LOGS = f"""
    t.asset_key IS NULL AND (t.dagster_event_type IS NULL OR t.dagster_event_type = ANY(:log_types)) AND {OF_ENDED}"""


def _superseded(table: str, same: str, at: str, before: str) -> str:
    """Rows that a newer row replaced before the day, so that the state of each later moment stays as it was.

    Two conditions, because `IS NOT DISTINCT FROM` uses no index.
    """
    newer = f"SELECT FROM {table} n WHERE {same} AND n.id > t.id AND n.{at} < {before}"
    return (
        f"t.{at} < {before} AND (EXISTS ({newer} AND n.partition = t.partition) "
        f"OR t.partition IS NULL AND EXISTS ({newer} AND n.partition IS NULL))"
    )


SAME_ASSET = "n.asset_key = t.asset_key AND n.dagster_event_type = t.dagster_event_type"
AT = "evaluation_event_timestamp"
SAME_CHECK = "n.asset_key = t.asset_key AND n.check_name = t.check_name"
OLD_STATE = "t.asset_key IS NOT NULL AND t.dagster_event_type = ANY(:state_types) AND " + _superseded(
    "event_logs", SAME_ASSET, "timestamp", ":before"
)
OLD_EVENTS = "t.asset_key IS NOT NULL AND t.dagster_event_type <> ALL(:state_types) AND " + _superseded(
    "event_logs", SAME_ASSET, "timestamp", ":history"
)
OLD_RESULTS = "t.execution_status <> 'PLANNED' AND " + _superseded(
    "asset_check_executions", f"{SAME_CHECK} AND n.execution_status <> 'PLANNED'", AT, ":history"
)
NO_RESULTS = "t.execution_status = 'PLANNED' AND " + _superseded("asset_check_executions", SAME_CHECK, AT, ":before")
OLD_TICKS = """
    t.timestamp < :before AND t.status <> 'STARTED' AND EXISTS (
        SELECT FROM job_ticks n WHERE n.selector_id = t.selector_id AND n.type = t.type AND n.id > t.id)"""
# The catalogue refers to a run by its events of assets and by its check results.
RUNS = f"""
    {ENDED} AND NOT EXISTS (SELECT FROM event_logs t WHERE t.run_id = r.run_id AND t.asset_key IS NOT NULL
        AND ({OLD_STATE}) IS NOT TRUE AND ({OLD_EVENTS}) IS NOT TRUE)
    AND NOT EXISTS (SELECT FROM asset_check_executions t WHERE t.run_id = r.run_id
        AND ({OLD_RESULTS}) IS NOT TRUE AND ({NO_RESULTS}) IS NOT TRUE)"""
NEVER = datetime(1970, 1, 1)  # noqa: DTZ001  Dagster's columns have no zone

Log = Callable[[str], None]


@dataclass
class Pruned:
    """What was deleted of a kind, or would be."""

    count: int = 0
    bytes: int = 0

    def __add__(self, other: "Pruned") -> "Pruned":
        return Pruned(self.count + other.count, self.bytes + other.bytes)


class PruningConfig(dg.Config):
    dry_run: bool = Field(default=False, description="Delete nothing, and report what would be deleted.")


def retention_days(variable: str) -> int:
    """The days in a variable; 0 if it is not set: keep everything.

    Raises:
        ValueError: it is not a whole number of days.
    """
    value = os.environ.get(variable, "").strip() or "0"
    if not value.isdecimal():
        raise ValueError(f"{variable}={value!r} must be a number of days, such as 30. 0 keeps everything.")
    return int(value)


def connect(instance: dg.DagsterInstance) -> AbstractContextManager[Connection]:
    """A connection to Dagster's Postgres, in autocommit."""
    storage = instance.event_log_storage
    assert isinstance(storage, PostgresEventLogStorage)
    connection: AbstractContextManager[Connection] = storage.index_connection()
    return connection


def prune(
    instance: dg.DagsterInstance,
    days: Mapping[str, int],
    *,
    dry_run: bool = False,
    now: datetime | None = None,
    log: Log = lambda _: None,
) -> dict[str, Pruned]:
    """Deletes what is older than the days of each kind in Dagster's database and log files. 0 days keep the kind."""
    now = (now or datetime.now(UTC)).astimezone(UTC).replace(tzinfo=None)
    before = {kind: now - timedelta(days=days[kind]) for kind in days if days[kind]}
    pruned: dict[str, Pruned] = {}

    def delete(kind: str, table: str, condition: str, tags: str = "") -> None:
        found = sum(_batches(instance, table, condition, before[kind], before.get("history"), dry_run, tags), Pruned())
        pruned[kind] = pruned.get(kind, Pruned()) + found
        log(f"{kind}: {found.count:,} rows of {table}, {found.bytes:,} bytes")

    if "history" in before:
        event_tags = ", tags AS (DELETE FROM asset_event_tags USING found WHERE event_id = found.id)"
        delete("history", "event_logs", OLD_EVENTS, event_tags)
        delete("history", "asset_check_executions", OLD_RESULTS)
    if "logs" in before:
        delete("logs", "event_logs", LOGS)
        delete("logs", "event_logs", f"{OLD_STATE} AND {OF_ENDED}")
    if "runs" in before:
        pruned["runs"] = _delete_runs(instance, before["runs"], before.get("history"), "logs" in before, dry_run)
        log(f"runs: {pruned['runs'].count:,}, {pruned['runs'].bytes:,} bytes")
    if "ticks" in before:
        delete("ticks", "job_ticks", OLD_TICKS)
    if "output" in before:
        pruned["output"] = _delete_output(instance, before["output"], dry_run)
        log(f"output: {pruned['output'].count:,} files, {pruned['output'].bytes:,} bytes")
    if not dry_run:
        with connect(instance) as connection:
            for table in ("event_logs", "asset_check_executions", "asset_event_tags", "runs", "run_tags", "job_ticks"):
                connection.execute(text(f"VACUUM (ANALYZE, TRUNCATE false) {table}"))  # its space can be used again
    return pruned


def _batches(
    instance: dg.DagsterInstance,
    table: str,
    condition: str,
    before: datetime,
    history: datetime | None,
    dry_run: bool,
    tags: str,
) -> Iterator[Pruned]:
    """Walks through a table once, by its ids, and deletes the rows that the condition finds."""
    gone = "" if dry_run else f", gone AS (DELETE FROM {table} USING found WHERE {table}.id = found.id){tags}"
    statement = text(
        f"WITH found AS MATERIALIZED (SELECT t.id, pg_column_size(t.*) AS size FROM {table} t "
        f"WHERE t.id > :after AND {condition} ORDER BY t.id LIMIT :batch){gone} "
        "SELECT count(*), coalesce(sum(size), 0), max(id) FROM found"
    )
    parameters: dict[str, Any] = {"before": before, "history": history or NEVER, "batch": BATCH, **TYPES}
    after: Any = 0
    while after is not None:
        with connect(instance) as connection:
            row: Any = connection.execute(statement, {**parameters, "after": after}).one()
        count, size, after = row
        yield Pruned(count, int(size))


def _delete_runs(
    instance: dg.DagsterInstance, before: datetime, history: datetime | None, without_logs: bool, dry_run: bool
) -> Pruned:
    """Deletes runs with what is left of their events, by Dagster's own function, and what they printed."""
    counted_before = "OR e.dagster_event_type IS NULL OR e.dagster_event_type = ANY(:log_types || :state_types)"
    statement = text(
        "SELECT r.run_id, pg_column_size(r.*) + coalesce((SELECT sum(pg_column_size(e.*)) FROM event_logs e "
        "WHERE e.run_id = r.run_id AND NOT (e.asset_key IS NOT NULL AND e.dagster_event_type <> ALL(:state_types) "
        f"{counted_before if without_logs else ''})), 0) FROM runs r WHERE {RUNS}"
    )
    with connect(instance) as connection:
        found: Any = connection.execute(statement, {"before": before, "history": history or NEVER, **TYPES})
        sizes = {str(run_id): int(size) for run_id, size in found}
        checks = "FROM asset_check_executions t WHERE t.execution_status = 'PLANNED' AND t.run_id = ANY(:runs)"
        runs = {"runs": list(sizes)}
        size: Any = connection.scalar(text(f"SELECT coalesce(sum(pg_column_size(t.*)), 0) {checks}"), runs)
    if not dry_run:
        for run_id in sizes:
            instance.delete_run(run_id)
            instance.compute_log_manager.delete_logs(prefix=[run_id, "compute_logs"])
        with connect(instance) as connection:
            connection.execute(text(f"DELETE {checks}"), runs)  # which Dagster's function leaves
    return Pruned(len(sizes), sum(sizes.values()) + int(size))


def _delete_output(instance: dg.DagsterInstance, before: datetime, dry_run: bool) -> Pruned:
    """Deletes files of Dagster's default log manager. Other files beside them, such as values of assets, stay."""
    folder = Path(instance.storage_directory())
    found = Pruned()
    for file in [*folder.glob("*/compute_logs/*"), *folder.glob("__repository__/**/*.*")]:
        with suppress(FileNotFoundError):
            if file.is_file() and file.stat().st_mtime < before.replace(tzinfo=UTC).timestamp():
                found += Pruned(1, file.stat().st_size)
                if not dry_run:
                    file.unlink()
                    for parent in (file.parent, file.parent.parent):
                        if parent != folder and not any(parent.iterdir()):
                            parent.rmdir()
    return found


@dg.asset(
    key=["platform", "pruning"],
    group_name="platform",
    owners=["team:platform"],
    kinds={"postgres"},
    description="Deletes old logs, runs, ticks, files and staging datasets, by the RETENTION_DAYS_… variables. "
    "What the catalogue shows stays. In the launchpad, `dry_run: true` reports what would go.",
)
def pruning(context: dg.AssetExecutionContext, config: PruningConfig) -> dg.MaterializeResult[None]:
    started = time.monotonic()
    try:
        days = {kind: retention_days(variable) for kind, (variable, _) in KINDS.items()}
    except ValueError as error:
        disable_run_retries(context.op_execution_context)
        raise dg.Failure(str(error), allow_retries=False) from error
    if not isinstance(context.instance.event_log_storage, PostgresEventLogStorage):
        context.log.info("Nothing is pruned: Dagster's records are in SQLite files, as in `make dev`.")
        return dg.MaterializeResult(metadata={"dry_run": config.dry_run, "seconds": 0.0})
    pruned = prune(context.instance, days, dry_run=config.dry_run, log=context.log.info)
    if days["staging"]:
        pipeline = warehouse_pipeline("platform", "raw_dagster")
        dropped = drop_abandoned_staging(
            pipeline, context.instance, days["staging"] * 24 * 3600, context.log.info, dry_run=config.dry_run
        )
        pruned["staging"] = Pruned(len(dropped))
    return dg.MaterializeResult(
        metadata={
            "dry_run": config.dry_run,
            "seconds": time.monotonic() - started,
            **{f"{kind}/count": found.count for kind, found in pruned.items()},
            **{f"{kind}/bytes": found.bytes for kind, found in pruned.items() if kind != "staging"},
            **{f"size/{name}": size for name, size in _sizes(context.instance).items()},
            "what": dg.MetadataValue.md(_table(days, pruned)),
        }
    )


def _sizes(instance: dg.DagsterInstance) -> dict[str, int]:
    """Bytes on disk, with indexes."""
    with connect(instance) as connection:
        size = "pg_total_relation_size('{0}') AS {0}"
        tables = ", ".join(size.format(table) for table in ("event_logs", "runs", "job_ticks"))
        statement = text(f"SELECT {tables}, pg_database_size(current_database()) AS database")
        return dict(connection.execute(statement).mappings().one())


def _table(days: Mapping[str, int], pruned: Mapping[str, Pruned]) -> str:
    lines = [
        f"| {kind} | {what} | {f'older than {days[kind]} days' if days[kind] else f'all kept: {variable} is not set'} "
        f"| {pruned.get(kind, Pruned()).count:,} |"
        for kind, (variable, what) in KINDS.items()
    ]
    return "\n".join(["| kind | what | which | deleted |", "|---|---|---|---|", *lines])


defs = dg.Definitions(
    assets=[pruning],
    schedules=[
        dg.ScheduleDefinition(
            name="pruning_daily",
            target=dg.AssetSelection.assets(pruning),
            cron_schedule="40 2 * * *",
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description="Each night, after the backup: by the RETENTION_DAYS_… variables. On from the first start.",
        )
    ],
)
