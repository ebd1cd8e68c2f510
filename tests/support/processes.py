"""The processes that tests fork: one server per test process has imported the libraries once for all of them."""

from multiprocessing import get_context

FORK = get_context("forkserver")
FORK.set_forkserver_preload(
    [
        *["__main__", "tests.projects.test_projects", "tests.support.orders", "tests.support.run_location"],
        # and what they would import later
        *["dagster._core.storage.runs", "dagster._core.storage.event_log", "dagster._core.storage.schedules"],
        *["dagster._core.workspace.context", "alembic.autogenerate", "sqlalchemy.dialects.sqlite"],
        *["dlt.destinations.impl.duckdb.duck", "dlt.destinations.impl.postgres.postgres", "pyarrow.parquet"],
    ]
)
