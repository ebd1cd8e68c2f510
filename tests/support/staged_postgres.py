"""Postgres as a destination that takes files from a staging bucket, as Redshift does: they are read from a folder."""

import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pyarrow.parquet as pq
from dlt.common.destination.client import HasFollowupJobs, RunnableLoadJob, SupportsStagingDestination
from dlt.destinations.impl.postgres.factory import postgres
from dlt.destinations.impl.postgres.postgres import PostgresClient
from dlt.destinations.job_impl import ReferenceFollowupJobRequest


class CopyJob(RunnableLoadJob, HasFollowupJobs):
    """Copies a file that another job has staged. Waits until as many runs as MEETING says have staged theirs."""

    def run(self) -> None:
        client: Any = self._job_client
        [url] = ReferenceFollowupJobRequest.resolve_references(self._file_path)
        path = Path(urlparse(url).path)
        if not self.load_table_name.startswith("_dlt"):
            meet(path)
        rows = pq.read_table(path).to_pylist()
        with client.sql_client.begin_transaction():
            for row in rows:
                names = ", ".join(map(client.sql_client.escape_column_name, row))
                table = client.sql_client.make_qualified_table_name(self.load_table_name)
                places = ", ".join(["%s"] * len(row))
                client.sql_client.execute_sql(f"INSERT INTO {table} ({names}) VALUES ({places})", *row.values())


def meet(path: Path) -> None:
    """Leaves a note of the file, and waits until all runs have left one."""
    notes = Path(os.environ["MEETING_FOLDER"])
    (notes / str(os.getpid())).write_text(str(path))
    until = time.monotonic() + 30
    while len(list(notes.iterdir())) < int(os.environ["MEETING"]) and time.monotonic() < until:
        time.sleep(0.05)


class StagedPostgresClient(PostgresClient, SupportsStagingDestination):
    def should_truncate_table_before_load_on_staging_destination(self, table_name: str) -> bool:
        return True

    def create_load_job(self, table: Any, file_path: str, load_id: str, restore: bool = False) -> Any:
        if ReferenceFollowupJobRequest.is_reference_job(file_path):
            return CopyJob(file_path)
        return super().create_load_job(table, file_path, load_id, restore)


class StagedPostgres(postgres):
    def _raw_capabilities(self) -> Any:
        capabilities = super()._raw_capabilities()
        capabilities.preferred_staging_file_format = "parquet"
        capabilities.supported_staging_file_formats = ["parquet"]
        return capabilities

    @property
    def client_class(self) -> Any:
        return StagedPostgresClient
