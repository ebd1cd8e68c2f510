"""A code location in a process of its own, as in production: settings are read at import."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb

from tests.support.paths import ROOT
from tests.support.processes import FORK
from tests.support.run_location import work

Run = dict[str, Any]
Report = dict[str, Any]


class Location:
    """A location with an empty DuckDB warehouse and only the environment variables that one of its sources needs."""

    def __init__(self, name: str, source: str, folder: Path, **settings: str) -> None:
        self.name, self.source, self.folder = name, source, folder
        self.database = folder / "warehouse.duckdb"
        self.environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "RUNTIME__DLTHUB_TELEMETRY": "false",
            "DLT_DATA_DIR": str(folder / "dlt"),
            "DESTINATION__DUCKDB__CREDENTIALS": str(self.database),
            **settings,
        }

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def definitions(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Import the definitions, as the location's server does."""
        return self.python(*options, "-c", f"import code_locations.{self.name}.definitions")

    def run(self, *runs: Run) -> list[Report]:
        """Execute runs one after the other in the same process. `tests.support.run_location` describes their format."""
        answer, theirs = FORK.Pipe(duplex=False)
        process = FORK.Process(target=work, args=(self.name, self.folder, self.environment, runs, theirs))
        process.start()
        theirs.close()
        try:
            reports: list[Report] = answer.recv()
        except EOFError:
            raise AssertionError((self.folder / "output").read_text()) from None
        finally:
            process.join()
        return reports

    def load(self, *tables: str, partition: tuple[str, ...] = (), full_reload: bool = False) -> Report:
        """Materialize tables of the source, or the whole location; returns rows and checks by table."""
        run = materialize(self.source, *tables, partition=partition, full_reload=full_reload)
        [report] = self.run(run)
        for part in ("rows", "checks", "checked_partitions", "severities"):
            report[part] = {name.removeprefix(f"{self.source}/"): value for name, value in report[part].items()}
        return report

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement in the source's dataset; returns its rows."""
        with duckdb.connect(str(self.database)) as connection:
            connection.execute(f"SET schema = 'raw_{self.source}'; SET timezone = 'UTC'")
            return connection.execute(statement).fetchall()


def materialize(source: str, *tables: str, partition: tuple[str, ...] = (), full_reload: bool = False) -> Run:
    """A run of one partition, or of the range from a first to a last partition."""
    names = ["partition"] if len(partition) == 1 else ["asset_partition_range_start", "asset_partition_range_end"]
    return {
        "assets": [[source, table] for table in tables],
        "tags": {f"dagster/{name}": key for name, key in zip(names, partition, strict=False)},
        "config": {"ops": {source: {"config": {"full_reload": True}}}} if full_reload else {},
    }
