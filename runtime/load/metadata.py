"""What Dagster's catalogue shows of a table and of its loads. Reads dlt's schema and trace, and changes neither."""

from collections.abc import Collection, Mapping
from datetime import datetime
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import dlt
from dagster import MetadataValue, TableColumn, TableColumnConstraints, TableSchema
from dlt.common.destination.client import JobClientBase
from dlt.common.pipeline import LoadInfo
from dlt.common.schema import Schema
from dlt.common.schema.typing import TTableSchema
from dlt.common.schema.utils import get_nested_tables, new_table
from dlt.destinations.impl.duckdb.configuration import DuckDbCredentials
from dlt.destinations.job_client_impl import SqlJobClientBase
from dlt.extract.resource import DltResource


def resource_metadata(resource: DltResource, load_info: LoadInfo, pipeline: dlt.Pipeline) -> Mapping[str, Any]:
    """Rows, columns, names and times of one resource's tables in one load.

    `rows_loaded` is the number of rows that the load sent to the resource's own tables, `rows_loaded/<table>` the
    number for each table, child tables included; a merge may change fewer. Both are 0 for an empty load. `jobs` lists
    the files that were loaded into these tables. Times and `bytes_loaded` cover all resources of the load. Has every
    key that dagster-dlt's own metadata has, and no local path.
    """
    schema = _schema_of(resource, load_info, pipeline)
    tables = tables_of(resource.name, schema) if schema else {}
    roots = [name for name, table in tables.items() if not table.get("parent")]
    single = roots[0] if len(roots) == 1 else None  # with a dynamic table name, a resource may have several
    sent = _rows_sent(pipeline)
    metadata: dict[str, Any] = {
        "rows_loaded": MetadataValue.int(sum(sent.get(name, 0) for name in roots)),
        **{f"rows_loaded/{name}": MetadataValue.int(sent.get(name, 0)) for name in tables},
        **{name: _table_schema(schema, name) for name in tables if schema and name != single},
        **_load_metadata(load_info, pipeline),
        "jobs": _jobs(load_info, tables),
    }
    if max_items := getattr(pipeline, "max_items", 0):
        metadata["max_items"] = MetadataValue.int(max_items)
    if schema and single:
        metadata |= {
            "dagster/column_schema": _table_schema(schema, single),
            "dagster/table_name": qualified_name(pipeline, schema, single),
            "dagster/storage_kind": load_info.destination_name,
        }
    return metadata


def declared_columns(resource: DltResource) -> TableSchema | None:
    """The columns that the source declares with a type, which is all that is known of a table before its first load.

    None if there are no such columns, or if they depend on the data.
    """
    columns = resource.columns
    if not columns or callable(columns):
        return None
    schema = Schema("declared")
    schema.update_table(new_table("columns", columns=list(columns.values())))  # with their names in the warehouse
    declared = _table_schema(schema, "columns")
    return declared if declared.columns else None


def _schema_of(resource: DltResource, load_info: LoadInfo, pipeline: dlt.Pipeline) -> Schema | None:
    """The schema with the resource's tables: the one just loaded, else one that an earlier load left."""
    loaded = (package.schema for package in load_info.load_packages)
    left = (pipeline.schemas[name] for name in pipeline.schemas)  # each is read from its file
    for schema in chain(loaded, left):
        if tables_of(resource.name, schema):
            return schema
    return None


def tables_of(resource_name: str, schema: Schema) -> dict[str, TTableSchema]:
    """A resource's tables that have columns, each followed by its descendants."""
    # `schema.data_tables()` scans all tables for each resource, so the time of a load would grow quadratically.
    roots = [name for name, table in schema.tables.items() if table.get("resource") == resource_name]
    tables = {str(table["name"]): table for root in roots for table in get_nested_tables(schema.tables, root)}
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
    times = {"started_at": load_info.started_at, "finished_at": load_info.finished_at}  # of the step `load`
    jobs = [job for package in load_info.load_packages for job in package.jobs["completed_jobs"]]
    return {
        **{name: str(time) for name, time in times.items() if time},
        "destination_name": load_info.destination_name,
        "destination_type": load_info.destination_type,
        "dataset_name": load_info.dataset_name,
        "pipeline_name": pipeline.pipeline_name,
        "load_ids": MetadataValue.json(list(load_info.loads_ids)),  # as in the warehouse's `_dlt_loads`
        "first_run": load_info.first_run,
        "bytes_loaded": MetadataValue.int(sum(job.file_size for job in jobs)),
        **seconds,
    }


def _jobs(load_info: LoadInfo, tables: Collection[str]) -> list[dict[str, Any]]:
    """The load jobs of these tables, one file each, with dlt's names."""
    return [
        {name: str(value) if isinstance(value, datetime) else value for name, value in job.asdict().items()}
        | {"file_path": Path(job.file_path).name}  # the folder is private to the run, and deleted by now
        for package in load_info.load_packages
        for jobs in package.jobs.values()
        for job in jobs
        if job.job_file_info.table_name in tables
    ]


def qualified_name(pipeline: dlt.Pipeline, schema: Schema, table_name: str) -> str:
    """`<database>.<dataset>.<table>`, as in a query. Where there is no dataset, the table's name."""
    client = _client(pipeline, schema.name)
    if not isinstance(client, SqlJobClientBase):
        return f"{pipeline.dataset_name}.{table_name}" if pipeline.dataset_name else table_name
    path = client.sql_client.make_qualified_table_name_path(table_name, quote=False)
    credentials = client.config.credentials
    if len(path) == 2 and getattr(credentials, "drivername", "").partition("+")[0] not in ("mysql", "mariadb"):
        # Postgres and DuckDB: two-part names, so the database comes from the credentials. In MySQL it is the dataset.
        database = getattr(credentials, "database", None) or ""
        path = [Path(database).stem if isinstance(credentials, DuckDbCredentials) else database, *path]
    return ".".join(path)


@lru_cache(maxsize=1)
def _client(pipeline: dlt.Pipeline, schema_name: str) -> JobClientBase:
    """Cached, because dlt reads the whole schema each time: with many tables the time would grow quadratically."""
    return pipeline.destination_client(schema_name)
