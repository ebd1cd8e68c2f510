"""The table of `databases.py`, loaded by what a user might pick instead.

Each as whole processes into an empty warehouse, at the best settings that its documentation has; the limit and this
deployment take turns with them. A peer runs in an environment of its own, made here out of `peers/uv.lock`, as what
they need excludes each other. None has to merge, as this deployment does. What was loaded is compared with the source,
values and types: what a peer has changed is told, not held against it. One that cannot be installed, or that fails, is
a line with its error. `python -m benchmarks.peers CONTENDER WAREHOUSE` is one measurement.
"""

import json
import math
import os
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import parse_qs, urlsplit

from benchmarks.databases import (
    FORK,
    LIMIT,
    OURS,
    Columns,
    changed,
    columns_in_duckdb,
    columns_in_postgres,
    make_source,
)
from benchmarks.isolation import empty
from benchmarks.measure import Measured, measure, measure_command, postgres, spread, table, take_turns

PEERS = Path(__file__).with_name("peers")
HAND_WRITTEN, SLING, INGESTR, SINGER, STOCK = "hand-written", "sling", "ingestr", "singer", "stock"
NAMES = {
    LIMIT: "limit",
    OURS: "**this deployment**, a Dagster run and all",
    FORK: "**this deployment**, as its server starts a run",
    HAND_WRITTEN: "dlt by hand: connectorx, parquet",
    SLING: "sling {sling-linux-amd64}",
    INGESTR: "ingestr {ingestr}: pyarrow, parquet",
    SINGER: "singer: tap-postgres {meltanolabs-tap-postgres}, {target}",
    STOCK: "dagster-dlt as its guide has it: dlt's defaults",
}
TARGETS = {
    "duckdb": "target-duckdb {target-duckdb}",
    "postgres": "target-postgres {meltanolabs-target-postgres} with COPY",
}
# More than a minute for a million rows, by what a tenth of them takes.
SLOW = (SINGER, STOCK)


def run(rows: int = 1_000_000, rounds: int = 5) -> str:
    """The table, in Markdown."""
    lines = []
    with postgres() as source:
        expected = make_source(source, rows)
        for warehouse in ("duckdb", "postgres"):
            names = [name for name in NAMES if name not in SLOW or rows <= 100_000]
            errors: dict[str, str] = {}
            results = take_turns(
                {name: partial(_load_or_error, name, warehouse, source, expected, errors) for name in names}, rounds
            )
            limit = median(one.seconds for one in results[LIMIT])
            for name, found in results.items():
                seconds = [one.seconds for one in found]
                line = [f"Postgres → {warehouse}", _title(name, warehouse)]
                if name in errors:
                    lines.append([*line, "failed", "", errors[name]])
                else:
                    ratio = f"{limit / median(seconds):.2f}"
                    told = "; ".join(sorted({one.output for one in found if one.output}))
                    lines.append([*line, spread(seconds), ratio, told or "nothing"])
    return table([f"{rows:,} rows", "by", "seconds", "of the limit", "what it changed"], lines)


def _title(name: str, warehouse: str) -> str:
    packages = tomllib.loads((PEERS / "uv.lock").read_text())["package"]
    versions = {package["name"]: package["version"] for package in packages}
    return NAMES[name].format(**versions, target=TARGETS[warehouse].format(**versions))


def _load_or_error(name: str, warehouse: str, source: str, expected: Any, errors: dict[str, str]) -> Measured:
    """What was measured and what was changed; of a peer that failed, endless seconds. It is not tried again."""
    try:
        if name not in errors:
            return _load_into_empty(name, warehouse, source, expected)
    except (Exception, SystemExit) as error:  # of whatever kind: a column or the table may not be there
        if name in (LIMIT, OURS, FORK):
            raise
        said = str(error).replace(str(PEERS), "benchmarks/peers").replace("|", "\\|")
        errors[name] = " ".join(said.split())[-300:]
    return Measured(math.inf, "")


def _load_into_empty(name: str, warehouse: str, source: str, expected: Columns) -> Measured:
    with tempfile.TemporaryDirectory() as home, empty(warehouse) as environment:
        target = environment[f"DESTINATION__{warehouse.upper()}__CREDENTIALS"]
        environment |= {"BENCHMARK_SOURCE": source, "SOURCES__SQL_DATABASE__CREDENTIALS": source}
        if name in (LIMIT, OURS, FORK):
            done = measure("benchmarks.databases", name, warehouse, environment=environment, says_seconds=name == FORK)
        elif name == STOCK:
            done = measure("benchmarks.peers", name, warehouse, environment=environment)
        else:
            command, settings = COMMANDS[name](Path(home), warehouse, source, target)
            done = measure_command(*command, environment=environment | {"HOME": home} | settings)
        found = (columns_in_duckdb if warehouse == "duckdb" else columns_in_postgres)(target, "raw")
        told = changed(expected, found)
        assert not told or name not in (LIMIT, OURS, FORK), f"{name} has not loaded what is there: {told}"
        return Measured(done.seconds, told)


Command = tuple[list[str], dict[str, str]]


def _hand_written(home: Path, warehouse: str, source: str, target: str) -> Command:
    return [str(_installed("dlt") / "bin/python"), "-m", "benchmarks.peers", HAND_WRITTEN, warehouse], {}


def _sling(home: Path, warehouse: str, source: str, target: str) -> Command:
    environment = _installed("sling")
    [packages] = environment.glob("lib/*/site-packages")
    [sling] = packages.glob("sling_*/bin/sling*")
    duckdb = str(packages / "duckdb_cli/duckdb")
    # sling would fetch the command-line client, and that its extensions.
    if not (environment / ".duckdb").exists():
        for extension in packages.glob("duckdb_extension_*/extensions/*/*.duckdb_extension"):
            _run([duckdb, "-c", f"INSTALL '{extension}'"], {"HOME": str(environment)})
    (home / ".duckdb").symlink_to(environment / ".duckdb")
    settings = {
        "SOURCE": _for_go(source),
        "TARGET": f"duckdb://{target}" if warehouse == "duckdb" else _for_go(target),
        "DUCKDB_PATH": duckdb,
        "DUCKDB_VERSION": _run([duckdb, "--version"], {}).split()[0].removeprefix("v"),
        "SLING_DISABLE_TELEMETRY": "true",
    }
    replace = ["--mode", "full-refresh"]
    stream = ["--src-conn", "SOURCE", "--src-stream", "public.orders"]
    return [str(sling), "run", *stream, "--tgt-conn", "TARGET", "--tgt-object", "raw.orders", *replace], settings


def _for_go(url: str) -> str:
    """The URL of a server, as Go's driver wants that of a socket."""
    parts = urlsplit(url)
    [folder] = parse_qs(parts.query)["host"]
    return f"postgresql:///{parts.path[1:]}?host={folder}&user={parts.username}&sslmode=disable"


def _ingestr(home: Path, warehouse: str, source: str, target: str) -> Command:
    command = [
        str(_installed("ingestr") / "bin/ingestr"),
        *("ingest", "--yes", "--progress", "log"),
        *("--source-uri", source, "--source-table", "public.orders"),
        *("--dest-uri", f"duckdb:///{target}" if warehouse == "duckdb" else target, "--dest-table", "raw.orders"),
        *("--sql-backend", "pyarrow", "--loader-file-format", "parquet" if warehouse == "duckdb" else "csv"),
    ]
    return command, {"DISABLE_TELEMETRY": "true"}


def _singer(home: Path, warehouse: str, source: str, target: str) -> Command:
    """A tap piped into a target, which is what Meltano runs. Discovery is not measured, as it keeps the catalog."""
    tap = str(_installed("tap-postgres") / "bin/tap-postgres")
    writer = str(_installed(f"target-{warehouse}") / f"bin/target-{warehouse}")
    of_tap = {"sqlalchemy_url": _for_sqlalchemy(source, "psycopg2"), "filter_schemas": ["public"]}
    of_target: dict[str, Any] = {"default_target_schema": "raw"}
    if warehouse == "duckdb":
        of_target["path"] = target
    else:
        of_target |= {"sqlalchemy_url": _for_sqlalchemy(target, "psycopg"), "use_copy": True}
        of_target |= {"batch_size_rows": 100_000, "validate_records": False}
        of_target |= {"add_record_metadata": False, "activate_version": False}
    (home / "tap.json").write_text(json.dumps(of_tap))
    (home / "target.json").write_text(json.dumps(of_target))
    catalog = json.loads(_run([tap, "--config", f"{home}/tap.json", "--discover"], {}))
    for stream in catalog["streams"]:
        for entry in stream["metadata"]:
            entry["metadata"]["selected"] = True
    (home / "catalog.json").write_text(json.dumps(catalog))
    pipe = 'set -o pipefail; "$0" --config tap.json --catalog catalog.json | "$1" --config target.json'
    return ["bash", "-c", f'cd "$HOME"; {pipe}', tap, writer], {}


def _for_sqlalchemy(url: str, driver: str) -> str:
    return url.replace("postgresql://", f"postgresql+{driver}://")


COMMANDS = {HAND_WRITTEN: _hand_written, SLING: _sling, INGESTR: _ingestr, SINGER: _singer}


@cache
def _installed(group: str) -> Path:
    """The environment of this group of the peers' packages. `uv run` says where uv is."""
    environment = PEERS / ".venv" / group
    uv = [os.environ.get("UV", "uv"), "sync", "--locked", "--quiet", "--compile-bytecode"]
    _run([*uv, "--project", str(PEERS), "--group", group], {"UV_PROJECT_ENVIRONMENT": str(environment)})
    return environment


def _run(command: list[str], environment: Mapping[str, str]) -> str:
    return measure_command(*command, environment=environment).output


def load(name: str, warehouse: str) -> None:
    """One measurement, in a process of its own."""
    (_stock if name == STOCK else _connectorx)(warehouse)


def _stock(warehouse: str) -> None:
    import dagster as dg
    import dlt as dlt_library
    from dagster_dlt import DagsterDltResource, dlt_assets
    from dagster_dlt.dlt_event_iterator import DltEventType
    from dlt.sources.sql_database import sql_database

    @dlt_assets(
        dlt_source=sql_database(_for_sqlalchemy(os.environ["BENCHMARK_SOURCE"], "psycopg2"), table_names=["orders"]),
        dlt_pipeline=dlt_library.pipeline("orders", destination=warehouse, dataset_name="raw"),
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        yield from dlt.run(context=context)

    assert dg.materialize([assets], resources={"dlt": DagsterDltResource()}).success


def _connectorx(warehouse: str) -> None:
    import dlt
    from dlt.sources.sql_database import sql_database

    source = sql_database(
        _for_sqlalchemy(os.environ["BENCHMARK_SOURCE"], "psycopg2"),
        table_names=["orders"],
        backend="connectorx",
        backend_kwargs={"return_type": "arrow_stream"},
        chunk_size=100_000,
        reflection_level="full_with_precision",
    )
    dlt.pipeline("orders", destination=warehouse, dataset_name="raw").run(source, loader_file_format="parquet")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        load(*sys.argv[1:])
    else:
        print(run())
