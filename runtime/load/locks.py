"""Locks between processes: one run per partition, and one process per DuckDB file or set of Iceberg tables.

Where Dagster's records are in Postgres, runs may be on several machines: a lock is an advisory lock in that database
(`runtime.instance.advisory_lock`). Elsewhere it is a file, which reaches as far as the file's volume, and which the
operating system frees when its process dies. A DuckDB file always has a file beside it.
"""

import fcntl
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

import dlt
from dagster import DagsterInstance, MetadataValue, OpExecutionContext
from dagster._core.events import EngineEventData
from dlt.common.destination.client import JobClientBase
from dlt.common.schema import Schema
from dlt.common.schema.utils import normalize_schema_name
from dlt.destinations.impl.duckdb.configuration import DuckDbCredentials
from dlt.destinations.impl.filesystem.filesystem import FilesystemClient

from runtime.load.directories import data_directory

Log = Callable[[str], None]
Confirm = Callable[[], None]  # returns once it is certain that the lock is held


@dataclass(frozen=True)
class Lock:
    """A lock by its name, and what the run that holds it does."""

    name: str
    does: str
    shared: bool = False


def partition_lock(op: OpExecutionContext, pipeline: dlt.Pipeline, partition: str) -> AbstractContextManager[Confirm]:
    """Waits while another run loads the same partition through the same pipeline. Other partitions do not wait.

    Two such runs would start from the same cursor. If the run that read older rows loaded last, it would overwrite
    newer rows while the newer cursor stays: those updates would be lost for good.
    """
    name = pipeline.pipeline_name
    label = f"{name}, partition {partition}" if partition else name
    every = Lock(_lock_name(name), f"loads several partitions of {name}", shared=True)
    return named_lock(op, Lock(_lock_name(name, partition or "all"), f"loads {label}"), every, _place(pipeline))


def pipeline_lock(op: OpExecutionContext, pipeline: dlt.Pipeline) -> AbstractContextManager[Confirm]:
    """Waits until no other run loads any partition through the pipeline."""
    name = pipeline.pipeline_name
    return named_lock(op, Lock(_lock_name(name), f"loads {name}"), place=_place(pipeline))


def _lock_name(pipeline: str, partition: str | None = None) -> str:
    name = quote(pipeline, safe="")[:100]
    return name if partition is None else f"{name}.{sha256(partition.encode()).hexdigest()[:16]}"


def _place(pipeline: dlt.Pipeline) -> str:
    """What a pipeline loads into. Not its address: two names of one server would be two locks."""
    return f"{pipeline.destination.destination_name} {pipeline.dataset_name}"


@contextmanager
def named_lock(op: OpExecutionContext, lock: Lock, shared: Lock | None = None, place: str = "") -> Iterator[Confirm]:
    """Waits while another run holds the lock. The run's log says which one.

    `shared` is taken first, beside others that share it. `place` tells locks of the same name apart where locations
    share them. Call what it yields before something is written that only the holder may write.
    """
    if url := postgres_url(op.instance):
        with _lock_in_postgres(op, url, lock, shared, place) as confirm:
            yield confirm
        return
    with ExitStack() as stack:
        for one in (shared, lock):
            if one:
                file = data_directory("locks") / f"{one.name}.lock"
                stack.enter_context(interprocess_lock(file, f"another run {one.does}", op.log.info, one.shared))
        yield lambda: None


def postgres_url(instance: DagsterInstance) -> str | None:
    """The URL of Dagster's database. None if that is not Postgres."""
    url: str | None = getattr(instance.event_log_storage, "postgres_url", None)
    return url


@contextmanager
def _lock_in_postgres(
    op: OpExecutionContext, url: str, lock: Lock, shared: Lock | None, place: str
) -> Iterator[Confirm]:
    """The lock in Dagster's database.

    If it is lost, the process ends at once, and Dagster restarts the run. Raising an error would not do: a thread that
    is inside a driver would go on to write. Whatever the process has not committed by then is rolled back.
    """
    from runtime.instance.advisory_lock import AdvisoryLock  # a project without Postgres has no psycopg2

    names = {one: f"load {place} {one.name}" for one in (lock, shared) if one}

    def announce(name: str, holder: str) -> None:
        [does] = [one.does for one, its_name in names.items() if its_name == name]
        if run := re.match(r"run ([0-9a-f-]{36})\b", holder):
            link = EngineEventData({"waits for": MetadataValue.dagster_run(run[1])})
            op.instance.report_engine_event(f"Waiting for run {run[1]}, which {does}.", op.run, link)
        else:
            op.log.info(f"Waiting for {holder}." if holder else f"Waiting: another run {does}.")

    held = AdvisoryLock(
        url,
        names[lock],
        lambda: _end_process(lock.does),
        shared=names[shared] if shared else None,
        holder=f"run {op.run.run_id} on {os.uname().nodename}",
        retakes=True,
    )
    try:
        held.acquire(announce)
        yield held.confirm
    finally:
        held.release()


def _end_process(does: str) -> None:
    """Ends this process and those that it has started, such as dbt. Says why on stderr: an event would take time."""
    sentence = (
        f"This run {does}, and has lost its lock: the connection to Dagster's Postgres broke. Its process ends, as "
        "another run may do the same now. Dagster starts the run again.\n"
    )
    for child in _descendants(os.getpid()):
        with suppress(OSError):
            os.kill(child, signal.SIGKILL)
    with suppress(OSError):
        os.write(2, sentence.encode())
    os._exit(1)


def _descendants(process: int) -> Iterator[int]:
    for thread in Path(f"/proc/{process}/task").glob("*/children"):  # none where this is not Linux
        with suppress(OSError):
            for child in map(int, thread.read_text().split()):
                yield from _descendants(child)
                yield child


@contextmanager
def duckdb_file_lock(pipeline: dlt.Pipeline, log: Log | None = None) -> Iterator[None]:
    """Waits until this process may open the pipeline's DuckDB file. Does nothing for other destinations.

    DuckDB locks its file against every other process and dlt does not wait for it: the load would fail. All access
    to the file therefore takes a lock next to it.
    """
    if (file := duckdb_file(pipeline)) is None:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with interprocess_lock(file.with_name(f"{file.name}.lock"), f"another run is using {file.name}", log):
        yield


@contextmanager
def iceberg_lock(op: OpExecutionContext, pipeline: dlt.Pipeline) -> Iterator[None]:
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
    with named_lock(op, Lock(f"iceberg.{place}", f"loads Iceberg tables into {pipeline.dataset_name}")):
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
def duckdb_file(pipeline: dlt.Pipeline) -> Path | None:
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
