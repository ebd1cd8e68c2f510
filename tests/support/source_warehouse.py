"""A database and the one pipeline that loads the source under test into it."""

from pathlib import Path
from typing import Any

import dlt
import pytest
from dlt.extract import DltSource
from dlt.pipeline.exceptions import PipelineStepFailed

from dlt_sources.errors import SourceError

# DuckDB's names for Postgres's types.
DUCKDB_NAMES = {
    "BYTEA": "BLOB",
    "CHARACTER VARYING": "VARCHAR",
    "DOUBLE PRECISION": "DOUBLE",
    "JSONB": "JSON",
    "TIME WITHOUT TIME ZONE": "TIME",
    "TIMESTAMP WITHOUT TIME ZONE": "TIMESTAMP",
}


class SourceWarehouse:
    """A database and the one pipeline that loads into it."""

    def __init__(self, folder: Path, postgres: str | None = None) -> None:
        self.folder = folder
        self.postgres = postgres
        self.pipeline = self.fresh_pipeline("pipelines")

    def fresh_pipeline(self, pipelines_dir: str) -> dlt.Pipeline:
        """The pipeline on a machine that has never run it."""
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
        """Run a load; the number of rows that it loaded into each table."""
        self.pipeline.run(list(sources))
        trace = self.pipeline.last_trace
        assert trace is not None
        assert trace.last_normalize_info is not None
        counts = trace.last_normalize_info.row_counts
        return {table: rows for table, rows in counts.items() if not table.startswith("_dlt")}

    def extract(self, *sources: DltSource) -> dict[str, int]:
        """Extract only, which moves the cursors; the number of rows of each table, without child tables."""
        info = self.pipeline.extract(list(sources))
        steps = (step for steps in info.metrics.values() for step in steps)
        counts = {table: found.items_count for step in steps for table, found in step["table_metrics"].items()}
        return {table: rows for table, rows in counts.items() if rows and not table.startswith("_dlt")}

    def load_error(self, source: DltSource) -> SourceError:
        """Run a load that must fail in extraction; the cause, with its message."""
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

    def undescribed(self, *tables: str) -> set[str]:
        """The columns of these tables, but for dlt's own, that the catalogue would show without a description."""
        return {
            f"{table}.{name}"
            for schema in self.pipeline.schemas.values()
            for table in tables
            for name, column in schema.tables.get(table, {"columns": {}})["columns"].items()
            if not name.startswith("_dlt") and not column.get("description")
        }

    def columns(self, table: str) -> dict[str, str]:
        """Names and types as the database has them, under DuckDB's names, without dlt's own columns."""
        found = self.rows(
            "SELECT column_name, upper(data_type), numeric_precision, numeric_scale FROM information_schema.columns "
            f"WHERE table_schema = 'raw' AND table_name = '{table}' ORDER BY ordinal_position"
        )
        return {
            name: f"DECIMAL({digits},{scale})" if kind == "NUMERIC" else DUCKDB_NAMES.get(kind, kind)
            for name, kind, digits, scale in found
            if not name.startswith("_dlt")
        }
