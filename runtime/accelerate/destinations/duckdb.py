"""Into DuckDB."""

from collections.abc import Sequence
from itertools import groupby

from dlt.common.destination.client import FollowupJobRequest, HasFollowupJobs, LoadJob, RunnableLoadJob
from dlt.common.destination.typing import PreparedTableSchema
from dlt.common.storages.load_package import LoadJobInfo
from dlt.destinations.impl.duckdb.duck import DuckDbClient, DuckDbCopyJob
from dlt.destinations.job_client_impl import SqlLoadJob

from runtime.accelerate.destinations import OneStatementALine, merge_equals_insert_if_empty, wrap_statements


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
        files = sorted(
            (job.job_file_info.table_name, job.file_path)
            for job in completed_table_chain_jobs or ()
            if job.job_file_info.file_format == "parquet" and self._is_staged(job.job_file_info.table_name)
        )
        tables = [self.sql_client.make_qualified_table_name(str(table["name"])) for table in table_chain]
        are_new = " AND ".join(f"NOT EXISTS (FROM {table})" for table in tables)
        if not merge_equals_insert_if_empty(table_chain, self.capabilities):
            are_new = "false"
        before = [f"SET VARIABLE are_new = {are_new}"]
        after: list[str] = []
        for table_name, group in groupby(files, key=lambda file: file[0]):
            show, hide = self._view(table_name, [path for _, path in group])
            before += show
            after += hide
        wrap_statements(jobs, before, after)
        return jobs

    def _is_staged(self, table_name: str) -> bool:
        return self.should_load_data_to_staging_dataset(table_name)

    def _view(self, table_name: str, paths: Sequence[str]) -> tuple[list[str], list[str]]:
        """SQL that has a staging table, which is empty, show the rows of its files, and SQL that undoes it.

        The table stays below the view: it has the columns that no file has, and the types of all. Where the tables to
        merge into are new, the rows are inserted, and the merge that follows finds none: 0.7 of the time.
        """
        with self.sql_client.with_staging_dataset():
            view = self.sql_client.make_qualified_table_name(table_name)
            empty = self.sql_client.make_qualified_table_name(f"{table_name}__empty")
        table = self.sql_client.make_qualified_table_name(table_name)
        files = ", ".join(map(self.capabilities.escape_literal, paths))
        rows = f"FROM {empty} UNION ALL BY NAME FROM read_parquet([{files}], union_by_name = true)"
        name, below = map(self.sql_client.escape_column_name, (table_name, f"{table_name}__empty"))
        return [
            f"ALTER TABLE {view} RENAME TO {below}",
            f"INSERT INTO {table} BY NAME {rows} WHERE getvariable('are_new')",
            f"CREATE VIEW {view} AS {rows} WHERE NOT getvariable('are_new')",
        ], [f"DROP VIEW {view}", f"ALTER TABLE {empty} RENAME TO {name}"]
