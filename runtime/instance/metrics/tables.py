"""What is now: read from Dagster's tables with one query a part, which an index bounds, whatever the history's size."""

import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import dagster as dg
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from sqlalchemy import Connection, text

from runtime.instance.metrics.workspace import Workspace

UNKNOWN = "__unknown__"  # the location of a run that was launched outside of one
STATUSES = ("queued", "starting", "started")
SILENT_SECONDS = 300  # as `heartbeat` and `make doctor`
# A run's location is the end of this tag's value: `__repository__@engineering`.
LOCATION = (
    """(SELECT value FROM run_tags WHERE run_tags.run_id = runs.run_id AND key = '.dagster/repository' LIMIT 1)"""
)
ACTIVE_RUNS = f"""
SELECT pipeline_name, {LOCATION} AS repository, status, count(*), max(CASE status
         WHEN 'STARTED' THEN extract(epoch FROM now()) - start_time
         WHEN 'QUEUED' THEN extract(epoch FROM now() AT TIME ZONE 'utc' - create_timestamp)
         ELSE extract(epoch FROM now() AT TIME ZONE 'utc' - update_timestamp) END)
FROM runs WHERE status IN ('NOT_STARTED', 'QUEUED', 'STARTING', 'STARTED', 'CANCELING') GROUP BY 1, 2, 3
"""
# `asset_keys.last_materialization_timestamp` moves on with every run that is to materialize the asset.
ASSETS = """
SELECT asset_keys.asset_key, runs.status, (
  SELECT extract(epoch FROM timestamp) FROM event_logs
  WHERE event_logs.asset_key = asset_keys.asset_key AND dagster_event_type = 'ASSET_MATERIALIZATION'
  ORDER BY id DESC LIMIT 1)
FROM asset_keys LEFT JOIN runs ON runs.run_id = last_run_id
"""
FRESHNESS = """
SELECT asset_keys.asset_key, last.event FROM asset_keys CROSS JOIN LATERAL (
  SELECT event FROM event_logs
  WHERE event_logs.asset_key = asset_keys.asset_key AND dagster_event_type = 'FRESHNESS_STATE_CHANGE'
  ORDER BY id DESC LIMIT 1) AS last
"""
TICKS = """
SELECT asked.id, last.status, extract(epoch FROM last.timestamp)
FROM unnest(cast(:selectors AS text[])) AS asked(id) CROSS JOIN LATERAL (
  SELECT status, timestamp FROM job_ticks WHERE selector_id = asked.id ORDER BY timestamp DESC LIMIT 1) AS last
"""
POOLS = """
SELECT concurrency_key, "limit", using_default_limit,
  (SELECT count(run_id) FROM concurrency_slots AS slot WHERE slot.concurrency_key = pool.concurrency_key),
  (SELECT count(assigned_timestamp) FROM pending_steps AS step WHERE step.concurrency_key = pool.concurrency_key),
  (SELECT count(*) FROM pending_steps AS step WHERE step.concurrency_key = pool.concurrency_key
     AND assigned_timestamp IS NULL)
FROM concurrency_limits AS pool
"""
HEARTBEATS = "SELECT daemon_type, body FROM daemon_heartbeats"
CONNECTIONS = """
SELECT coalesce(state, 'unknown'), count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' GROUP BY 1
"""


def rows(connection: Connection, sql: str, **parameters: Any) -> Sequence[Any]:
    return connection.execute(text(sql), parameters).all()


def location_of(repository: str | None) -> str:
    return repository.rpartition("@")[2] if repository else UNKNOWN


def active_runs(connection: Connection, workspace: Workspace) -> Iterator[Metric]:
    """Runs that have not ended. A job without any has zeros, so that a sum or a rate is never empty."""
    labels = ["job_name", "location", "status"]
    number = GaugeMetricFamily("dagster_active_runs", "Runs that have not ended.", labels=labels)
    age = GaugeMetricFamily(
        "dagster_active_run_duration_seconds", "How long the oldest run has had this status.", labels=labels
    )
    found = {(job, location, status): (0, 0.0) for job, location in workspace.jobs for status in STATUSES}
    for job, repository, status, count, seconds in rows(connection, ACTIVE_RUNS):
        found[job, location_of(repository), status.lower()] = count, max(0.0, float(seconds or 0))
    for names, (count, seconds) in sorted(found.items()):
        number.add_metric(names, count)
        age.add_metric(names, seconds)
    yield from (number, age)


def assets(connection: Connection, workspace: Workspace) -> Iterator[Metric]:
    status = GaugeMetricFamily(
        "dagster_asset_last_materialization_status",
        "1; the status of the last run that was to materialize an asset.",
        labels=["asset_key", "status"],
    )
    when = GaugeMetricFamily(
        "dagster_asset_last_materialization_timestamp_seconds",
        "When an asset was last materialized.",
        labels=["asset_key"],
    )
    known = workspace.assets
    for key, found, seconds in rows(connection, ASSETS):
        name = asset_name(key)
        if workspace.is_known and name not in known:
            continue
        if found:
            status.add_metric([name, found.lower()], 1)
        if seconds:
            when.add_metric([name], float(seconds))
    yield from (status, when)


def freshness(connection: Connection, workspace: Workspace) -> Iterator[Metric]:
    state = GaugeMetricFamily(
        "dagster_asset_freshness",
        "1; whether an asset is as new as its policy promises: pass, warn, fail or unknown.",
        labels=["asset_key", "status"],
    )
    promised = workspace.fresh
    for key, event in rows(connection, FRESHNESS):
        name = asset_name(key)
        if not workspace.is_known or name in promised:
            change: Any = dg.deserialize_value(event, dg.EventLogEntry).get_dagster_event().event_specific_data
            state.add_metric([name, change.new_state.value.lower()], 1)
    yield state


def ticks(connection: Connection, workspace: Workspace) -> Iterator[Metric]:
    """How and when the last tick of each schedule and sensor went."""
    outcomes, times = dict[str, GaugeMetricFamily](), dict[str, GaugeMetricFamily]()
    for kind in ("schedule", "sensor"):
        labels = [f"{kind}_name", "location"]
        outcomes[kind] = GaugeMetricFamily(
            f"dagster_{kind}_last_tick_status", f"1; how the last tick of a {kind} ended.", labels=[*labels, "status"]
        )
        times[kind] = GaugeMetricFamily(
            f"dagster_{kind}_last_tick_timestamp_seconds", f"When a {kind} ticked last.", labels=labels
        )
    automation = workspace.automation
    for selector, status, seconds in rows(connection, TICKS, selectors=list(automation)):
        kind, name, location = automation[selector]
        outcomes[kind].add_metric([name, location, status.lower()], 1)
        times[kind].add_metric([name, location], float(seconds))
    yield from (*outcomes.values(), *times.values())


def asset_name(key: str) -> str:
    found = dg.AssetKey.from_db_string(key)
    return found.to_user_string() if found else key


def pools(connection: Connection) -> Iterator[Metric]:
    prefix = "dagster_op_pool_concurrency"
    limit = GaugeMetricFamily(f"{prefix}_limit", "Slots of a pool.", labels=["pool", "using_default_limit"])
    counts = [
        GaugeMetricFamily(f"{prefix}_active_slots", "Slots that a step holds.", labels=["pool"]),
        GaugeMetricFamily(f"{prefix}_assigned_steps", "Steps that were given a slot.", labels=["pool"]),
        GaugeMetricFamily(f"{prefix}_pending_steps", "Steps that wait for a slot.", labels=["pool"]),
    ]
    for pool, slots, by_default, *found in rows(connection, POOLS):
        limit.add_metric([pool, str(by_default).lower()], slots)
        for family, count in zip(counts, found, strict=True):
            family.add_metric([pool], count)
    yield from (limit, *counts)


def daemons(connection: Connection, required: Collection[str]) -> Iterator[Metric]:
    healthy = GaugeMetricFamily(
        "dagster_daemon_healthy",
        f"Whether a part of the daemon reported in the last {SILENT_SECONDS} s, without an error: 1, or 0.",
        labels=["daemon_type", "required"],
    )
    beat = GaugeMetricFamily(
        "dagster_daemon_last_heartbeat_timestamp_seconds",
        "When a part of the daemon last reported.",
        labels=["daemon_type"],
    )
    heartbeats: dict[str, Any] = {part: dg.deserialize_value(body) for part, body in rows(connection, HEARTBEATS)}
    for part in sorted({*heartbeats, *required}):
        seen = heartbeats.get(part)
        well = seen and not seen.errors and time.time() - seen.timestamp < SILENT_SECONDS
        healthy.add_metric([part, str(part in required).lower()], bool(well))
        if seen:
            beat.add_metric([part], seen.timestamp)
    yield from (healthy, beat)


def connections(connection: Connection) -> Iterator[Metric]:
    used = GaugeMetricFamily(
        "dagster_postgres_connections", "Connections to the Postgres with Dagster's records.", labels=["state"]
    )
    for state, count in rows(connection, CONNECTIONS):
        used.add_metric([state], count)
    most = connection.scalar(text("SELECT current_setting('max_connections')::int"))
    yield used
    yield GaugeMetricFamily("dagster_postgres_max_connections", "The most that Postgres accepts.", value=most)
