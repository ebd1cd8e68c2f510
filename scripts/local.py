"""The deployment without Docker: `demo` loads everything once, `dev` serves the UI. Uses SQLite and DuckDB."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from importlib import import_module
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from dotenv import dotenv_values

from sandbox.shop import running_shop
from scripts import locations, port_is_free, sources

if TYPE_CHECKING:
    from dagster import AssetKey, DagsterInstance, Definitions, PartitionsDefinition

ROOT = Path(__file__).resolve().parent.parent
QUERY = "duckdb.connect('{}').table('raw_github.issues').show()"
HOME = ROOT / "data" / "dagster"
SANDBOX_IN_COMPOSE = "http://sandbox:8000"
SHOP_IN_COMPOSE = "@shop:5432/"
SHOP = "SOURCES__SQL_DATABASE__CREDENTIALS"
FILES_IN_COMPOSE = "/files"
FILES = ROOT / "data" / "files"
# `make demo` loads a part of what the sandbox has: Dagster's records of 70 more days take 9 s of CPU.
DAYS = 30  # of each daily partitions definition
REPOSITORIES = "sandbox/handbook,sandbox/engine"
CHOSEN_IN_DEMO = ("GITHUB_REPOSITORIES", "SANDBOX_GITHUB_ARCHIVES")


def main() -> int:
    os.chdir(ROOT)
    command = sys.argv[1] if len(sys.argv) == 2 else ""
    if command == "demo":
        return demo()
    if command == "dev":
        return dev()
    sys.exit("usage: python -m scripts.local demo|dev")


def demo() -> int:
    """Materializes every asset, in some partitions. Returns the exit code."""
    started = time.monotonic()
    settings = dotenv_values(".env.example")
    # Generated rows go only into the demo's own warehouse, even if the shell or .env names another one.
    settings["GITHUB_REPOSITORIES"] = REPOSITORIES
    chosen = {name: os.environ[name] for name in CHOSEN_IN_DEMO if name in os.environ}
    os.environ.setdefault("RUNTIME__LOG_LEVEL", "ERROR")  # the sources' warnings, such as an API's rate limit
    with stand_ins(settings | {"WAREHOUSE": "duckdb"} | chosen):
        database = Path(os.environ["DESTINATION__DUCKDB__CREDENTIALS"])
        before = count_rows(database)
        print(line("group", "partition", "", "rows sent", "seconds"), flush=True)
        failures = sum(load_all(settings))
        after = count_rows(database)
        print(f"\n{os.path.relpath(database):<58}{'rows':>12}{'new':>12}")
        for table, rows in after.items():
            print(f"{table:<58}{rows:>12,}{rows - before.get(table, 0):>12,}")
    print(f"\n{time.monotonic() - started:.0f} seconds.", end=" ")
    if failures:
        print(f"{failures} failed, see above.")
    elif after == before:
        print("Nothing new: all rows were already in the warehouse.")
    else:
        print(f"{sum(after.values()) - sum(before.values()):,} rows are new.")
    print(f'To see some: .venv/bin/python -c "import duckdb; {QUERY.format(os.path.relpath(database))}"')
    return 1 if failures else 0


class Run(NamedTuple):
    """Assets of a location, and the tags that tell Dagster their partition or range of partitions."""

    location: str
    group: str
    partition: str
    assets: list["AssetKey"]
    tags: dict[str, str]
    needs: set["AssetKey"]  # their upstream assets in other runs


def load_all(settings: sources.Settings) -> Iterator[int]:
    """Loads everything, several runs at the same time. Yields the number of failures of each."""
    from dagster import DagsterInstance

    DagsterInstance.get().dispose()  # creates its files: two processes at once would fail
    processes = get_context("forkserver")
    processes.set_forkserver_preload(["runtime.accelerate.preload", "scripts.preload"])
    names = locations.of_demo()
    workers = (os.cpu_count() or 1) + 1  # one waits for an API, or for another's turn to write the file
    # The thread ends before the stack closes, which stops the shop: also if a location cannot be loaded.
    with ProcessPoolExecutor(workers, processes) as pool, ExitStack() as stack, ThreadPoolExecutor(1) as thread:
        shop = thread.submit(stack.enter_context, shop_stand_in())  # while the processes import the locations
        skipped = {name: without_stand_in(name, settings) for name in names}
        for name in names:
            for source in skipped[name]:
                print(f"{name:<14}{skip_reason(source)}", flush=True)
        planned = [pool.submit(runs_of, name, skipped[name]) for name in names]
        runs = [run for plan in planned for run in plan.result()]
        waiting = sorted(runs, key=lambda run: rounds_after(run, runs), reverse=True)
        running: dict[Future[int], Run] = {}
        while waiting or running:
            unfinished = {key for run in [*waiting, *running.values()] for key in run.assets}
            ready = [run for run in waiting if not run.needs & unfinished]
            for run in ready[: workers - len(running)]:
                waiting.remove(run)
                running[pool.submit(load_run, run, shop.result())] = run
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            yield from (one.result() for one in done)
            running = {one: run for one, run in running.items() if one not in done}


def rounds_after(run: Run, runs: Collection[Run]) -> int:
    """How many runs have to follow a run one after the other."""
    return max((1 + rounds_after(other, runs) for other in runs if other.needs & set(run.assets)), default=0)


def load_run(run: Run, environment: Mapping[str, str]) -> int:
    """Materializes a run's assets. Prints a line when it starts and when it ends. Returns the number of failures."""
    from dagster import DagsterInstance

    os.environ |= environment
    assets = f"{len(run.assets)} asset{'s'[: len(run.assets) - 1]}"
    print(line(run.group, run.partition, f"{assets} start{'s'[: len(run.assets) == 1]}", "", ""), flush=True)
    begun = time.monotonic()
    with DagsterInstance.get() as instance, redirect_stdout(StringIO()):  # what dbt prints
        rows, failed = materialize(run, instance)
    seconds = f"{time.monotonic() - begun:.1f}"
    lines = [line(run.group, run.partition, assets, f"{rows:,}", seconds), *(f"  FAILED {one}" for one in failed)]
    print("\n".join(lines), flush=True)
    return len(failed)


def line(group: str, partition: str, assets: str, rows: str, seconds: str) -> str:
    return f"{group:<14}{partition:<26}{assets:<17}{rows:>12}{seconds:>9}".rstrip()


def dev() -> int:
    """Serves the UI with all locations and the daemon until Ctrl-C. Returns the exit code."""
    settings = dotenv_values(".env" if Path(".env").exists() else ".env.example") | os.environ
    port = int(settings.get("WEBSERVER_PORT") or 3000)
    port_is_free.demand(port)
    # Before anything starts: child processes inherit ignored signals, but not handlers.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        with stand_ins(settings), shop_stand_in() as shop:
            os.environ |= shop
            return serve(port)
    except Stopped:
        return 0


def serve(port: int) -> int:
    """Runs `dagster dev` until it or this process is told to end. Returns its exit code."""
    workspace = HOME / "workspace.yaml"
    # Not in the project's folder: Dagster would read .env there and override the environment that was set up here.
    process = subprocess.Popen(
        [sys.executable, "-m", "dagster", "dev", "--workspace", str(workspace), "--port", str(port)],
        cwd=HOME,
        start_new_session=True,
    )
    try:
        return process.wait()
    finally:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):  # ends its children too
            os.killpg(process.pid, signal.SIGKILL)


class Stopped(BaseException):
    """Ctrl-C, or the terminal was closed."""


def stop(*_: object) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise Stopped


@contextmanager
def stand_ins(settings: Mapping[str, str | None]) -> Iterator[None]:
    """Runs the sandbox, and sets the environment of this process and its children."""
    archives = settings.get("SANDBOX_GITHUB_ARCHIVES") or ""
    port = port_is_free.any_port()
    command = [sys.executable, "-m", "sandbox", "--port", str(port), "--files", str(FILES)]
    environment = {**os.environ, "SANDBOX_GITHUB_ARCHIVES": archives}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(process, address)
        os.environ |= {name: (value or "").replace(SANDBOX_IN_COMPOSE, address) for name, value in settings.items()}
        set_up()
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def shop_stand_in() -> Iterator[dict[str, str]]:
    """Runs the shop's database, unless the settings name another. Yields what it adds to the environment."""
    if SHOP_IN_COMPOSE not in os.environ.get(SHOP, ""):
        yield {}
        return
    with running_shop(ROOT / "data" / "shop") as url:
        yield {SHOP: url}


def wait_for(process: subprocess.Popen[bytes], address: str) -> None:
    for _ in range(100):
        if process.poll() is not None:
            sys.exit("The sandbox did not start, see above.")
        with suppress(OSError):
            urllib.request.urlopen(f"{address}/health", timeout=1).close()
            return
        time.sleep(0.1)
    sys.exit("The sandbox did not answer within 10 seconds.")


def set_up() -> None:
    """Writes Dagster's home in `data`: the deployment's instance and workspace, adapted to run without containers."""
    database = os.environ.get("DESTINATION__DUCKDB__CREDENTIALS") or "data/warehouse.duckdb"
    os.environ |= {
        "DAGSTER_HOME": str(HOME),
        # A plain file name is relative to the project, wherever a process runs. A URL is left as it is.
        "DESTINATION__DUCKDB__CREDENTIALS": database if ":" in database else str(ROOT / database),
        "DLT_DATA_DIR": str(ROOT / "data" / "dlt"),
        "LOAD__DELETE_COMPLETED_JOBS": "true",
        "RUNTIME__DLTHUB_TELEMETRY": "false",
    }
    if os.environ.get("SOURCES__FILESYSTEM__BUCKET_URL") == FILES_IN_COMPOSE:
        os.environ["SOURCES__FILESYSTEM__BUCKET_URL"] = str(FILES)
    HOME.mkdir(parents=True, exist_ok=True)
    instance = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    del instance["storage"]  # Dagster's default: SQLite files in DAGSTER_HOME
    (HOME / "dagster.yaml").write_text(yaml.safe_dump(instance))
    names = locations.in_workspace()
    modules = [{"python_module": {"module_name": locations.module(name), "location_name": name}} for name in names]
    (HOME / "workspace.yaml").write_text(yaml.safe_dump({"load_from": modules}))


def load(location: str) -> "Definitions":
    definitions: Definitions = import_module(locations.module(location)).defs
    return definitions


def without_stand_in(location: str, settings: sources.Settings) -> list[str]:
    """The modules of a location that the sandbox has no data for."""
    modules = sources.modules(location)
    return [module.stem for module in modules if sources.needs_network(module, settings)]


def skip_reason(module: str) -> str:
    variable = f"SOURCES__{module.upper()}__API_BASE_URL"
    return f"{module}: skipped, the sandbox has no stand-in for it. If you have one, set {variable} in .env.example."


def keys_of(location: str, modules: Collection[str]) -> "set[AssetKey]":
    """The assets that some modules of a location define."""
    from dagster import AssetsDefinition

    definitions = [import_module(f"code_locations.{location}.{name}").defs for name in modules]
    assets = [found for module in definitions for found in module.assets or ()]
    return {key for found in assets if isinstance(found, AssetsDefinition) for key in found.keys}


def runs_of(location: str, skipped: Collection[str]) -> list[Run]:
    """One run per group and named partition, one for all days. Without the modules that are skipped."""
    graph = load(location).resolve_asset_graph()
    return [
        Run(location, group, partition, assets, tags, upstream(graph, assets))
        for group, partitions_def, assets in assets_of_runs(graph, keys_of(location, skipped))
        for partition, tags in partitions(partitions_def)
    ]


def upstream(graph: Any, assets: Collection["AssetKey"]) -> "set[AssetKey]":
    return {key for asset in assets for key in graph.get(asset).parent_keys} - set(assets)


def materialize(run: Run, instance: "DagsterInstance") -> tuple[int, list[str]]:
    """Runs assets with their checks. Returns the number of rows sent, and what failed."""
    result = (
        load(run.location)
        .resolve_implicit_global_asset_job_def()
        .execute_in_process(
            instance=instance,
            asset_selection=run.assets,
            tags=run.tags,
            raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
    )
    # A run over many days reports the same rows for each of them.
    sent = {event.asset_key: rows_sent(event) for event in result.get_asset_materialization_events()}
    failed = [f"{event.step_key}: {root_cause(event)}" for event in result.get_step_failure_events()]
    failed += [
        f"check {check.check_name} of {check.asset_key.to_user_string()}: {check.description}"
        for check in result.get_asset_check_evaluations()
        if not check.passed
    ]
    return sum(sent.values()), failed


def assets_of_runs(
    graph: Any, skipped: "Collection[AssetKey]"
) -> "list[tuple[str, PartitionsDefinition | None, list[AssetKey]]]":
    """Group, partitions and keys of the assets that one run can load."""
    found: dict[tuple[str, PartitionsDefinition | None], list[AssetKey]] = {}
    for key in sorted(graph.materializable_asset_keys - set(skipped)):
        asset = graph.get(key)
        found.setdefault((asset.group_name, asset.partitions_def), []).append(key)
    return [(*of_run, keys) for of_run, keys in found.items()]


def partitions(partitions_def: Any) -> list[tuple[str, dict[str, str]]]:
    """The name of each run, and the tags that tell Dagster its partition or range of partitions."""
    from dagster import TimeWindowPartitionsDefinition

    keys = partitions_def.get_partition_keys() if partitions_def else []
    if isinstance(partitions_def, TimeWindowPartitionsDefinition):
        first, last = keys[0], keys[:DAYS][-1]
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        return [(f"{first}...{last}", tags)]
    return [(key, {"dagster/partition": key}) for key in keys] or [("", {})]


def root_cause(event: Any) -> str:
    error = event.step_failure_data.error
    while error and error.cause:
        error = error.cause
    return error.message.strip() if error else ""


def rows_sent(event: Any) -> int:
    metadata = event.materialization.metadata
    return int(str(metadata["rows_loaded"].value)) if "rows_loaded" in metadata else 0


def count_rows(database: Path) -> dict[str, int]:
    """Table → rows, for all tables but dlt's own."""
    import duckdb

    if not database.exists():
        return {}
    with duckdb.connect(str(database), read_only=True) as connection:
        names = connection.sql(
            "SELECT table_schema, table_name FROM information_schema.tables "
            r"WHERE table_type = 'BASE TABLE' AND table_name NOT LIKE '\_dlt%' ESCAPE '\' ORDER BY ALL"
        ).fetchall()
        count = 'SELECT count(*) FROM "{}"."{}"'
        return {".".join(name): connection.sql(count.format(*name)).fetchall()[0][0] for name in names}


if __name__ == "__main__":
    sys.exit(main())
