"""`python -m runtime.instance.daemon`: `dagster-daemon run` that refuses to be the second one on its instance.

Two daemons on one instance launch every run twice (dagster#33962), and Dagster does not notice.
"""

import logging
import os
import sys
from collections.abc import Callable

from dagster import DagsterInstance
from dagster._daemon.cli import cli
from dagster_postgres import DagsterPostgresStorage

from runtime.instance import backfills
from runtime.instance.advisory_lock import AdvisoryLock, acquire_within
from runtime.instance.server import wait_for_instance

NAME = "dagster-daemon"
# A daemon whose machine is gone keeps the lock until Postgres notices: 25 s. One that restarts, for a moment.
WAIT_SECONDS = 30.0

logger = logging.getLogger("dagster.daemon")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    wait_for_instance(logger)
    lock = lock_of_instance(stop)
    if lock and (holder := acquire_within(lock, WAIT_SECONDS, logger.warning)):
        sys.exit(
            f"Another daemon works on this instance: {holder}. Two would launch every run twice. Stop that one, or "
            "give this one a database of its own (DAGSTER_POSTGRES_*)."
        )
    backfills.install()
    cli(obj={})  # the process ends with it, and so does the lock


def lock_of_instance(on_lost: Callable[[], None]) -> AdvisoryLock | None:
    """The lock in the instance's database. None if that is SQLite, which is on one machine only."""
    with DagsterInstance.get() as instance:
        storage = instance.get_ref().storage
    if not isinstance(storage, DagsterPostgresStorage):
        return None
    return AdvisoryLock(storage.postgres_url, NAME, on_lost)


def stop() -> None:
    """Ends at once: a daemon that shuts down in order goes on for seconds, and another one may have started."""
    logger.error("This daemon stops, because another one may take its place.")
    os._exit(1)


if __name__ == "__main__":
    main()
