"""Removes what crashed runs leave behind: staging datasets in the warehouse and working directories on disk."""

import re
import shutil
import time
import zlib
from collections.abc import Callable
from uuid import UUID

import dlt
from dagster import DagsterInstance
from dlt.destinations.job_client_impl import SqlJobClientBase

from runtime.load.directories import data_directory
from runtime.load.locks import duckdb_file_lock

KEEP_FILES_SECONDS = 7 * 24 * 3600  # of failed runs, so that one can see what they were about to load
SETTLED_SECONDS = 60  # the process of a run that was just marked as failed may still be ending


def staging_layout(run_id: str, step_key: str) -> str:
    """A run's own `staging_dataset_name_layout`. It names the run, so that leftovers can be attributed."""
    return f"%s_staging_{UUID(run_id).hex}_{zlib.crc32(step_key.encode()) & 0xFFFF:04x}"


def sweep_staging(pipeline: dlt.Pipeline, own: str, instance: DagsterInstance, log: Callable[[str], None]) -> None:
    """Drops this run's staging dataset (`own` is its layout) and those of other runs that have ended.

    Staging datasets of runs that this instance does not know stay: another deployment may share the warehouse.
    """
    with duckdb_file_lock(pipeline, log), pipeline.destination_client() as job_client:
        if not isinstance(job_client, SqlJobClientBase):
            return
        client = job_client.sql_client
        with client.with_alternative_dataset_name(own % client.dataset_name):
            if client.has_dataset():  # the client's own test, because not every dataset is a schema
                client.drop_dataset()
        pattern = re.compile(rf"{re.escape(client.dataset_name)}_staging_([0-9a-f]{{32}})_[0-9a-f]{{4}}", re.IGNORECASE)
        names = [row[0] for row in client.execute_sql("SELECT schema_name FROM information_schema.schemata") or ()]
        for name in names:
            match = pattern.fullmatch(name)
            if match and (_ended_seconds_ago(instance, str(UUID(match[1]))) or 0) > SETTLED_SECONDS:
                with client.with_alternative_dataset_name(name):
                    client.drop_dataset()
                log(f"Dropped {name}, which a crashed run left behind.")


def sweep_files(instance: DagsterInstance) -> None:
    """Deletes the working directories of runs that ended, or were last active, more than a week ago."""
    for directory in data_directory("runs").iterdir():
        ended = _ended_seconds_ago(instance, directory.name)
        if ended is None:  # deleted in Dagster or never known there; the folder still belongs to this location
            ended = time.time() - directory.stat().st_mtime
        if ended > KEEP_FILES_SECONDS:
            shutil.rmtree(directory, ignore_errors=True)


def _ended_seconds_ago(instance: DagsterInstance, run_id: str) -> float | None:
    """Seconds since a run ended: 0 while it is unfinished, None if Dagster does not know it."""
    record = instance.get_run_record_by_id(run_id)
    if not record:
        return None
    if not record.dagster_run.is_finished:
        return 0
    return time.time() - (record.end_time or record.update_timestamp.timestamp())
