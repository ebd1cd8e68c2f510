"""Locks between processes: one run per partition, and one process per DuckDB file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import dlt
from dlt.destinations.impl.duckdb.configuration import DuckDbCredentials
from filelock import FileLock, Timeout

from runtime.load.directories import data_directory

Log = Callable[[str], None]


@contextmanager
def partition_lock(state_name: str, log: Log) -> Iterator[None]:
    """Waits while another run loads the same partition through the same pipeline.

    Two such runs would start from the same cursor. If the run that read older rows loaded last, it would overwrite
    newer rows while the newer cursor stays: those updates would be lost for good. Other partitions do not wait.

    The lock is a file next to the working directories, so it reaches as far as one location's container. The
    operating system frees it when the process dies.
    """
    with interprocess_lock(data_directory("locks") / f"{state_name}.lock", f"another run loads {state_name}", log):
        yield


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
def interprocess_lock(path: Path, reason: str, log: Log | None = None) -> Iterator[None]:
    """Holds the lock file at `path`. If it has to wait, it logs the reason once."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if log:
            log(f"Waiting: {reason}.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@lru_cache(maxsize=64)  # dlt resolves the whole configuration to answer this
def _duckdb_file(pipeline: dlt.Pipeline) -> Path | None:
    """The DuckDB file that a pipeline loads into, or None if it loads elsewhere or into memory."""
    credentials = getattr(pipeline.destination_client().config, "credentials", None)
    if not isinstance(credentials, DuckDbCredentials) or credentials.is_partial():
        return None
    if credentials.database == ":memory:" or credentials.external_conn() is not None:
        return None
    return Path(credentials.database)
