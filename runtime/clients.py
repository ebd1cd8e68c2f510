"""How loads reach DuckDB and Postgres: as dlt does it, but rows on their way into a merge are written once less.

dlt copies each file into a staging table, and merges from there. DuckDB can merge from the files as they lie. Postgres
can keep the staging table as the table, if that is new. All of it is one transaction, as with dlt.
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from dlt.common import json
from dlt.common.destination.client import FollowupJobRequest, HasFollowupJobs, LoadJob, RunnableLoadJob
from dlt.common.destination.typing import PreparedTableSchema
from dlt.common.destination.utils import resolve_merge_strategy
from dlt.common.storages.load_package import LoadJobInfo, PackageStorage
from dlt.destinations.impl.duckdb.duck import DuckDbClient, DuckDbCopyJob
from dlt.destinations.impl.postgres.postgres import PostgresClient
from dlt.destinations.job_client_impl import SqlLoadJob
from dlt.destinations.job_impl import FollowupJobRequestImpl


class OneStatementALine(SqlLoadJob):
    """dlt's job, which would also split a statement that has semicolons of its own: in a block, or in a file's path."""

    def _split_fragments(self, sql: str) -> list[str]:
        return [statement for statement in sql.split("\n") if statement.strip()]


class MergedFromFile(RunnableLoadJob, HasFollowupJobs):
    """Nothing to do: the job that merges the table reads the file where it is."""

    def run(self) -> None:
        pass


class DuckDbFromFiles(DuckDbClient):
    """Merges from Parquet files, without a copy of them in a staging table."""

    def create_load_job(
        self, table: PreparedTableSchema, file_path: str, load_id: str, restore: bool = False
    ) -> LoadJob:
        job = super().create_load_job(table, file_path, load_id, restore)
        if isinstance(job, SqlLoadJob):
            return OneStatementALine(file_path)
        is_copy = isinstance(job, DuckDbCopyJob) and job.job_file_info().file_format == "parquet"
        return MergedFromFile(file_path) if is_copy and self._is_staged(job.job_file_info().table_name) else job

    def create_table_chain_completed_followup_jobs(
        self,
        table_chain: Sequence[PreparedTableSchema],
        completed_table_chain_jobs: Sequence[LoadJobInfo] | None = None,
    ) -> list[FollowupJobRequest]:
        jobs = super().create_table_chain_completed_followup_jobs(table_chain, completed_table_chain_jobs)
        show, hide = self._views(completed_table_chain_jobs or ())
        _put_around(jobs, show, hide)
        return jobs

    def _is_staged(self, table_name: str) -> bool:
        return self.should_load_data_to_staging_dataset(table_name)

    def _views(self, completed: Sequence[LoadJobInfo]) -> tuple[list[str], list[str]]:
        """SQL that has each staging table, which is empty, show the rows of its files, and SQL that undoes it.

        The table stays below the view: it has the columns that no file has, and the types of all.
        """
        files = sorted(
            (job.job_file_info.table_name, job.file_path)
            for job in completed
            if job.job_file_info.file_format == "parquet" and self._is_staged(job.job_file_info.table_name)
        )
        show, hide = [], []
        for table_name, group in groupby(files, key=lambda file: file[0]):
            with self.sql_client.with_staging_dataset():
                view = self.sql_client.make_qualified_table_name(table_name)
                empty = self.sql_client.make_qualified_table_name(f"{table_name}__empty")
            paths = ", ".join(self.capabilities.escape_literal(path) for _, path in group)
            rows = f"FROM {empty} UNION ALL BY NAME FROM read_parquet([{paths}], union_by_name = true)"
            name, below = map(self.sql_client.escape_column_name, (table_name, f"{table_name}__empty"))
            show += [f"ALTER TABLE {view} RENAME TO {below}", f"CREATE VIEW {view} AS {rows}"]
            hide += [f"DROP VIEW {view}", f"ALTER TABLE {empty} RENAME TO {name}"]
        return show, hide


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
        if len(table_chain) == 1 and completed_table_chain_jobs and self._takes_all(table_chain[0]):
            package = Path(completed_table_chain_jobs[0].file_path).parents[1]
            if _is_new(table_chain[0], package):
                _put_around(jobs, [self._become(table_chain[0])])
        return jobs

    def _takes_all(self, table: PreparedTableSchema) -> bool:
        """Whether an empty table takes each row that is staged."""
        if table["write_disposition"] != "merge" or table.get("x-merge-source-filter"):
            return False
        stored: Any = table
        return resolve_merge_strategy({stored["name"]: stored}, stored, self.capabilities) == "upsert"

    def _become(self, table: PreparedTableSchema) -> str:
        name, staging = self.sql_client.get_qualified_table_names(str(table["name"]))
        schema = self.sql_client.fully_qualified_dataset_name()
        text = name.replace("'", "''")
        return BECOME.format(table=name, text=text, staging=staging, schema=schema).replace("\n", " ")


def _is_new(table: PreparedTableSchema, package: Path) -> bool:
    """Whether the load of the package in this folder has made the table."""
    update = package / PackageStorage.APPLIED_SCHEMA_UPDATES_FILE_NAME
    made = json.loads(update.read_text(encoding="utf-8")) if update.exists() else {}
    return set(made.get(table["name"], {}).get("columns", ())) == set(table["columns"])


# The merge that follows then finds nothing to do. It does all of it where another load was first, where the table has
# rights or rules of its own (by the schema's default privileges, say), or somebody depends on it or is at work on it.
BECOME = """
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


def _put_around(jobs: Sequence[FollowupJobRequest], before: Sequence[str], after: Sequence[str] = ()) -> None:
    """Puts statements before and after those of jobs: files with a statement a line, each a transaction."""
    for job in jobs:
        assert isinstance(job, FollowupJobRequestImpl)
        file = Path(job.new_file_path())
        file.write_text("\n".join([*before, file.read_text(encoding="utf-8"), *after]), encoding="utf-8")
