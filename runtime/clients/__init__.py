"""How loads reach DuckDB and Postgres: as dlt does it, but rows on their way into a merge are written once less.

dlt copies each file into a staging table, and merges from there. DuckDB can merge from the files as they lie, and only
inserts into what is empty. Postgres can keep the staging table as the table, if that is new. All of it is one
transaction, as with dlt.

A module each, as a load into one needs not the other's driver: DuckDB's takes a seventh of a small load's CPU.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlt.common.destination import DestinationCapabilitiesContext
from dlt.common.destination.client import FollowupJobRequest
from dlt.common.destination.typing import PreparedTableSchema
from dlt.common.destination.utils import resolve_merge_strategy
from dlt.common.schema.utils import has_column_with_prop
from dlt.destinations.job_client_impl import SqlLoadJob
from dlt.destinations.job_impl import FollowupJobRequestImpl


class OneStatementALine(SqlLoadJob):
    """dlt's job, which would also split a statement that has semicolons of its own: in a block, or in a file's path."""

    def _split_fragments(self, sql: str) -> list[str]:
        return [statement for statement in sql.split("\n") if statement.strip()]


def put_around(jobs: Sequence[FollowupJobRequest], before: Sequence[str], after: Sequence[str] = ()) -> None:
    """Puts statements before and after those of jobs: files with a statement a line, each a transaction."""
    for job in jobs:
        assert isinstance(job, FollowupJobRequestImpl)
        file = Path(job.new_file_path())
        file.write_text("\n".join([*before, file.read_text(encoding="utf-8"), *after]), encoding="utf-8")


def takes_all(table_chain: Sequence[PreparedTableSchema], capabilities: DestinationCapabilitiesContext) -> bool:
    """Whether a table and its children, if they are empty, take each row that is staged for them as it is."""
    tables: Sequence[Any] = table_chain  # as schemas have them
    root = tables[0]
    if root["write_disposition"] != "merge" or root.get("x-merge-source-filter"):
        return False
    if any(has_column_with_prop(table, "hard_delete") for table in tables):
        return False
    return resolve_merge_strategy({root["name"]: root}, root, capabilities) == "upsert"
