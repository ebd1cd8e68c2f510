"""`make bench` measures all and writes `benchmarks/README.md`; `make bench SECTION=growth` measures that alone anew.

With `--small`, in two minutes, only that everything runs, and that what is loaded is right.
"""

import os
import platform
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import apis, databases, events, growth, isolation, orchestration, peers, shapes, streams

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
PAGE = FOLDER / "page.md"
SECTIONS: dict[str, Callable[[], str]] = {
    "databases": databases.run,
    "databases-few": lambda: databases.run(100_000),
    "shapes": shapes.run,
    "peers": peers.run,
    "peers-few": lambda: peers.run(100_000),
    "apis": apis.run,
    "apis-many": lambda: apis.run(100_000),
    "streams": streams.run,
    "events": events.run,
    "growth": growth.run,
    "orchestration": orchestration.run,
    "backfills": orchestration.backfills,
    "at-rest": orchestration.at_rest,
    "isolation": isolation.run,
}


def main() -> None:
    if "--small" in sys.argv:
        for run, size in ((databases.run, 10_000), (apis.run, 100), (isolation.run, 10_000)):
            print(run(size, rounds=1), end="\n\n", flush=True)
        return
    RESULTS.mkdir(exist_ok=True)
    for name in sys.argv[1:] or SECTIONS:
        result = SECTIONS[name]()
        (RESULTS / f"{name}.md").write_text(f"{result}\n\n{machine()}\n")
        print(result)
    write_page()


def write_page() -> None:
    """The page, from all that was ever measured."""
    results = {path.stem: path.read_text().strip() for path in RESULTS.glob("*.md")}
    blocks = PAGE.read_text().split("\n\n\n")  # each with the name of a section; shown if that was measured
    shown = [block for block in blocks if set(re.findall("{([a-z-]+)}", block)) <= set(results)]
    page = re.sub("{([a-z-]+)}", lambda name: results[name[1]], "\n\n".join(shown))
    (FOLDER / "README.md").write_text(page)


def machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("dagster", "dlt", "duckdb", "pyarrow"))
    return (
        f"*{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, {packages}*"
    )


if __name__ == "__main__":
    main()
