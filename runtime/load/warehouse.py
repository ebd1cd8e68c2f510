"""The warehouse that loads go to: the `WAREHOUSE` switch, and the pipelines that point at it."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import dlt
from dlt.common import json
from dlt.common.destination import AnyDestination, Destination
from dlt.common.destination.client import WithStateSync
from dlt.common.destination.exceptions import DestinationUndefinedEntity, UnknownDestinationModule
from dlt.common.schema import Schema
from dlt.destinations.job_client_impl import SqlJobClientBase
from dlt.destinations.sql_client import SqlClientBase, WithSchemas

from runtime.load.directories import import_directory
from runtime.load.locks import destination_client, duckdb_file_lock

DEFAULT_WAREHOUSE = "duckdb"
DEFAULT_DUCKDB_FILE = "data/warehouse.duckdb"
# dlt's default truncates the table before it loads: a reader then, or after a crash, would find it empty.
SAFE_REPLACE = {"replace_strategy": "insert-from-staging"}
# Used unless dlt's own variables say otherwise (DESTINATION__POSTGRES__REPLACE_STRATEGY=…; also without POSTGRES__, and
# after the pipeline's name).
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "duckdb": SAFE_REPLACE | {"preferred_loader_file_format": "parquet"},  # dlt's default sends rows as SQL text
    # Each job holds two connections. dlt's default of 20 jobs would take 40 of the 100 that a server has by default.
    "postgres": SAFE_REPLACE | {"max_parallel_load_jobs": 4},
    "snowflake": SAFE_REPLACE,
    "filesystem": {"preferred_loader_file_format": "parquet"},
}


def warehouse_pipeline(pipeline_name: str, dataset_name: str) -> dlt.Pipeline:
    """The pipeline that a `@dlt_assets` names. It says where to load and is never run itself.

    dlt stores cursors under `pipeline_name`, so it must never change. The working directory is private to this
    process: `dlt.pipeline()` writes there at import, and two processes that import the same location at the same
    time would otherwise delete each other's files.

    Raises:
        ValueError: `WAREHOUSE` is not the name of a dlt destination.
    """
    return dlt.pipeline(
        pipeline_name=pipeline_name,
        dataset_name=dataset_name,
        destination=_destination(pipeline_name),
        pipelines_dir=import_directory(),
    )


def query_int(pipeline: dlt.Pipeline, sql: str, *parameters: Any) -> int | None:
    """The first value of the first row as an int (truncated), None if a table does not exist or there is no row.

    The statement runs in the pipeline's dataset and has `%s` for each parameter. A missing column raises.
    """
    try:
        with duckdb_file_lock(pipeline), _reader(pipeline) as client:
            rows = client.execute_sql(sql, *parameters)
    except DestinationUndefinedEntity:
        return None
    return int(rows[0][0]) if rows else None


def stored_schemas(pipeline: dlt.Pipeline, name: str) -> Iterator[Schema]:
    """The versions of a schema that the warehouse has, from the newest on. None before the first load.

    Partitions that load at the same time store a version each, which lacks the tables of the others.
    """
    with suppress(DestinationUndefinedEntity), destination_client(pipeline) as client:
        if isinstance(client, WithStateSync) and (stored := client.get_stored_schema(name)):
            yield Schema.from_stored_schema(json.loads(stored.schema))
        if isinstance(client, SqlJobClientBase):
            table = client.sql_client.make_qualified_table_name(client.schema.version_table_name)
            column = client.sql_client.escape_column_name("schema")  # a keyword in MySQL
            found = client.sql_client.execute_sql(
                f"SELECT {column} FROM {table} WHERE schema_name = %s ORDER BY inserted_at DESC", name
            )
            yield from (Schema.from_stored_schema(json.loads(row[0])) for row in (found or ())[1:])


def warehouse_name() -> str:
    """The name of the destination that `WAREHOUSE` selects."""
    return os.environ.get("WAREHOUSE", "").strip() or DEFAULT_WAREHOUSE


def _reader(pipeline: dlt.Pipeline) -> SqlClientBase[Any]:
    """A client for queries. Tables that are files exist for it only if dlt reads their schema first."""
    client = pipeline.sql_client()
    return pipeline.dataset().sql_client if isinstance(client, WithSchemas) else client


def _destination(pipeline_name: str) -> AnyDestination:
    name = warehouse_name()
    configured = partial(_configured, pipeline_name, name)
    # Passed even if configured, because dlt reads no variable of a capability such as `max_parallel_load_jobs`.
    options = {key: configured(key, type(value), value) for key, value in OPTIONS.get(name, {}).items()}
    if name == "duckdb" and not any(configured(key) for key in ("credentials", "credentials.database")):
        options["credentials"] = DEFAULT_DUCKDB_FILE
    try:
        destination = Destination.from_reference(name, **options)
    except UnknownDestinationModule as error:
        raise ValueError(
            f"WAREHOUSE={name} is not a destination that dlt knows. Set it to duckdb, postgres, snowflake or "
            "another name from https://dlthub.com/docs/dlt-ecosystem/destinations."
        ) from error
    assert destination is not None
    return destination


def _configured(pipeline: str, destination: str, key: str, kind: Any = None, default: Any = None) -> Any:
    """dlt's own setting, which may be 0 or false, where dlt looks for it: first under the name of the pipeline."""
    sections = (f"destination.{destination}.", "destination.", "")
    names = [f"{prefix}{section}{key}" for prefix in (f"{pipeline}.", "") for section in sections]
    return next((value for name in names if (value := dlt.config.get(name, kind)) is not None), default)
