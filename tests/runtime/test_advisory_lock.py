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
from typing import Any

import pytest

from runtime.instance import advisory_lock
from runtime.instance.advisory_lock import AdvisoryLock, LockLost, acquire_within
from tests.support.database import Database
from tests.support.network import Proxy, Server, pgbouncer
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

    def make(name: str = "test", **options: Any) -> AdvisoryLock:
        made.append(AdvisoryLock(database.url, name, **options))
        return made[-1]

    yield make
    for one in made:
        one.release()


@pytest.fixture
def proxy(database: Database) -> Iterator[Proxy]:
    made = Proxy(database.server)
    yield made
    made.close()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "pg")
    yield made
    made.close()


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
    second.release()
    for _ in range(20):  # at once, not when Postgres has seen that the connection is closed
        one = lock()
        assert one.acquire()
        one.release()


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
    monkeypatch.setattr(advisory_lock, "_query", lambda *args, **_: [(-1, *row[1:]) for row in query(*args)])

    with pytest.raises(RuntimeError, match="needs a session of its own in Postgres"):
        lock().acquire()


WAIT = """
import sys
from runtime.instance.advisory_lock import AdvisoryLock
print(AdvisoryLock(sys.argv[1], "test", holder="a run that waits").acquire(lambda *waits: print(*waits, flush=True)))
"""
# A child that was forked lives on after its parent was killed.
FORK = """
import os, sys, time
from runtime.instance.advisory_lock import AdvisoryLock
lock = AdvisoryLock(sys.argv[1], "test")
lock.acquire()
if child := os.fork():
    print(child, flush=True)
time.sleep(100)
"""


def waiting(database: Database) -> list[tuple[Any, ...]]:
    """The connections that wait for a lock."""
    return database.execute(
        "SELECT pid FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()"
    )


@pytest.fixture
def taking() -> Iterator[Callable[[AdvisoryLock], tuple[threading.Event, list[str]]]]:
    """Takes a lock in a thread. Returns an event that is set once it has it, and what it waits for."""
    threads = []

    def take(lock: AdvisoryLock) -> tuple[threading.Event, list[str]]:
        taken, said = threading.Event(), list[str]()

        def work() -> None:
            lock.acquire(lambda name, holder: said.append(holder))
            taken.set()

        threads.append(threading.Thread(target=work, daemon=True))
        threads[-1].start()
        return taken, said

    yield take
    for thread in threads:
        thread.join(30)


def test_who_waits_uses_one_connection_and_is_told_whom_it_waits_for(
    database: Database, lock: Callable[..., AdvisoryLock], taking: Any
) -> None:
    first, second = lock(holder="run 1"), lock()
    database.execute(f"ALTER DATABASE {database.name} SET statement_timeout = '500ms'")
    assert first.acquire()
    taken, said = taking(second)
    wait_until(lambda: waiting(database))
    before = waiting(database)
    assert not taken.wait(2.5)
    assert waiting(database) == before
    first.release()

    assert taken.wait(5)
    assert said == ["run 1"]
    second.confirm()


def test_a_process_that_waits_can_be_interrupted_and_leaves_nothing_behind(
    database: Database, lock: Callable[..., AdvisoryLock]
) -> None:
    held = lock(holder="run 1")
    assert held.acquire()
    process = subprocess.Popen(
        [sys.executable, "-c", WAIT, database.url], cwd=ROOT, stdout=-1, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "test run 1\n"
        wait_until(lambda: waiting(database))
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)
    finally:
        process.kill()
        process.communicate()

    assert process.returncode == -signal.SIGINT
    wait_until(lambda: not waiting(database), 10)


def test_a_child_that_its_holder_has_forked_does_not_keep_it(
    database: Database, lock: Callable[..., AdvisoryLock]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-Wignore", "-c", FORK, database.url], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    child = int(process.stdout.readline())
    try:
        assert not lock().acquire()
        process.kill()
        process.wait()
        assert acquire_within(lock(), 10, lambda _: None, poll=0.05) is None
        assert Path(f"/proc/{child}").exists()
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()


def test_a_holder_that_gets_no_answer_gives_up_in_time(
    database: Database, proxy: Proxy, lock: Callable[..., AdvisoryLock], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way to Postgres is cut, and nobody says so. The server would free the lock after 25 seconds."""
    monkeypatch.setattr(advisory_lock, "ANSWER_SECONDS", 2.0)
    held = AdvisoryLock(proxy.url(database), "test", retakes=True)
    assert held.acquire()
    held.confirm()
    proxy.cut.set()

    assert held.lost.wait(4)
    with pytest.raises(LockLost):
        held.confirm()
    held.release()
    assert not lock().acquire(), "the server knows nothing yet"
    proxy.cut.clear()


@pytest.mark.timeout(300)
def test_a_restart_of_postgres_gives_the_lock_back_before_anybody_else_gets_it(
    own_server: Server, taking: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advisory_lock, "SETTLED_SECONDS", 0)
    first, second = (
        AdvisoryLock(own_server.url, "test", shared="tests", holder=f"run {n}", retakes=True) for n in (1, 2)
    )
    assert first.acquire()
    monkeypatch.setattr(advisory_lock, "SETTLED_SECONDS", 8.0)
    own_server.restart()
    taken, said = taking(second)

    first.confirm()
    assert not first.lost.is_set()
    wait_until(lambda: len(said) == 2, 30)
    assert "because Dagster's Postgres has just started" in said[0]
    assert said[1] == "run 1"
    assert not taken.is_set()
    first.release()
    assert taken.wait(10)
    second.release()


@pytest.mark.timeout(300)
def test_a_lock_is_lost_if_postgres_is_away_for_long_or_others_could_have_had_it(
    own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advisory_lock, "SETTLED_SECONDS", 0)
    first = AdvisoryLock(own_server.url, "test", retakes=True)
    assert first.acquire()
    own_server.restart()  # and settled at once: another may have loaded in between
    assert first.lost.wait(10)

    second = AdvisoryLock(own_server.url, "test", retakes=True)
    assert second.acquire()
    monkeypatch.setattr(advisory_lock, "SETTLED_SECONDS", 20)
    monkeypatch.setattr(advisory_lock, "ANSWER_SECONDS", 2)
    own_server.restart(seconds=4)
    assert second.lost.wait(1)


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_pgbouncer_in_session_mode_works_and_in_transaction_mode_is_refused(
    mode: str, database: Database, tmp_path: Path, taking: Any
) -> None:
    with pgbouncer(database, mode, tmp_path) as url:
        first, second = AdvisoryLock(url, "test", holder="run 1"), AdvisoryLock(url, "test", holder="run 2")
        if mode == "transaction":
            for _ in range(3):
                with pytest.raises(RuntimeError, match="pool with pool_mode = session"):
                    first.acquire()
            return
        assert first.acquire()
        assert not second.acquire()
        taken, said = taking(second)
        assert not taken.wait(1)
        assert said == ["run 1"]
        first.confirm()
        first.release()
        assert taken.wait(5)
        second.release()


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
