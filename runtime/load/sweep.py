"""Removes what crashed runs leave behind: staging datasets in the warehouse and working directories on disk."""

import re
import shutil
import time
import zlib
from base64 import b32decode, b32encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any
from uuid import UUID

import dlt
from dagster import DagsterInstance
from dlt.destinations.job_client_impl import SqlJobClientBase
from dlt.destinations.sql_client import SqlClientBase

from runtime.load.directories import data_directory
from runtime.load.locks import destination_client, duckdb_file_lock, staging_client

KEEP_FILES_SECONDS = 7 * 24 * 3600  # of failed runs, so that one can see what they were about to load
SETTLED_SECONDS = 60  # the process of a run that was just marked as failed may still be ending


def staging_layout(dataset_name: str, run_id: str, step_key: str) -> str:
    """A step's own `staging_dataset_name_layout`. It contains the run's id, so that leftovers can be attributed.

    The name has at most 63 characters, as a schema's in Postgres: dlt would shorten it, and the id could not be read.
    """
    prefix = "%s" if _short(dataset_name) == dataset_name else _short(dataset_name)
    return f"{prefix}_{staging_folder(run_id, step_key)}"


def staging_folder(run_id: str, step_key: str) -> str:
    """A step's own folder in a staging bucket."""
    step = zlib.crc32(step_key.encode()).to_bytes(4, "big")[2:]  # the steps of a run differ
    return f"staging_{b32encode(UUID(run_id).bytes + step).decode().lower().rstrip('=')}"


def _short(dataset_name: str) -> str:
    longest = 63 - len("_staging_") - 29
    if len(dataset_name) <= longest:
        return dataset_name
    return f"{dataset_name[: longest - 9]}_{zlib.crc32(dataset_name.encode()):08x}"


def sweep_staging(pipeline: dlt.Pipeline, instance: DagsterInstance, log: Callable[[str], None]) -> None:
    """Drops this run's staging dataset and those of other runs that have ended.

    Staging datasets of runs that this instance does not know stay: another deployment may share the warehouse.
    """
    with duckdb_file_lock(pipeline, log), pipeline.destination_client() as job_client:
        if not isinstance(job_client, SqlJobClientBase):
            return
        client = job_client.sql_client
        with client.with_staging_dataset():
            if client.has_dataset():  # the client's own test, because not every dataset is a schema
                client.drop_dataset()
        abandoned = _abandoned(client, instance, re.escape(_short(client.dataset_name)), SETTLED_SECONDS)
        _drop(client, abandoned, log)


def drop_abandoned_staging(
    pipeline: dlt.Pipeline, instance: DagsterInstance, seconds: float, log: Callable[[str], None], dry_run: bool = False
) -> list[str]:
    """Drops the staging datasets of all sources whose runs ended so long ago. Returns their names.

    A load drops those of its own source. What remains is of sources that are not loaded any more.
    """
    with duckdb_file_lock(pipeline, log), destination_client(pipeline) as job_client:
        if not isinstance(job_client, SqlJobClientBase):
            return []
        abandoned = _abandoned(job_client.sql_client, instance, ".+", seconds)
        if not dry_run:
            _drop(job_client.sql_client, abandoned, log)
        return abandoned


def _drop(client: SqlClientBase[Any], names: list[str], log: Callable[[str], None]) -> None:
    for name in names:
        with client.with_alternative_dataset_name(name):
            client.drop_dataset()
        log(f"Dropped {name}, which a crashed run left behind.")


def _abandoned(client: SqlClientBase[Any], instance: DagsterInstance, dataset: str, seconds: float) -> list[str]:
    """The staging datasets of runs that ended so long ago. `dataset` is a regular expression."""
    names = [row[0] for row in client.execute_sql("SELECT schema_name FROM information_schema.schemata") or ()]
    return list(_left_behind(names, f"{dataset}_", instance, seconds))


def sweep_staged_files(pipeline: dlt.Pipeline, instance: DagsterInstance, log: Callable[[str], None]) -> None:
    """Deletes the files that this run has staged for its destination, and those of other runs that have ended."""
    if (client := staging_client(pipeline)) is None:
        return
    files, own = client.fs_client, client.config.layout.partition("/")[0]
    files.invalidate_cache()
    if not files.isdir(client.dataset_path):
        return
    names = [path.rstrip("/").rpartition("/")[2] for path in files.ls(client.dataset_path, detail=False)]
    for name in names:
        if name == own or name in _left_behind([name], "", instance, SETTLED_SECONDS):
            files.rm(f"{client.dataset_path}{name}", recursive=True)
            if name != own:
                log(f"Deleted {name}, which a crashed run left behind.")


def _left_behind(names: Iterable[str], prefix: str, instance: DagsterInstance, seconds: float) -> Iterator[str]:
    """The staging datasets, or folders, of runs that ended so long ago. `prefix` is a regular expression."""
    pattern = re.compile(rf"{prefix}staging_([a-z2-7]{{29}})", re.IGNORECASE)
    for name in names:
        if match := pattern.fullmatch(name):
            run_id = str(UUID(bytes=b32decode(f"{match[1].upper()}===")[:16]))
            if (_ended_seconds_ago(instance, run_id) or 0) > seconds:
                yield name


def sweep_files(instance: DagsterInstance, log: Callable[[str], None]) -> None:
    """Deletes the working directories of runs that ended, or were last active, more than a week ago. Never raises."""
    try:
        for directory in data_directory("runs").iterdir():
            with suppress(FileNotFoundError):  # another run has deleted it in the meantime
                ended = _ended_seconds_ago(instance, directory.name)
                if ended is None:  # unknown to Dagster, so the folder's age decides
                    ended = time.time() - directory.stat().st_mtime
                if ended > KEEP_FILES_SECONDS:
                    shutil.rmtree(directory, ignore_errors=True)
    except Exception as error:
        log(f"Files of failed runs stay until a later run removes them: {error}")


def _ended_seconds_ago(instance: DagsterInstance, run_id: str) -> float | None:
    """Seconds since a run ended: 0 while it is unfinished, None if Dagster does not know it."""
    record = instance.get_run_record_by_id(run_id)
    if not record:
        return None
    if not record.dagster_run.is_finished:
        return 0
    return time.time() - (record.end_time or record.update_timestamp.timestamp())
