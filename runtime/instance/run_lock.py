"""A sign of life of each run: its process holds a lock of the run's name in Dagster's Postgres."""

import logging
from contextlib import suppress

import psycopg2
from dagster._core.instance.ref import InstanceRef
from dagster_postgres import DagsterPostgresStorage

from runtime.instance.advisory_lock import AdvisoryLock

logger = logging.getLogger("dagster.code_server")


def run_lock(run_id: str, instance: InstanceRef | None) -> AdvisoryLock | None:
    """The lock of a run. None if Dagster's records are not in Postgres."""
    storage = instance.storage if instance else None
    if not isinstance(storage, DagsterPostgresStorage):
        return None
    return AdvisoryLock(storage.postgres_url, f"run {run_id}", retakes=True)


def hold(run_id: str, instance: InstanceRef | None) -> None:
    """Takes the lock until this process ends. Without it, the run goes on: its server still knows it."""
    try:
        if lock := run_lock(run_id, instance):
            lock.acquire()
    except (psycopg2.Error, RuntimeError) as error:
        logger.warning("Run %s has no lock: %s", run_id, str(error).strip().partition("\n")[0])


def is_held(run_id: str, instance: InstanceRef | None) -> bool:
    """Whether the process of a run lives, on whatever machine."""
    lock = run_lock(run_id, instance)
    with suppress(RuntimeError):  # a pooler keeps locks of its own
        return lock is not None and lock.holder() is not None
    return False
