"""`make doctor` on a stack that is well, and on one where many things are broken at once."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.stack import Clone, wait_for

# What the tests do inside containers.
OLD_HEARTBEAT = """
import time
from dagster import DagsterInstance
from dagster._daemon.types import DaemonHeartbeat
with DagsterInstance.get() as instance:
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - 3600, "SENSOR", "the-one-of-the-test", []))
"""
STUCK_POOL = """
from dagster import DagsterInstance
with DagsterInstance.get() as instance:
    instance.event_log_storage.set_concurrency_slots("stripe", 1)
    instance.event_log_storage.claim_concurrency_slot("stripe", "a-run-that-has-ended", "issues")
"""
FREE_POOL = """
from dagster import DagsterInstance
with DagsterInstance.get() as instance:
    instance.event_log_storage.free_concurrency_slots_for_run("a-run-that-has-ended")
    instance.event_log_storage.delete_concurrency_limit("stripe")
"""
CRASH = (
    "import os, signal; os.kill(min(pid for pid in map(int, filter(str.isdigit, os.listdir('/proc'))) if pid > 1), 9)"
)


def doctor(stack: Clone) -> tuple[int, str]:
    """Its exit code and what it prints, which never has a secret."""
    done = stack.script("doctor")
    assert not done.stderr, done.stderr
    for line in stack.env_file.read_text().splitlines():
        name, _, value = line.partition("=")
        if name.endswith(("PASSWORD", "TOKEN", "KEY")) and not name.startswith("#") and value:
            assert value not in done.stdout, name
    return done.returncode, done.stdout


def python(stack: Clone, service: str, code: str) -> None:
    stack.compose("exec", "-T", service, "python", "-c", code)


def psql(stack: Clone, sql: str) -> None:
    stack.compose("exec", "-T", "postgres", "psql", "-U", "dagster", "-c", sql)


@pytest.fixture(scope="module", autouse=True)
def well(started: tuple[Clone, str]) -> None:
    """Whatever the tests before have left."""
    started[0].up()


@pytest.fixture
def broken(running: Clone) -> Iterator[Clone]:
    stack = running
    definitions = stack.root / "code_locations" / "analytics" / "definitions.py"
    code, settings = definitions.read_text(), stack.env_file.read_text()
    yield stack
    definitions.write_text(code)
    stack.env_file.write_text(settings)
    stack.env_file.chmod(0o600)
    psql(stack, "UPDATE alembic_version SET version_num = (SELECT max(version_num) FROM kept)")
    psql(stack, "DROP TABLE kept")
    python(stack, "webserver", FREE_POOL)


def test_a_stack_that_is_well_has_nothing_wrong(running: Clone) -> None:
    code, said = doctor(running)

    assert (code, "WRONG" in said) == (0, False), said
    assert "Nothing is wrong." in said
    assert "ok     engineering   set: SOURCES__GITHUB__ACCESS_TOKEN" in said


def test_settings_that_compose_cannot_use_are_named(running: Clone) -> None:
    settings = running.env_file.read_text()
    running.set("WEBSERVER_PORT", "http")
    assert "Invalid hostPort: http" in doctor(running)[1]
    running.env_file.write_text(settings)
    running.set("DAGSTER_POSTGRES_PASSWORD", "CHANGEME-dagster")
    assert "DAGSTER_POSTGRES_PASSWORD: still the placeholder." in doctor(running)[1]
    running.env_file.unlink()

    code, said = doctor_without_settings(running)

    running.env_file.write_text(settings)
    assert code == 1
    assert ".env is missing." in said
    assert "make up" in said


def doctor_without_settings(stack: Clone) -> tuple[int, str]:
    done = stack.script("doctor")
    return done.returncode, done.stdout


@contextmanager
def taken(port: int) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", port)):
        yield


def test_everything_that_is_broken_is_named_with_what_to_do(broken: Clone) -> None:
    stack = broken
    psql(stack, "CREATE TABLE kept AS SELECT * FROM alembic_version")
    python(stack, "webserver", STUCK_POOL)
    # An import that fails; a secret that is a placeholder, and one that is empty; a port for everybody
    (stack.root / "code_locations" / "analytics" / "definitions.py").write_text("raise ValueError('what I broke')")
    (stack.root / "open.yml").write_text('services: {webserver: {ports: !override ["0.0.0.0:${WEBSERVER_PORT}:3000"]}}')
    stack.set("SOURCES__GITHUB__ACCESS_TOKEN", "CHANGEME")
    stack.set("SOURCES__THINKIFIC__API_KEY", "")
    stack.env_file.write_text(stack.env_file.read_text() + "\nCOMPOSE_FILE=docker-compose.yml:open.yml\n")
    stack.up("webserver", "analytics", "engineering", "learning")
    os.chmod(stack.env_file, 0o644)
    python(stack, "revenue", CRASH)
    wait_for(lambda: "(healthy)" in stack.compose("ps", "revenue").stdout, 120, "revenue to start again")
    stack.compose("stop", "daemon", "operations", "--timeout", "5")
    stack.compose("rm", "--force", "--stop", "learning")
    with (stack.root / "dlt_sources" / "github" / "__init__.py").open("a") as file:
        file.write("# edited\n")
    stack.compose("build", "engineering")
    python(stack, "webserver", OLD_HEARTBEAT)
    psql(stack, "UPDATE alembic_version SET version_num = '567bc23fd1ac'")

    code, said = doctor(stack)

    assert code == 1
    expected = {
        "settings": "Other users of this machine can read .env.",
        "engineering": "github: SOURCES__GITHUB__ACCESS_TOKEN is still the placeholder.",
        "learning": "thinkific: SOURCES__THINKIFIC__API_KEY is not set.",
        "learning ": "has no container.",
        "operations": "is not running (exited",
        "revenue": "restarted 1 times.",
        "engineering ": "runs an older image than the one built last.",
        "webserver": "is reachable at 0.0.0.0:",
        "analytics": "could not be loaded: ValueError: what I broke",
        "daemon": "last heartbeat 60 minutes ago",
        "pool": "stripe: runs that have ended hold 1 of 1 slots.",
        "schema": "Dagster's tables are older than its code.",
    }
    for text in expected.values():
        assert text in said, f"{text}\n{said}"
    lines = said.splitlines()
    for number, line in enumerate(lines):
        assert not line.startswith("WRONG") or "→" in lines[number + 1], line


def test_a_stack_that_is_down_is_named(running: Clone) -> None:
    running.compose("kill", "postgres", "webserver")
    with taken(running.port):
        code, said = doctor(running)
    running.up()

    assert code == 1
    assert "postgres      is not running" in said
    assert f"Port {running.port} is taken by another program." in said
