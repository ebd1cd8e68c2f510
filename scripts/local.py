"""The deployment without Docker: `demo` loads everything once, `dev` serves the UI. Sandbox, SQLite, DuckDB."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from dotenv import dotenv_values

from sandbox.shop import running_shop
from scripts import port_is_free

if TYPE_CHECKING:
    from dagster import DagsterInstance, Definitions

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "data" / "dagster"
SANDBOX_IN_COMPOSE = "http://sandbox:8000"
SHOP_IN_COMPOSE = "@shop:5432/"
SHOP = "SOURCES__SQL_DATABASE__CREDENTIALS"
FILES_IN_COMPOSE = "/files"
FILES = ROOT / "data" / "files"
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
    """Materialises every asset of every location, all partitions, against the sandbox. Returns the exit code."""
    started = time.monotonic()
    settings = dotenv_values(".env.example")
    # Whatever else the shell or .env says: invented rows go into no other warehouse than the demo's.
    chosen = {name: os.environ[name] for name in CHOSEN_IN_DEMO if name in os.environ}
    with stand_ins(settings | {"WAREHOUSE": "duckdb"} | chosen):
        from dagster import DagsterInstance

        database = Path(os.environ["DESTINATION__DUCKDB__CREDENTIALS"])
        before, failures = count_rows(database), 0
        with DagsterInstance.get() as instance:
            print(f"{'location':<14}{'partition':<32}{'rows sent':>12}{'seconds':>9}")
            for location in locations():
                for report in materialize_all(load(location), instance):
                    print(f"{location:<14}{report['partition']:<32}{report['rows']:>12,}{report['seconds']:>9.1f}")
                    for failure in report["failures"]:
                        print(f"  FAILED {failure}")
                    failures += len(report["failures"])
        after = count_rows(database)
        print(f"\n{os.path.relpath(database):<58}{'rows':>12}{'new':>12}")
        for table, rows in after.items():
            print(f"{table:<58}{rows:>12,}{rows - before.get(table, 0):>12,}")
    print(f"\n{time.monotonic() - started:.0f} seconds.", end=" ")
    if failures:
        print(f"{failures} failed, see above.")
    elif after == before:
        print("Nothing new: the warehouse has it all.")
    else:
        print(f"{sum(after.values()) - sum(before.values()):,} rows are new.")
    return 1 if failures else 0


def dev() -> int:
    """Serves the UI with all locations and the daemon until Ctrl-C. Returns the exit code."""
    settings = dotenv_values(".env" if Path(".env").exists() else ".env.example") | os.environ
    port = int(settings.get("WEBSERVER_PORT") or 3000)
    port_is_free.demand(port)
    # Before anything starts: a handler is not inherited, but a signal that is ignored would be.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        with stand_ins(settings):
            return serve(port)
    except Stopped:
        return 0


def serve(port: int) -> int:
    """Runs `dagster dev` until it or this process is told to end. Returns its exit code."""
    workspace = HOME / "workspace.yaml"
    # Not in the project's folder: Dagster would read its .env again, over what has been made of it here.
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
        with suppress(ProcessLookupError):  # its children are in its group: none may outlive it
            os.killpg(process.pid, signal.SIGKILL)


class Stopped(BaseException):
    """Ctrl-C, or the terminal was closed."""


def stop(*_: object) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise Stopped


@contextmanager
def stand_ins(settings: Mapping[str, str | None]) -> Iterator[None]:
    """Runs the sandbox and the shop's database and sets the environment of all that follows."""
    archives = settings.get("SANDBOX_GITHUB_ARCHIVES") or ""
    port = free_port()
    command = [sys.executable, "-m", "sandbox", "--port", str(port), "--files", str(FILES)]
    environment = {**os.environ, "SANDBOX_GITHUB_ARCHIVES": archives}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(process, address)
        os.environ |= {name: (value or "").replace(SANDBOX_IN_COMPOSE, address) for name, value in settings.items()}
        set_up()
        with ExitStack() as stack:
            if SHOP_IN_COMPOSE in os.environ.get(SHOP, ""):
                os.environ[SHOP] = stack.enter_context(running_shop(ROOT / "data" / "shop"))
            yield
    finally:
        process.terminate()
        process.wait()


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
    """Dagster's home below `data`: the deployment's instance and workspace, as far as they need no container."""
    database = os.environ.get("DESTINATION__DUCKDB__CREDENTIALS") or "data/warehouse.duckdb"
    os.environ |= {
        "DAGSTER_HOME": str(HOME),
        "DAGSTER_COMPUTE_LOGS_DIR": str(HOME / "logs"),
        # A plain file name is the project's, wherever a process runs; a URL is left as it is.
        "DESTINATION__DUCKDB__CREDENTIALS": database if ":" in database else str(ROOT / database),
        "DLT_DATA_DIR": str(ROOT / "data" / "dlt"),
        "LOAD__DELETE_COMPLETED_JOBS": "true",
        "RUNTIME__DLTHUB_TELEMETRY": "false",
    }
    if os.environ.get("SOURCES__FILESYSTEM__BUCKET_URL") == FILES_IN_COMPOSE:
        os.environ["SOURCES__FILESYSTEM__BUCKET_URL"] = str(FILES)
    HOME.mkdir(parents=True, exist_ok=True)
    instance = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    del instance["storage"]  # embedded: SQLite files in DAGSTER_HOME
    (HOME / "dagster.yaml").write_text(yaml.safe_dump(instance))
    modules = [{"python_module": {"module_name": module(name), "location_name": name}} for name in locations()]
    (HOME / "workspace.yaml").write_text(yaml.safe_dump({"load_from": modules}))


def locations() -> list[str]:
    workspace = yaml.safe_load((ROOT / "workspace.yaml").read_text())
    return [entry["grpc_server"]["location_name"] for entry in workspace["load_from"]]


def module(location: str) -> str:
    return f"code_locations.{location}.definitions"


def load(location: str) -> "Definitions":
    definitions: Definitions = import_module(module(location)).defs
    return definitions


def materialize_all(definitions: "Definitions", instance: "DagsterInstance") -> Iterator[dict[str, Any]]:
    """Runs the location's assets with their checks: one run per named partition, one for all days. Reports each."""
    job = definitions.resolve_implicit_global_asset_job_def()
    for partitions_def, keys in assets_by_partitions(definitions):
        for partition, tags in partitions(partitions_def):
            started = time.monotonic()
            result = job.execute_in_process(
                instance=instance,
                asset_selection=keys,
                tags=tags,
                raise_on_error=False,
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            )
            # A run over many days reports the same rows for each of them.
            sent = {event.asset_key: rows_sent(event) for event in result.get_asset_materialization_events()}
            yield {
                "partition": partition,
                "rows": sum(sent.values()),
                "seconds": time.monotonic() - started,
                "failures": [
                    *(f"{event.step_key}: {root_cause(event)}" for event in result.get_step_failure_events()),
                    *(
                        f"check {check.check_name} of {check.asset_key.to_user_string()}"
                        for check in result.get_asset_check_evaluations()
                        if not check.passed
                    ),
                ],
            }


def assets_by_partitions(definitions: "Definitions") -> list[tuple[Any, list[Any]]]:
    groups: dict[Any, list[Any]] = {}
    for key in sorted(definitions.resolve_asset_graph().materializable_asset_keys):
        groups.setdefault(definitions.resolve_asset_graph().get(key).partitions_def, []).append(key)
    return list(groups.items())


def partitions(partitions_def: Any) -> list[tuple[str, dict[str, str]]]:
    """What to call each run, and the tags that tell Dagster its partition or range of partitions."""
    from dagster import TimeWindowPartitionsDefinition

    keys = partitions_def.get_partition_keys() if partitions_def else []
    if isinstance(partitions_def, TimeWindowPartitionsDefinition):
        first, last = keys[0], keys[-1]
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        return [(f"{first}...{last}", tags)]
    return [(key, {"dagster/partition": key}) for key in keys] or [("", {})]


def root_cause(event: Any) -> str:
    error = event.step_failure_data.error
    while error and error.cause:
        error = error.cause
    return error.message.strip() if error else ""


def rows_sent(event: Any) -> int:
    return int(str(event.materialization.metadata["rows_loaded"].value))


def count_rows(database: Path) -> dict[str, int]:
    """Table → rows, for all tables but dlt's own."""
    import duckdb

    if not database.exists():
        return {}
    with duckdb.connect(str(database), read_only=True) as connection:
        names = connection.sql(
            "SELECT table_schema, table_name FROM information_schema.tables "
            r"WHERE table_name NOT LIKE '\_dlt%' ESCAPE '\' ORDER BY ALL"
        ).fetchall()
        count = 'SELECT count(*) FROM "{}"."{}"'
        return {".".join(name): connection.sql(count.format(*name)).fetchall()[0][0] for name in names}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
