"""How merges reach DuckDB and Postgres with fewer copies. Each merge is one transaction, as with dlt.

dlt copies each file into a staging table and merges from there. DuckDB can merge from the files themselves, and rows of
an empty table only need an insert. In Postgres, the staging table can become the table if that is new.

Each destination has a module of its own, so that a load imports only its own driver.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dlt
from dlt.common.destination import DestinationCapabilitiesContext
from dlt.common.destination.client import FollowupJobRequest
from dlt.common.destination.typing import PreparedTableSchema
from dlt.common.destination.utils import resolve_merge_strategy
from dlt.common.schema.utils import has_column_with_prop
from dlt.destinations.job_client_impl import SqlLoadJob
from dlt.destinations.job_impl import FollowupJobRequestImpl

from runtime.load.warehouse import use_destination


class DuckDb(dlt.destinations.duckdb):
    """dlt's destination with our client, under dlt's name, which the state contains."""

    destination_type = "dlt.destinations.duckdb"

    @property
    def client_class(self) -> Any:
        from runtime.accelerate.destinations.duckdb import DuckDbFromFiles

        return DuckDbFromFiles


class Postgres(dlt.destinations.postgres):
    """dlt's destination with our client, under dlt's name, which the state contains."""

    destination_type = "dlt.destinations.postgres"

    @property
    def client_class(self) -> Any:
        from runtime.accelerate.destinations.postgres import PostgresIntoNew

        return PostgresIntoNew


DESTINATIONS = {"duckdb": DuckDb, "postgres": Postgres}


def install() -> None:
    for name, destination in DESTINATIONS.items():
        use_destination(name, destination)


def import_driver(name: str) -> None:
    """Imports the client of a destination, and with it the driver."""
    if name in DESTINATIONS:
        _ = DESTINATIONS[name]().client_class


class OneStatementALine(SqlLoadJob):
    """Runs each line as a statement. dlt would also split at semicolons within a block or a file's path."""

    def _split_fragments(self, sql: str) -> list[str]:
        return [statement for statement in sql.split("\n") if statement.strip()]


def wrap_statements(jobs: Sequence[FollowupJobRequest], before: Sequence[str], after: Sequence[str] = ()) -> None:
    """Adds statements before and after those of SQL jobs. A job has a statement per line and is one transaction."""
    for job in jobs:
        assert isinstance(job, FollowupJobRequestImpl)
        file = Path(job.new_file_path())
        file.write_text("\n".join([*before, file.read_text(encoding="utf-8"), *after]), encoding="utf-8")


def merge_equals_insert_if_empty(
    table_chain: Sequence[PreparedTableSchema], capabilities: DestinationCapabilitiesContext
) -> bool:
    """Whether a merge into a table and its children inserts exactly the staged rows if they are all empty."""
    tables: Sequence[Any] = table_chain  # a prepared table has what a schema has
    root = tables[0]
    if root["write_disposition"] != "merge" or root.get("x-merge-source-filter"):
        return False
    if any(has_column_with_prop(table, "hard_delete") for table in tables):
        return False
    return resolve_merge_strategy({root["name"]: root}, root, capabilities) == "upsert"
