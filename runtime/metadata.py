"""What a load says about itself in Dagster's catalogue. Reads dlt's schema and trace, and changes neither."""

from collections.abc import Mapping
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import dlt
from dagster import MetadataValue, TableColumn, TableColumnConstraints, TableSchema
from dagster._core.definitions.metadata.metadata_set import TableMetadataSet
from dlt.common.destination.client import JobClientBase
from dlt.common.pipeline import LoadInfo
from dlt.common.schema import Schema
from dlt.common.schema.typing import TTableSchema
from dlt.common.schema.utils import get_nested_tables
from dlt.destinations.impl.duckdb.configuration import DuckDbCredentials
from dlt.destinations.job_client_impl import SqlJobClientBase
from dlt.extract.resource import DltResource


def resource_metadata(resource: DltResource, load_info: LoadInfo, pipeline: dlt.Pipeline) -> Mapping[str, Any]:
    """Rows, columns, names and times of one resource's tables in one load.

    `rows_loaded` counts the rows that the load brought into the resource's own tables, `rows_loaded/<table>` those of
    each table, children included: rows sent, not rows in the warehouse. An empty load counts 0. Times are seconds
    and cover all resources of the load, as do bytes (files sent to the warehouse).
    """
    schema = _schema_of(resource, load_info, pipeline)
    tables = tables_of(resource.name, schema) if schema else {}
    roots = [name for name, table in tables.items() if not table.get("parent")]
    sent = _rows_sent(pipeline)
    metadata: dict[str, Any] = {
        "rows_loaded": MetadataValue.int(sum(sent.get(name, 0) for name in roots)),
        **{f"rows_loaded/{name}": MetadataValue.int(sent.get(name, 0)) for name in tables},
        **{name: _table_schema(schema, name) for name in tables if schema and name not in roots[:1]},
        **_load_metadata(load_info, pipeline),
    }
    if schema and len(roots) == 1:  # a resource that sends each row to a table of its own choice has no single one
        metadata |= TableMetadataSet(
            column_schema=_table_schema(schema, roots[0]),
            table_name=qualified_name(pipeline, schema, roots[0]),
            storage_kind=load_info.destination_name,
        )
    return metadata


def _schema_of(resource: DltResource, load_info: LoadInfo, pipeline: dlt.Pipeline) -> Schema | None:
    """The schema with the resource's tables: the one just loaded, else one that an earlier load left."""
    loaded = [package.schema for package in load_info.load_packages] if load_info else []
    left = (pipeline.schemas[name] for name in pipeline.schemas)  # each is read from its file
    for schema in chain(loaded, left):
        if tables_of(resource.name, schema):
            return schema
    return None


def tables_of(resource_name: str, schema: Schema) -> dict[str, TTableSchema]:
    """A resource's tables that have columns, each followed by its descendants."""
    roots = [name for name, table in schema.tables.items() if table.get("resource") == resource_name]
    tables = {str(table["name"]): table for root in roots for table in get_nested_tables(schema.tables, root)}
    # Asked of these alone: `schema.data_tables()` asks it of all, and a load's time would grow with their square.
    return {name: table for name, table in tables.items() if schema.get_table_columns(name)}


def _rows_sent(pipeline: dlt.Pipeline) -> Mapping[str, int]:
    info = pipeline.last_trace.last_normalize_info if pipeline.last_trace else None
    return info.row_counts if info else {}


def _table_schema(schema: Schema, table_name: str) -> TableSchema:
    return TableSchema(
        columns=[
            TableColumn(
                name=name,
                type=column.get("data_type") or "unknown",
                description=column.get("description"),
                constraints=TableColumnConstraints(
                    nullable=column.get("nullable") is not False,
                    unique=bool(column.get("unique")),
                    other=[hint for hint in ("primary_key", "merge_key", "parent_key") if column.get(hint)],
                ),
            )
            for name, column in schema.get_table_columns(table_name).items()
        ]
    )


def _load_metadata(load_info: LoadInfo, pipeline: dlt.Pipeline) -> dict[str, Any]:
    steps = pipeline.last_trace.steps if pipeline.last_trace else []
    seconds = {
        f"seconds_{step.step}": MetadataValue.float((step.finished_at - step.started_at).total_seconds())
        for step in steps
        if step.step in ("extract", "normalize", "load") and step.finished_at
    }
    jobs = [job for package in load_info.load_packages for job in package.jobs["completed_jobs"]]
    return {
        "destination_name": load_info.destination_name,
        "destination_type": load_info.destination_type,
        "dataset_name": load_info.dataset_name,
        "pipeline_name": pipeline.pipeline_name,
        "load_ids": MetadataValue.json(list(load_info.loads_ids)),  # as in the warehouse's `_dlt_loads`
        "first_run": load_info.first_run,
        "bytes_loaded": MetadataValue.int(sum(job.file_size for job in jobs)),
        **seconds,
    }


def qualified_name(pipeline: dlt.Pipeline, schema: Schema, table_name: str) -> str:
    """`<database>.<dataset>.<table>`, as a query would write it."""
    client = _client(pipeline, schema.name)
    if not isinstance(client, SqlJobClientBase):
        return f"{pipeline.dataset_name}.{table_name}"
    path = client.sql_client.make_qualified_table_name_path(table_name, quote=False)
    if len(path) == 2:  # no catalogue in this destination's names: the connection is bound to a database
        credentials = client.config.credentials
        database = getattr(credentials, "database", None) or ""
        path = [Path(database).stem if isinstance(credentials, DuckDbCredentials) else database, *path]
    return ".".join(path)


@lru_cache(maxsize=1)
def _client(pipeline: dlt.Pipeline, schema_name: str) -> JobClientBase:
    """For all tables of a load: dlt reads the whole schema each time, and the time would grow with their square."""
    return pipeline.destination_client(schema_name)
