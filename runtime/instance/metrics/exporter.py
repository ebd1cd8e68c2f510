"""Answers a scrape: reads each part of Dagster on its own, so that one that fails leaves the others."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from dagster import DagsterInstance
from dagster_postgres import DagsterPostgresStorage
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import SQLAlchemyError

from runtime.instance.metrics import tables
from runtime.instance.metrics.events import Events
from runtime.instance.metrics.workspace import Workspace

CACHE_SECONDS = 5.0  # scrapes within that time get the same answer
CONNECTION = {
    "application_name": "metrics",
    "connect_timeout": 3,
    "tcp_user_timeout": 5000,
    "options": "-c statement_timeout=3000 -c default_transaction_read_only=on",
}

logger = logging.getLogger(__name__)


class Exporter:
    """A collector of prometheus_client. Scrapes that come together wait for the first one and share what it read."""

    def __init__(self, instance: DagsterInstance, webserver: str) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)  # before the counters, which it moves on before they are read
        self._errors = Counter(
            "dagster_exporter_scrape_errors", "Failed reads of a part.", ["collector"], registry=self.registry
        )
        self._engine = engine_of(instance)
        self.workspace = Workspace(webserver)
        self._events = Events(self.registry, self.workspace)
        self._database: dict[str, Callable[..., Iterable[Metric]]] = {
            "connections": tables.connections,
            "daemons": partial(tables.daemons, required=instance.get_required_daemon_types()),
            "pools": tables.pools,
            "runs": partial(tables.active_runs, workspace=self.workspace),
            "assets": partial(tables.assets, workspace=self.workspace),
            "freshness": partial(tables.freshness, workspace=self.workspace),
            "ticks": partial(tables.ticks, workspace=self.workspace),
            "events": self._events.read,
        }
        self._lock, self._last, self._read_at = threading.Lock(), list[Metric](), float("-inf")
        self._failed: set[str] = set()

    def close(self) -> None:
        self._engine.dispose()

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            if time.monotonic() - self._read_at > CACHE_SECONDS:
                self._last, self._read_at = list(self._read()), time.monotonic()
            return self._last

    def _read(self) -> Iterator[Metric]:
        success = GaugeMetricFamily(
            "dagster_exporter_last_scrape_success", "Whether a part could be read: 1, or 0.", labels=["collector"]
        )
        seconds = GaugeMetricFamily(
            "dagster_exporter_scrape_duration_seconds", "How long reading a part took.", labels=["collector"]
        )

        def attempt(name: str, read: Callable[[], Iterable[Metric]]) -> list[Metric]:
            started, found = time.monotonic(), list[Metric]()
            try:
                found = list(read())
            except Exception as error:
                self._report(name, error)
            else:
                self._failed.discard(name)
            success.add_metric([name], name not in self._failed)
            seconds.add_metric([name], time.monotonic() - started)
            return found

        yield from attempt("workspace", self.workspace.read)
        try:
            connection = self._engine.connect()
        except SQLAlchemyError as error:  # waits once, not for each part
            unreachable = error
            for name in self._database:
                self._report(name, unreachable)
                success.add_metric([name], 0)
        else:
            with connection:
                for name, read in self._database.items():
                    yield from attempt(name, partial(read, connection))
        yield from (success, seconds)

    def _report(self, name: str, error: Exception) -> None:
        self._errors.labels(name).inc()
        if name not in self._failed:  # once, and not for each scrape
            first = next(iter(str(error).strip().splitlines()), "")
            logger.warning("Cannot read %s: %s: %s", name, type(error).__name__, first)
        self._failed.add(name)


def engine_of(instance: DagsterInstance) -> Engine:
    """One connection to Dagster's Postgres, which waits for no lock or query for long, and can write nothing."""
    storage = instance.get_ref().storage
    if not isinstance(storage, DagsterPostgresStorage):
        sys.exit("Metrics need an instance on Postgres: this one has its records in SQLite. Use the stack in Docker.")
    return create_engine(
        storage.postgres_url,
        isolation_level="AUTOCOMMIT",
        pool_size=1,
        max_overflow=0,
        pool_pre_ping=True,  # Postgres may have restarted
        connect_args=CONNECTION,
    )
