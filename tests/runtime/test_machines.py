"""Runs that share Postgres and no folder, as on several machines: one per partition, whatever becomes of them."""

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from runtime.instance import advisory_lock
from runtime.instance.advisory_lock import LockLost
from runtime.load import resource
from runtime.load.resource import IsolatedDltResource
from tests.runtime.stress import inspect
from tests.support import colours, machines
from tests.support.colours import SHADES, colours_assets
from tests.support.database import Database
from tests.support.network import Server
from tests.support.processes import FORK
from tests.support.stack import wait_for
from tests.support.warehouse import Warehouse

STRESS = os.environ.get("HYPOTHESIS_PROFILE") == "stress"
ROUNDS = 20 if STRESS else 3
AT_ONCE = 6
SETTLED_SECONDS = 3.0

pytestmark = pytest.mark.timeout(1800 if STRESS else 300)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "pg")
    yield made
    made.close()


def test_six_machines_take_turns_whatever_is_killed(own_server: Server, tmp_path: Path) -> None:
    """24 partitions in rounds, while holders are killed, connections are cut off, and Postgres restarts."""
    home, chance = tmp_path / "home", random.Random(0)
    home.mkdir()
    storage = {"postgres": {"postgres_url": own_server.url.replace("postgresql:", "postgresql+psycopg2:")}}
    (home / "dagster.yaml").write_text(yaml.dump({"storage": storage, "telemetry": {"enabled": False}}))
    with dg.DagsterInstance.from_config(str(home)):
        pass  # makes the tables

    def start(number: int) -> BaseProcess:
        arguments = (str(home), str(tmp_path), number, ROUNDS, SETTLED_SECONDS)
        process: BaseProcess = FORK.Process(target=machines.take_turns, args=arguments)
        process.start()
        return process

    running, ended = {number: start(number) for number in range(AT_ONCE)}, list[int | None]()
    restarted = False
    while running:
        time.sleep(1)
        done = sum(path.stat().st_size for path in tmp_path.glob("progress*"))
        if done > AT_ONCE * ROUNDS * len(SHADES) // 2 and not restarted:
            restarted = True
            own_server.restart()
        elif chance.random() < 0.5:
            running[chance.choice(list(running))].kill()
        else:
            own_server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'run %' "
                "ORDER BY random() LIMIT 1"
            )
        for number, process in list(running.items()):
            if not process.is_alive():
                ended.append(process.exitcode)
                del running[number]
                if process.exitcode != 0:
                    running[number] = start(number)

    assert machines.OVERLAP not in ended
    assert set(ended) <= {0, 1, -9}, "done, without its lock, killed"
    assert ended.count(-9) > 0
    assert restarted
    for number in range(AT_ONCE):
        assert (tmp_path / f"progress{number}").stat().st_size == ROUNDS * len(SHADES)


class Run:
    """A load on a machine of its own."""

    def __init__(self, home: Path, folder: Path, shade: str, pause: bool = False) -> None:
        self.connection, theirs = FORK.Pipe()
        self.process: BaseProcess = FORK.Process(
            target=machines.load, args=(dict(os.environ), str(home), str(folder), shade, pause, theirs)
        )
        self.process.start()
        theirs.close()

    def hears(self, seconds: float = 100) -> Any:
        """What it sends next; None if it has ended without a word."""
        assert self.connection.poll(seconds), "the run hangs"
        try:
            return self.connection.recv()
        except EOFError:
            return None


@pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
def test_loads_on_six_machines_lose_nothing_and_load_nothing_twice(
    warehouse: Warehouse, home: Path, tmp_path: Path
) -> None:
    with dg.DagsterInstance.from_config(str(home)):
        pass
    shades = SHADES if STRESS else SHADES[:6]
    waiting, running, said = shades * 2, list[Run](), list[Any]()
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            running.append(Run(home, tmp_path, waiting.pop()))
        run = running.pop(0)
        said.append(run.hears())
        run.process.join()

    assert said == ["loaded"] * len(said)
    assert not list(inspect(warehouse, len(shades)))


@pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
def test_a_load_that_has_lost_its_lock_ends_before_it_writes_and_another_loads(
    warehouse: Warehouse, home: Path, tmp_path: Path, database: Database
) -> None:
    with dg.DagsterInstance.from_config(str(home)):
        pass
    first = Run(home, tmp_path, SHADES[0], pause=True)
    assert first.hears() == "loading"
    second = Run(home, tmp_path, SHADES[0])
    assert not second.connection.poll(5)
    [[run_id]] = database.execute("SELECT run_id FROM event_logs WHERE event LIKE '%%Waiting for run %%'")
    [[holder]] = database.execute(
        "SELECT application_name FROM pg_stat_activity JOIN pg_locks USING (pid) "
        "WHERE locktype = 'advisory' AND granted AND mode = 'ExclusiveLock'"
    )
    assert run_id not in holder
    database.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s", holder)

    assert first.hears(5) is None
    first.process.join()
    assert first.process.exitcode == 1
    assert any("has lost its lock" in file.read_text() for file in home.rglob("*.err")), "the run's stderr in the UI"
    assert second.hears() == "loaded"
    assert not list(inspect(warehouse, 1, loads=1))


@pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
def test_a_lock_is_confirmed_before_anything_is_written(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def lost(*_: Any) -> Iterator[Any]:
        def confirm() -> None:
            raise LockLost("as if the process had been suspended for a minute")

        yield confirm

    monkeypatch.setattr(resource, "partition_lock", lost)
    with pytest.raises(dg.Failure, match="suspended"):
        colours.load(SHADES[0])

    assert warehouse.datasets() == set()


@pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
def test_a_load_that_waits_can_be_cancelled(
    warehouse: Warehouse, home: Path, tmp_path: Path, database: Database
) -> None:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        first = Run(home, tmp_path, SHADES[0], pause=True)
        assert first.hears() == "loading"
        second = Run(home, tmp_path, SHADES[0])
        waiting = "SELECT run_id FROM event_logs WHERE event LIKE '%%Waiting for run %%'"
        [[run_id]] = wait_for(lambda: database.execute(waiting), 60, "the second run to wait")
        run = instance.get_run_by_id(run_id)
        assert run
        instance.report_run_canceling(run)  # as the launcher does before it interrupts the process
        os.kill(second.process.pid or -1, signal.SIGINT)
        second.process.join(20)
        assert second.process.exitcode is not None
        first.connection.send("go on")
        assert first.hears() == "loaded"
        statuses = {run.run_id == run_id: run.status for run in instance.get_runs()}

    assert statuses == {True: dg.DagsterRunStatus.CANCELED, False: dg.DagsterRunStatus.SUCCESS}
    assert not list(inspect(warehouse, 1, loads=1))


@pytest.mark.parametrize(
    ("storage", "module"),
    [
        ("postgres", "tests.support.machines"),
        ("postgres", "not_in_the_image_of_a_location"),
        ("sqlite", "tests.support.machines"),
    ],
)
def test_on_several_machines_duckdb_needs_a_shared_volume_and_dagster_needs_postgres(
    storage: str, module: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advisory_lock, "SETTLED_SECONDS", 0)
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    monkeypatch.setenv("WAREHOUSE", "duckdb")
    monkeypatch.setenv("DESTINATION__DUCKDB__CREDENTIALS", str(tmp_path / "warehouse.duckdb"))
    if storage == "postgres":
        request.getfixturevalue("home")
    launcher = f"run_launcher: {{module: {module}, class: FarLauncher}}\n"
    with (tmp_path / "dagster.yaml").open("a") as file:
        file.write(launcher)

    def load() -> str | None:
        with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
            resources = {"dlt": IsolatedDltResource()}
            result = dg.materialize(
                [colours_assets()],
                partition_key=SHADES[0],
                resources=resources,
                instance=instance,
                raise_on_error=False,
            )
        if result.success:
            return None
        [failed] = result.get_step_failure_events()
        return failed.step_failure_data.error_display_string

    refused = load() or ""
    monkeypatch.setenv("RUNTIME__DUCKDB_SHARED_VOLUME", "true")
    if storage == "postgres":
        assert "FarLauncher starts runs that may be on several machines, and " in refused
        assert "warehouse.duckdb is a file on one." in refused
        assert load() is None
    else:
        assert "the locks of loads reach them only in Postgres" in refused
        assert "the locks of loads reach them only in Postgres" in (load() or "")
