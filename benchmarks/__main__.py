"""`make bench` measures all and writes `benchmarks/README.md`; with `--small`, in two minutes, only that it runs."""

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import databases, isolation

PAGE = """# What is measured

`make bench` writes this page. Each measurement is a process of its own; contenders take turns on the same machine, and
what they have loaded is compared value by value, or the benchmark fails. Seconds are medians, with the least and the
most of {rounds}. Ratios are the claim: seconds are this machine's.

{machine}

## A table from Postgres

From an empty warehouse to all rows in it, from the start of the process to its end, imports included. The *limit* is
the same rows by the shortest way there is, without a schema, a state, a merge or a record of what was done.

{databases}

At {few:,} rows, where dlt's defaults can be waited for:

{databases_few}

## What isolation costs

The same load with dagster-dlt's own resource, from `materialize()` to its end.

{isolation}
"""


def main() -> None:
    if "--small" in sys.argv:
        print(databases.run(rows=10_000, rounds=1), isolation.run(rows=10_000, rounds=1), sep="\n\n")
        return
    few = 100_000
    page = PAGE.format(
        rounds=5,
        machine=machine(),
        databases=databases.run(),
        few=few,
        databases_few=databases.run(few),
        isolation=isolation.run(),
    )
    Path(__file__).with_name("README.md").write_text(page)
    print(page)


def machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("dagster", "dlt", "duckdb", "pyarrow"))
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, {packages}."
    )


if __name__ == "__main__":
    main()
