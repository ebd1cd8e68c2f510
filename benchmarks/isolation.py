"""What the resource's safety costs: the same loads with dagster-dlt's own resource, side by side.

Each measurement is a process of its own, as a run is; the first of each resource warms up and makes the tables.
`python -m benchmarks.isolation ROWS RESOURCE` is one measurement: it prints the seconds from the call of
`materialize()` to its end, in which both resources do the same work.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from statistics import median
from typing import Any

from benchmarks.measure import QUIET, Measured, measure, postgres, spread, table, take_turns

STOCK, OURS = "stock", "ours"
COLUMNS = ["id", *(f"column_{number}" for number in range(11))]


def run(rows: int = 1_000_000, rounds: int = 5) -> str:
    """The table, in Markdown."""
    lines = []
    for warehouse in ("duckdb", "postgres"):
        for number in (0, rows):
            seconds = {name: [one.seconds for one in found] for name, found in compare(warehouse, number, rounds)}
            stock, ours = median(seconds[STOCK]), median(seconds[OURS])
            adds = f"{100 * (ours / stock - 1):.1f} %" if number else f"{1000 * (ours - stock):.0f} ms"
            name = f"{number:,} rows, 12 columns" if number else "empty, into tables that exist"
            lines.append([name, warehouse, spread(seconds[STOCK]), spread(seconds[OURS]), adds])
    return table(["load", "warehouse", "dagster-dlt's resource, s", "ours, s", "ours adds"], lines)


def compare(warehouse: str, rows: int, rounds: int) -> Iterator[tuple[str, list[Measured]]]:
    """Loads by resource. Each resource has a warehouse of its own."""
    with ExitStack() as stack:
        warehouses = {name: stack.enter_context(empty(warehouse)) for name in (STOCK, OURS)}
        for name, environment in warehouses.items():
            one_load(rows or 1, name, environment)
        contenders = {name: partial(one_load, rows, name, environment) for name, environment in warehouses.items()}
        yield from take_turns(contenders, rounds).items()
        for name, environment in warehouses.items():
            assert (found := sums(warehouse, environment)) == sums_of(rows or 1), f"{name} has loaded {found}"


def one_load(rows: int, resource: str, environment: Mapping[str, str]) -> Measured:
    return measure("benchmarks.isolation", str(rows), resource, environment=environment, says_seconds=True)


def sums(warehouse: str, environment: Mapping[str, str]) -> tuple[int, ...]:
    """The number of rows in the warehouse, and the sum of each column."""
    target = environment[f"DESTINATION__{warehouse.upper()}__CREDENTIALS"]
    columns = ", ".join(f"sum({name})" for name in COLUMNS)
    with closing(_open(target, warehouse)) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(f"SELECT count(*), {columns} FROM raw_numbers.numbers")
        return tuple(map(int, cursor.fetchone()))


def sums_of(rows: int) -> tuple[int, ...]:
    """What they are if all is there."""
    return (rows, *[rows * (rows - 1) // 2] * len(COLUMNS))


def _open(target: str, warehouse: str) -> Any:
    import duckdb
    import psycopg2

    return duckdb.connect(target, read_only=True) if warehouse == "duckdb" else psycopg2.connect(target)


@contextmanager
def empty(warehouse: str) -> Iterator[dict[str, str]]:
    """The environment of runs into an empty warehouse."""
    with tempfile.TemporaryDirectory() as folder:
        common = QUIET | {"WAREHOUSE": warehouse, "DLT_DATA_DIR": f"{folder}/dlt"}
        if warehouse == "duckdb":
            yield common | {"DESTINATION__DUCKDB__CREDENTIALS": f"{folder}/warehouse.duckdb"}
            return
        with postgres() as credentials:
            yield common | {"DESTINATION__POSTGRES__CREDENTIALS": credentials}


def load(rows: int, resource: str) -> None:
    """One load, as a run does it. Prints its seconds."""
    import dagster as dg
    import dlt
    import pyarrow as pa
    from dagster_dlt import DagsterDltResource, dlt_assets
    from dagster_dlt.dlt_event_iterator import DltEventType

    from runtime.load.resource import IsolatedDltResource
    from runtime.load.translator import SourceTranslator
    from runtime.load.warehouse import warehouse_pipeline

    numbers = pa.array(range(rows), pa.int64())
    table = pa.table(dict.fromkeys(COLUMNS, numbers))

    @dlt.source(name="numbers", section="numbers")
    def numbers_source() -> Any:
        @dlt.resource(name="numbers", primary_key="id", write_disposition="merge")
        def read() -> Iterator[Any]:
            """Numbers."""
            if rows:
                yield table

        return read

    @dlt_assets(
        dlt_source=numbers_source(),
        dlt_pipeline=warehouse_pipeline("numbers", "raw_numbers"),
        dagster_dlt_translator=SourceTranslator(source="numbers"),
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        yield from dlt.run(context=context)

    resources = {"dlt": DagsterDltResource() if resource == "stock" else IsolatedDltResource()}
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # Dagster logs every event of a run to stderr
    started = time.perf_counter()
    assert dg.materialize([assets], resources=resources).success
    print(time.perf_counter() - started)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        load(int(sys.argv[1]), sys.argv[2])
    else:
        print(run())
