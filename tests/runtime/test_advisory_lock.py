"""The advisory lock on a real Postgres: one holder, known by name, and free when it is gone."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.instance import advisory_lock
from runtime.instance.advisory_lock import AdvisoryLock, acquire_within
from tests.support.database import Database
from tests.support.paths import ROOT

HOLD = """
import sys, time
from runtime.instance.advisory_lock import AdvisoryLock
lock = AdvisoryLock(sys.argv[1], "test")
print(lock.acquire(), flush=True)
time.sleep(100)
"""


@pytest.fixture
def lock(database: Database) -> Iterator[Callable[..., AdvisoryLock]]:
    made: list[AdvisoryLock] = []

    def make(name: str = "test", on_lost: Callable[[], None] = lambda: None) -> AdvisoryLock:
        made.append(AdvisoryLock(database.url, name, on_lost))
        return made[-1]

    yield make
    for one in made:
        one.release()


@contextmanager
def other_process(database: Database) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock."""
    command = [sys.executable, "-c", HOLD, database.url]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        assert process.stdout.readline() == "True\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def terminate_backends(database: Database) -> None:
    """What a restart of Postgres does to the connections."""
    database.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'test on %%'")


def test_one_holds_it_until_it_is_released(lock: Callable[..., AdvisoryLock]) -> None:
    first, second = lock(), lock()

    assert [first.acquire(), second.acquire(), lock("another").acquire()] == [True, False, True]
    first.release()
    assert second.acquire()


def test_the_holder_is_named_with_its_process_and_address(
    database: Database, lock: Callable[..., AdvisoryLock]
) -> None:
    assert lock().holder() is None
    with other_process(database) as process:
        assert not lock().acquire()
        holder = lock().holder() or ""

    assert holder.startswith(
        f"test on {os.uname().nodename}, pid {process.pid} at the same machine, connected since 20"
    )


def test_it_is_free_as_soon_as_the_process_is_killed(database: Database, lock: Callable[..., AdvisoryLock]) -> None:
    with other_process(database) as process:
        assert not lock().acquire()
        process.send_signal(signal.SIGKILL)
        process.wait()

        assert acquire_within(lock(), 10, lambda _: None, poll=0.05) is None


def test_a_holder_that_loses_its_connection_notices_within_two_seconds(
    database: Database, lock: Callable[..., AdvisoryLock], caplog: pytest.LogCaptureFixture
) -> None:
    told = threading.Event()
    held = lock(on_lost=told.set)
    assert held.acquire()
    assert not held.lost.wait(1.5)
    terminate_backends(database)

    assert told.wait(advisory_lock.BEAT_SECONDS + 1)
    assert held.lost.is_set()
    assert "The lock 'test' is lost: " in caplog.text
    assert lock().acquire()


def test_waiting_says_who_holds_it_once_and_gives_up_in_time(
    database: Database, lock: Callable[..., AdvisoryLock]
) -> None:
    said: list[str] = []
    with other_process(database) as process:
        holder = acquire_within(lock(), 0.5, said.append, poll=0.05)

    assert f"pid {process.pid}" in (holder or "")
    [line] = said
    assert line.startswith("Waiting up to 0 s for the lock 'test', which is held by test on ")


def test_a_pooler_in_between_is_refused(lock: Callable[..., AdvisoryLock], monkeypatch: pytest.MonkeyPatch) -> None:
    """PgBouncer invents the process id that a client is told. Here the query answers with another one."""
    query = advisory_lock._query
    monkeypatch.setattr(advisory_lock, "_query", lambda *args: [(-1, *row[1:]) for row in query(*args)])

    with pytest.raises(RuntimeError, match="needs a session of its own in Postgres"):
        lock().acquire()


def daemon(home: Path, wait: float) -> subprocess.Popen[str]:
    """The daemon as compose starts it, but with another time to wait for the lock."""
    code = f"from runtime.instance import daemon; daemon.WAIT_SECONDS = {wait}; daemon.main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "run", "--workspace", str(home / "workspace.yaml")],
        env=os.environ | {"DAGSTER_HOME": str(home), "PYTHONPATH": str(ROOT)},
        cwd=home,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.timeout(300)
def test_a_second_daemon_is_refused_and_told_who_the_first_is_and_one_without_its_lock_stops(
    database: Database, home: Path
) -> None:
    watcher = AdvisoryLock(database.url, "dagster-daemon")
    first = daemon(home, 1)
    try:
        wait_until(watcher.holder, 100)
        second = daemon(home, 0)
        _, errors = second.communicate(timeout=100)
        assert second.returncode == 1
        assert errors.splitlines()[-1].startswith("Another daemon works on this instance: dagster-daemon on ")
        assert f"pid {first.pid} at the same machine" in errors

        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'dagster-daemon on %%'"
        )
        _, errors = first.communicate(timeout=20)
        assert first.returncode == 1
        assert "This daemon stops, because another one may take its place." in errors
    finally:
        first.kill()
        first.communicate()
