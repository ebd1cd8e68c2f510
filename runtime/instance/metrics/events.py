"""What happened since the service started: follows the event log by the numbers of its events."""

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import dagster as dg
from prometheus_client import CollectorRegistry, Counter, Histogram, Summary
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from sqlalchemy import Connection, text

from runtime.instance.metrics.tables import LOCATION, location_of, rows
from runtime.instance.metrics.workspace import Workspace

BATCH = 500
LOOK_SECONDS = 2.0  # after which the rest waits for the next scrape
REMEMBERED = 1000  # check results and ended runs that the start looks back at
MATERIALIZATION, CHECK = "ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION"
ENDS = {"PIPELINE_SUCCESS": "success", "PIPELINE_FAILURE": "failure", "PIPELINE_CANCELED": "canceled"}

NEWEST = "SELECT coalesce(max(id), 0) FROM event_logs"
NEW = """
SELECT id, dagster_event_type, run_id, CASE WHEN dagster_event_type != ALL(:ends) THEN event END
FROM event_logs WHERE id > :cursor AND id <= :until AND dagster_event_type = ANY(:kinds) ORDER BY id LIMIT :batch
"""
LAST_CHECKS = """
SELECT id, event FROM event_logs WHERE dagster_event_type = :check AND id <= :until ORDER BY id DESC LIMIT :most
"""
RUN = f"""
SELECT run_id, pipeline_name, {LOCATION}, status, extract(epoch FROM create_timestamp), start_time, end_time FROM runs
"""
LAST_RUNS = f"{RUN} WHERE end_time IS NOT NULL ORDER BY id DESC LIMIT :most"
RUNS = f"{RUN} WHERE run_id = ANY(:run_ids)"
RUN_SECONDS = (5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600)
QUEUE_SECONDS = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200)

logger = logging.getLogger(__name__)


class Events:
    """Counts runs, materializations and check results. The cost of a scrape is that of what is new.

    An event may become visible after one with a higher number. So a scrape reads up to the number that the one before
    found to be the newest: by now, those in between are there.
    """

    def __init__(self, registry: CollectorRegistry, workspace: Workspace) -> None:
        self.workspace = workspace
        job, asset = ["job_name", "location"], ["asset_key"]
        self.completed = Counter("dagster_completed_runs", "Runs that ended.", [*job, "status"], registry=registry)
        self.run_seconds = Histogram(
            "dagster_run_duration_seconds", "From start to end of a run.", job, registry=registry, buckets=RUN_SECONDS
        )
        self.queue_seconds = Histogram(
            "dagster_run_queue_seconds",
            "From creation to start of a run.",
            job,
            registry=registry,
            buckets=QUEUE_SECONDS,
        )
        self.materializations = Counter(
            "dagster_asset_materializations", "Materializations of an asset.", asset, registry=registry
        )
        self.load_rows = Summary("dagster_load_rows", "Rows that a load sent to an asset.", asset, registry=registry)
        self.load_seconds = Summary(
            "dagster_load_seconds", "Seconds of a load, of all assets that it loaded.", asset, registry=registry
        )
        self.evaluations = Counter(
            "dagster_asset_check_evaluations",
            "Evaluations of an asset check.",
            ["asset_key", "check_name", "status"],
            registry=registry,
        )
        self.last_runs: dict[tuple[str, str], tuple[str, float]] = {}  # job, location → status, seconds
        self.failing: dict[tuple[str, str], dict[str | None, str]] = {}  # asset, check → partition → severity
        self.loads: deque[tuple[str, str]] = deque(maxlen=REMEMBERED)
        self.cursor: int | None = None
        self.newest = 0

    def read(self, connection: Connection) -> Iterator[Metric]:
        until, self.newest = self.newest, int(connection.scalar(text(NEWEST)) or 0)
        if self.cursor is None or self.newest < self.cursor:  # the start, or a backup was restored
            self._look_back(connection)
            self.cursor = until = self.newest
        self._zeros()
        deadline = time.monotonic() + LOOK_SECONDS
        while self.cursor < until and time.monotonic() < deadline:
            self.cursor = self._follow(connection, self.cursor, until)
        yield from self._gauges()

    def _look_back(self, connection: Connection) -> None:
        """What the last events say of now. Nothing of it is counted."""
        self.last_runs, self.failing = {}, {}
        for _, job, repository, status, created, _, ended in reversed(rows(connection, LAST_RUNS, most=REMEMBERED)):
            self.last_runs[job, location_of(repository)] = status.lower(), ended - float(created)
        checks = rows(connection, LAST_CHECKS, check=CHECK, until=self.newest, most=REMEMBERED)
        for number, event in reversed(checks):
            if entry := entry_of(number, event):
                self._check(entry)

    def _zeros(self) -> None:
        """Series that exist before the first event: the increase from nothing to 1 is no increase to Prometheus."""
        for job, location in self.workspace.jobs:
            self.run_seconds.labels(job, location)
            self.queue_seconds.labels(job, location)
            for status in ("success", "failure"):
                self.completed.labels(job, location, status)
        for asset in self.workspace.assets:
            for figure in (self.materializations, self.load_rows, self.load_seconds):
                figure.labels(asset)
        for asset, check in self.workspace.checks:
            for status in ("passed", "failed"):
                self.evaluations.labels(asset, check, status)

    def _follow(self, connection: Connection, cursor: int, until: int) -> int:
        """Counts the next events, and returns the number up to which all are counted.

        First reads all of it, so that a failure leaves nothing that the next scrape would count again.
        """
        kinds = [*ENDS, MATERIALIZATION, CHECK]
        events = rows(connection, NEW, cursor=cursor, until=until, kinds=kinds, ends=list(ENDS), batch=BATCH)
        ended = {run_id: ENDS[kind] for _, kind, run_id, _ in events if kind in ENDS}
        runs = rows(connection, RUNS, run_ids=list(ended)) if ended else []
        entries = [(run_id, entry_of(number, event)) for number, _, run_id, event in events if event]
        self._runs(runs, ended)
        for run_id, entry in entries:
            if entry and entry.asset_materialization:
                self._materialization(run_id, entry.asset_materialization)
            elif entry:
                evaluation = self._check(entry)
                name = evaluation.asset_key.to_user_string(), evaluation.check_name
                self.evaluations.labels(*name, "passed" if evaluation.passed else "failed").inc()
        return int(events[-1].id) if len(events) == BATCH else until

    def _runs(self, runs: Iterable[Any], ended: dict[str, str]) -> None:
        for run_id, job, repository, _, created, start, end in runs:
            name = job, location_of(repository)
            self.completed.labels(*name, ended[run_id]).inc()
            if start:
                self.queue_seconds.labels(*name).observe(max(0.0, start - float(created)))
            if start and end:
                self.run_seconds.labels(*name).observe(end - start)
            if end:
                self.last_runs[name] = ended[run_id], end - float(created)

    def _materialization(self, run_id: str, found: dg.AssetMaterialization) -> None:
        asset = found.asset_key.to_user_string()
        self.materializations.labels(asset).inc()
        sent = found.metadata.get("rows_loaded")
        if sent is None or (run_id, asset) in self.loads:  # a load of a range of partitions has an event for each
            return
        self.loads.append((run_id, asset))
        self.load_rows.labels(asset).observe(number_in(sent))
        steps = [found.metadata.get(f"seconds_{step}") for step in ("extract", "normalize", "load")]
        self.load_seconds.labels(asset).observe(sum(number_in(step) for step in steps if step))

    def _check(self, entry: dg.EventLogEntry) -> dg.AssetCheckEvaluation:
        evaluation: Any = entry.get_dagster_event().asset_check_evaluation_data
        failing = self.failing.setdefault((evaluation.asset_key.to_user_string(), evaluation.check_name), {})
        if evaluation.passed:
            failing.pop(evaluation.partition, None)
        else:
            failing[evaluation.partition] = evaluation.severity.value.lower()
        return evaluation  # type: ignore[no-any-return]

    def _gauges(self) -> Iterator[Metric]:
        labels = ["job_name", "location", "status"]
        last = GaugeMetricFamily("dagster_last_run_info", "1; how the last run of a job ended.", labels=labels)
        seconds = GaugeMetricFamily(
            "dagster_last_run_duration_seconds", "From creation to end of the last run of a job.", labels=labels
        )
        jobs, checks = self.workspace.jobs, self.workspace.checks
        for (job, location), (status, took) in self.last_runs.items():
            if not self.workspace.is_known or (job, location) in jobs:
                last.add_metric([job, location, status], 1)
                seconds.add_metric([job, location, status], took)
        failing = GaugeMetricFamily(
            "dagster_asset_check_failing",
            "Partitions of which the last evaluation of a check failed. 1 without partitions.",
            labels=["asset_key", "check_name", "severity"],
        )
        for name, partitions in self.failing.items():
            if not self.workspace.is_known or name in checks:
                for severity in ("error", "warn"):
                    failing.add_metric([*name, severity], list(partitions.values()).count(severity))
        yield from (last, seconds, failing)


def entry_of(number: int, event: str) -> dg.EventLogEntry | None:
    """An event. One that cannot be read, as of a newer version of Dagster, must not stop what follows it."""
    try:
        return dg.deserialize_value(event, dg.EventLogEntry)
    except Exception as error:
        logger.warning("Left out event %s of the log: %s", number, type(error).__name__)
        return None


def number_in(value: dg.MetadataValue[Any]) -> float:
    return float(value.value) if isinstance(value.value, int | float) else 0.0
