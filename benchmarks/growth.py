"""How the cost of a load grows with its rows, and that of a run with its partitions. Faster than the work is a defect.

Of rows beside the limit, as the server starts a run; of partitions as a whole process.

`python -m benchmarks.growth PARTITIONS` is one measurement: one run over so many days, of ten rows each, into DuckDB.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from datetime import date, timedelta
from functools import partial
from math import log10
from statistics import median
from typing import Any

from benchmarks import databases
from benchmarks.measure import QUIET, Measured, measure, postgres, spread, table, take_turns

ROWS = [10**exponent for exponent in range(3, 8)]
PARTITIONS = [1, 10, 100, 1000]
FIRST_DAY = date(2023, 1, 1)
ROWS_PER_DAY = 10
# As the table names them.
CONTENDERS = {databases.LIMIT: "limit", databases.FORK: "this deployment"}


def run(rows: list[int] = ROWS, partitions: list[int] = PARTITIONS, rounds: int = 5) -> str:
    """The table, in Markdown."""
    lines = []
    for warehouse in databases.CONTENDERS:
        results = {number: loads_of_rows(number, warehouse, rounds) for number in rows}
        for name, text in CONTENDERS.items():
            costs = {number: [one.seconds for one in results[number][name]] for number in rows}
            lines += grown(f"rows → {warehouse}, {text}", costs)
    costs = {number: [run_over(number).seconds for _ in range(rounds)] for number in partitions}
    lines += grown("days of ten rows in one run → duckdb", costs)
    return table(["work", "how much", "seconds", "grows with the work to the power of"], lines)


def grown(work: str, costs: dict[int, list[float]]) -> list[list[str]]:
    """A line for each amount of work. The power is that of the step from the amount before, its start included."""
    lines, before = [], None
    for amount, seconds in costs.items():
        now = (log10(amount), log10(median(seconds)))
        power = f"{(now[1] - before[1]) / (now[0] - before[0]):.2f}" if before else ""
        lines.append([work, f"{amount:,}", spread(seconds), power])
        before = now
    return lines


def loads_of_rows(rows: int, warehouse: str, rounds: int) -> dict[str, list[Measured]]:
    """By contender, loads of a table with so many rows, each into an empty warehouse."""
    with postgres() as source:
        expected = databases.make_source(source, rows)
        contenders = {
            name: partial(databases.load_into_empty, name, warehouse, source, expected) for name in CONTENDERS
        }
        return take_turns(contenders, rounds)


def run_over(days: int) -> Measured:
    """One run over so many days."""
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/warehouse.duckdb"
        environment = QUIET | {
            "WAREHOUSE": "duckdb",
            "DLT_DATA_DIR": f"{folder}/dlt",
            "DESTINATION__DUCKDB__CREDENTIALS": file,
        }
        done = measure("benchmarks.growth", str(days), environment=environment)
        import duckdb

        with duckdb.connect(file, read_only=True) as connection:
            found = connection.execute("SELECT count(*) FROM raw.visits").fetchone()
        assert found == (days * ROWS_PER_DAY,), f"{found} rows of {days} days"
        return done


def load(days: int) -> None:
    """One measurement, in a process of its own."""
    import dagster as dg
    import dlt
    from dagster_dlt import DagsterDltResource, dlt_assets
    from dagster_dlt.dlt_event_iterator import DltEventType

    from runtime.load.resource import IsolatedDltResource
    from runtime.load.warehouse import warehouse_pipeline

    since = dlt.sources.incremental("day", initial_value=FIRST_DAY)

    @dlt.source(name="visits", section="visits")
    def visits_source() -> Any:
        @dlt.resource(name="visits", primary_key="id", write_disposition="merge")
        def read(moment: Any = since) -> Iterator[Any]:
            """Visits, some on each day."""
            first = moment.last_value  # dlt moves it with the rows
            for number in range((moment.end_value - first).days):
                day = first + timedelta(days=number)
                yield [{"id": f"{day} {visit}", "day": day} for visit in range(ROWS_PER_DAY)]

        return read

    last_day = FIRST_DAY + timedelta(days=days - 1)

    @dlt_assets(
        dlt_source=visits_source(),
        dlt_pipeline=warehouse_pipeline("visits", "raw"),
        partitions_def=dg.DailyPartitionsDefinition(
            str(FIRST_DAY), end_date=str(FIRST_DAY + timedelta(days=PARTITIONS[-1] + 1))
        ),
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        yield from dlt.run(context=context)

    window = {
        "dagster/asset_partition_range_start": str(FIRST_DAY),
        "dagster/asset_partition_range_end": str(last_day),
    }
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # Dagster logs every event of a run to stderr
    assert dg.materialize([assets], resources={"dlt": IsolatedDltResource()}, tags=window).success


if __name__ == "__main__":
    if len(sys.argv) == 2:
        load(int(sys.argv[1]))
    else:
        print(run([10**3, 10**4], [1, 10], 1))
