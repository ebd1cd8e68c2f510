"""Into Postgres."""

from collections.abc import Sequence
from pathlib import Path

from dlt.common import json
from dlt.common.destination.client import FollowupJobRequest, LoadJob
from dlt.common.destination.typing import PreparedTableSchema
from dlt.common.storages.load_package import LoadJobInfo, PackageStorage
from dlt.destinations.impl.postgres.postgres import PostgresClient
from dlt.destinations.job_client_impl import SqlLoadJob

from runtime.accelerate.destinations import OneStatementALine, merge_equals_insert_if_empty, wrap_statements


class PostgresIntoNew(PostgresClient):
    """Keeps what was staged as the table, if this load has made that, and nobody else has touched it."""

    def create_load_job(
        self, table: PreparedTableSchema, file_path: str, load_id: str, restore: bool = False
    ) -> LoadJob:
        job = super().create_load_job(table, file_path, load_id, restore)
        return OneStatementALine(file_path) if isinstance(job, SqlLoadJob) else job

    def create_table_chain_completed_followup_jobs(
        self,
        table_chain: Sequence[PreparedTableSchema],
        completed_table_chain_jobs: Sequence[LoadJobInfo] | None = None,
    ) -> list[FollowupJobRequest]:
        jobs = super().create_table_chain_completed_followup_jobs(table_chain, completed_table_chain_jobs)
        if (
            len(table_chain) == 1
            and completed_table_chain_jobs
            and merge_equals_insert_if_empty(table_chain, self.capabilities)
        ):
            package = Path(completed_table_chain_jobs[0].file_path).parents[1]
            if _is_new(table_chain[0], package):
                wrap_statements(jobs, [self._promote_staging_table(table_chain[0])])
        return jobs

    def _promote_staging_table(self, table: PreparedTableSchema) -> str:
        name, staging = self.sql_client.get_qualified_table_names(str(table["name"]))
        schema = self.sql_client.fully_qualified_dataset_name()
        text = name.replace("'", "''")
        return PROMOTE_STAGING_TABLE.format(table=name, text=text, staging=staging, schema=schema).replace("\n", " ")


def _is_new(table: PreparedTableSchema, package: Path) -> bool:
    """Whether the load of the package in this folder has made the table."""
    update = package / PackageStorage.APPLIED_SCHEMA_UPDATES_FILE_NAME
    made = json.loads(update.read_text(encoding="utf-8")) if update.exists() else {}
    return set(made.get(table["name"], {}).get("columns", ())) == set(table["columns"])


# The merge that follows then finds nothing to do. It does all of it where another load was first, where the table has
# rights or rules of its own (by the schema's default privileges, say), or somebody depends on it or is at work on it.
PROMOTE_STAGING_TABLE = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM {table}) THEN RETURN; END IF;
    LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE NOWAIT;
    IF EXISTS (SELECT FROM {table}) OR EXISTS (
        SELECT FROM pg_class WHERE oid = '{text}'::regclass
        AND (relacl IS NOT NULL OR relhastriggers OR relrowsecurity)
    ) THEN RAISE lock_not_available; END IF;
    DROP TABLE {table};
    ALTER TABLE {staging} SET SCHEMA {schema};
    CREATE TABLE {staging} (LIKE {table} INCLUDING ALL);
EXCEPTION WHEN lock_not_available OR dependent_objects_still_exist THEN NULL;
END $$
"""
