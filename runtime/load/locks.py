"""Locks between processes: one run per partition, and one process per DuckDB file or set of Iceberg tables.

A lock is a file, so it reaches as far as the file's volume. The operating system frees it when its process dies.
"""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

import dlt
from dlt.common.destination.client import JobClientBase
from dlt.common.schema import Schema
from dlt.common.schema.utils import normalize_schema_name
from dlt.destinations.impl.duckdb.configuration import DuckDbCredentials
from dlt.destinations.impl.filesystem.filesystem import FilesystemClient

from runtime.load.directories import data_directory

Log = Callable[[str], None]


@contextmanager
def partition_lock(pipeline: str, partition: str, log: Log) -> Iterator[None]:
    """Waits while another run loads the same partition through the same pipeline. Other partitions do not wait.

    Two such runs would start from the same cursor. If the run that read older rows loaded last, it would overwrite
    newer rows while the newer cursor stays: those updates would be lost for good.
    """
    name = f"{pipeline}, partition {partition}" if partition else pipeline
    with (
        interprocess_lock(_pipeline_file(pipeline), f"a run loads several partitions of {pipeline}", log, shared=True),
        interprocess_lock(_pipeline_file(pipeline, partition or "all"), f"another run loads {name}", log),
    ):
        yield


@contextmanager
def pipeline_lock(pipeline: str, log: Log) -> Iterator[None]:
    """Waits until no other run loads any partition through the pipeline."""
    with interprocess_lock(_pipeline_file(pipeline), f"another run loads {pipeline}", log):
        yield


def _pipeline_file(pipeline: str, partition: str | None = None) -> Path:
    name = quote(pipeline, safe="")[:100]
    suffix = "" if partition is None else f".{sha256(partition.encode()).hexdigest()[:16]}"
    return data_directory("locks") / f"{name}{suffix}.lock"


@contextmanager
def duckdb_file_lock(pipeline: dlt.Pipeline, log: Log | None = None) -> Iterator[None]:
    """Waits until this process may open the pipeline's DuckDB file. Does nothing for other destinations.

    DuckDB locks its file against every other process and dlt does not wait for it: the load would fail. All access
    to the file therefore takes a lock next to it.
    """
    if (file := _duckdb_file(pipeline)) is None:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with interprocess_lock(file.with_name(f"{file.name}.lock"), f"another run is using {file.name}", log):
        yield


@contextmanager
def iceberg_lock(pipeline: dlt.Pipeline, log: Log) -> Iterator[None]:
    """Waits while another run loads Iceberg tables into the same dataset of files. Does nothing for other tables.

    dlt's own catalog lives in the memory of a process and takes the newest metadata file for the state of a table. Of
    runs that commit at the same time, all would report success and the rows of one would stay.
    """
    client = destination_client(pipeline)
    tables = [str(table["name"]) for schema in pipeline.schemas.values() for table in schema.data_tables()]
    if not isinstance(client, FilesystemClient) or not any(client.is_open_table("iceberg", name) for name in tables):
        yield
        return
    place = sha256(f"{client.config.bucket_url} {pipeline.dataset_name}".encode()).hexdigest()[:16]
    file = data_directory("locks") / f"iceberg.{place}.lock"
    with interprocess_lock(file, f"another run loads Iceberg tables into {pipeline.dataset_name}", log):
        yield


@contextmanager
def interprocess_lock(path: Path, reason: str, log: Log | None = None, shared: bool = False) -> Iterator[None]:
    """Holds the lock file at `path`, if `shared` beside others that share it. Logs the reason if it has to wait."""
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with path.open("a") as file:
        try:
            fcntl.flock(file, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            if log:
                log(f"Waiting: {reason}.")
            fcntl.flock(file, mode)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough if a child process has inherited the file


@lru_cache(maxsize=64)  # dlt resolves the whole configuration to answer this
def _duckdb_file(pipeline: dlt.Pipeline) -> Path | None:
    """The DuckDB file that a pipeline loads into, or None if it loads elsewhere or into memory."""
    credentials = getattr(destination_client(pipeline).config, "credentials", None)
    if not isinstance(credentials, DuckDbCredentials) or credentials.is_partial():
        return None
    if credentials.database == ":memory:" or credentials.external_conn() is not None:
        return None
    return Path(credentials.database)


def destination_client(pipeline: dlt.Pipeline) -> JobClientBase:
    """As the pipeline's own function, which fails before the first load if its name is no schema's, as `my-shop`."""
    if pipeline.default_schema_name:
        return pipeline.destination_client()
    return pipeline._get_destination_clients(_any_schema(pipeline))[0]


def staging_client(pipeline: dlt.Pipeline) -> FilesystemClient | None:
    """Where a pipeline's files are staged, which its destination then copies. None if it stages no files.

    Athena reads the files where they are: they are its tables.
    """
    if not pipeline.staging or pipeline.destination.destination_type.endswith("athena"):
        return None
    client = pipeline._get_destination_clients(_any_schema(pipeline))[1]
    return client if isinstance(client, FilesystemClient) else None


def _any_schema(pipeline: dlt.Pipeline) -> Schema:
    return Schema(pipeline.default_schema_name or normalize_schema_name(pipeline.pipeline_name))
