"""Removes what crashed runs have left: staging datasets in the warehouse, working directories on disk."""

import re
import shutil
import time
import zlib
from collections.abc import Callable
from uuid import UUID

import dlt
from dagster import DagsterInstance
from dlt.destinations.job_client_impl import SqlJobClientBase

from runtime.warehouse import data_directory, warehouse_turn

KEEP_FILES_SECONDS = 7 * 24 * 3600  # of failed runs, for whoever wants to see what was about to be loaded
SETTLED_SECONDS = 60  # a run that has just been marked as failed may have a process that is just ending


def staging_layout(run_id: str, step_key: str) -> str:
    """The name of a run's staging dataset, as dlt's `staging_dataset_name_layout`: it says whose it is."""
    return f"%s_staging_{UUID(run_id).hex}_{zlib.crc32(step_key.encode()) & 0xFFFF:04x}"


def sweep_staging(pipeline: dlt.Pipeline, own: str, instance: DagsterInstance, log: Callable[[str], None]) -> None:
    """Drops the staging dataset of this run (`own` is its layout), and those beside it whose runs have ended.

    One of a run that this instance does not know stays: another deployment may share the warehouse.
    """
    with warehouse_turn(pipeline, log), pipeline.destination_client() as job_client:
        if not isinstance(job_client, SqlJobClientBase):
            return
        client = job_client.sql_client
        with client.with_alternative_dataset_name(own % client.dataset_name):
            if client.has_dataset():  # asked as each destination answers it: not all datasets are schemas
                client.drop_dataset()
        pattern = re.compile(rf"{re.escape(client.dataset_name)}_staging_([0-9a-f]{{32}})_[0-9a-f]{{4}}", re.IGNORECASE)
        names = [row[0] for row in client.execute_sql("SELECT schema_name FROM information_schema.schemata") or ()]
        for name in names:
            match = pattern.fullmatch(name)
            if match and (_ended_seconds_ago(instance, str(UUID(match[1]))) or 0) > SETTLED_SECONDS:
                with client.with_alternative_dataset_name(name):
                    client.drop_dataset()
                log(f"Dropped {name}, which a crashed run had left.")


def sweep_files(instance: DagsterInstance) -> None:
    """Deletes the working directories of runs that ended, or were last heard of, a week ago."""
    for directory in data_directory("runs").iterdir():
        ended = _ended_seconds_ago(instance, directory.name)
        if ended is None:  # deleted in Dagster, or never known there: the folder is this location's own all the same
            ended = time.time() - directory.stat().st_mtime
        if ended > KEEP_FILES_SECONDS:
            shutil.rmtree(directory, ignore_errors=True)


def _ended_seconds_ago(instance: DagsterInstance, run_id: str) -> float | None:
    """How long ago a run ended: 0 while it lives, None if nobody knows it."""
    record = instance.get_run_record_by_id(run_id)
    if not record:
        return None
    if not record.dagster_run.is_finished:
        return 0
    return time.time() - (record.end_time or record.update_timestamp.timestamp())
