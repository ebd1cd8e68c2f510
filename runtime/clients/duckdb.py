"""Into DuckDB."""

from collections.abc import Sequence
from itertools import groupby

from dlt.common.destination.client import FollowupJobRequest, HasFollowupJobs, LoadJob, RunnableLoadJob
from dlt.common.destination.typing import PreparedTableSchema
from dlt.common.storages.load_package import LoadJobInfo
from dlt.destinations.impl.duckdb.duck import DuckDbClient, DuckDbCopyJob
from dlt.destinations.job_client_impl import SqlLoadJob

from runtime.clients import OneStatementALine, put_around


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
        put_around(jobs, show, hide)
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
