"""The deployment without Docker: `demo` loads everything once, `dev` serves the UI. Sandbox, SQLite, DuckDB."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from dotenv import dotenv_values

from scripts import port_is_free

if TYPE_CHECKING:
    from dagster import DagsterInstance, Definitions

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "data" / "dagster"
SANDBOX_IN_COMPOSE = "http://sandbox:8000"


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
    with sandbox(free_port()) as address:
        set_up({**dotenv_values(".env.example"), "WAREHOUSE": "duckdb"}, address)
        from dagster import DagsterInstance

        rows, failures = 0, 0
        with DagsterInstance.get() as instance:
            print(f"{'location':<14}{'partition':<32}{'rows loaded':>12}{'seconds':>9}")
            for location in locations():
                for report in materialize_all(load(location), instance):
                    print(f"{location:<14}{report['partition']:<32}{report['rows']:>12,}{report['seconds']:>9.1f}")
                    for failure in report["failures"]:
                        print(f"  FAILED {failure}")
                    rows += report["rows"]
                    failures += len(report["failures"])
        print_warehouse(Path(os.environ["DESTINATION__DUCKDB__CREDENTIALS"]))
    print(f"\n{time.monotonic() - started:.0f} seconds.", end=" ")
    if failures:
        print(f"{failures} failed, see above.")
    elif rows:
        print(f"{rows:,} rows loaded.")
    else:
        print("Nothing new: the warehouse has it all.")
    return 1 if failures else 0


def dev() -> int:
    """Serves the UI with all locations and the daemon until Ctrl-C. Returns the exit code."""
    env_file = ".env" if Path(".env").exists() else ".env.example"
    settings = {**dotenv_values(env_file), **os.environ}
    port = int(settings.get("WEBSERVER_PORT") or 3000)
    port_is_free.demand(port)
    with sandbox(free_port()) as address:
        set_up(dotenv_values(env_file), address)
        workspace = HOME / "workspace.yaml"
        # Not in the project's folder: Dagster would read its .env again, over what set_up has made of it.
        process = subprocess.Popen(
            [sys.executable, "-m", "dagster", "dev", "--workspace", str(workspace), "--port", str(port)],
            cwd=HOME,
            start_new_session=True,
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: process.send_signal(signal.SIGINT))
        return max(process.wait(), 0)


def set_up(settings: dict[str, str | None], sandbox_address: str) -> None:
    """Sets the environment of all that follows. What the shell has set wins over `settings`."""
    for name, value in settings.items():
        os.environ.setdefault(name, value or "")
    for name, value in os.environ.items():
        os.environ[name] = value.replace(SANDBOX_IN_COMPOSE, sandbox_address)
    os.environ |= {
        "DAGSTER_HOME": str(HOME),
        "DAGSTER_COMPUTE_LOGS_DIR": str(HOME / "logs"),
        "DLT_DATA_DIR": str(ROOT / "data" / "dlt"),
        "DESTINATION__DUCKDB__CREDENTIALS": str(ROOT / os.environ["DESTINATION__DUCKDB__CREDENTIALS"]),
        "LOAD__DELETE_COMPLETED_JOBS": "true",
        "RUNTIME__DLTHUB_TELEMETRY": "false",
    }
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
    """Runs the location's assets once per partition key, with their checks, and reports each run."""
    job = definitions.resolve_implicit_global_asset_job_def()
    for partitions_def, keys in assets_by_partitions(definitions):
        for partition in partitions_def.get_partition_keys() if partitions_def else [None]:
            started = time.monotonic()
            result = job.execute_in_process(
                instance=instance,
                asset_selection=keys,
                partition_key=partition,
                raise_on_error=False,
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            )
            events = result.get_asset_materialization_events()
            yield {
                "partition": partition or "",
                "rows": sum(int(str(event.materialization.metadata["rows_loaded"].value)) for event in events),
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


def root_cause(event: Any) -> str:
    error = event.step_failure_data.error
    while error and error.cause:
        error = error.cause
    return error.message.strip() if error else ""


def print_warehouse(database: Path) -> None:
    import duckdb

    with duckdb.connect(str(database), read_only=True) as connection:
        names = connection.sql(
            "SELECT table_schema, table_name FROM information_schema.tables "
            r"WHERE table_name NOT LIKE '\_dlt%' ESCAPE '\' ORDER BY ALL"
        ).fetchall()
        print(f"\n{database!s:<46}{'rows':>12}")
        for schema, table in names:
            [(rows,)] = connection.sql(f'SELECT count(*) FROM "{schema}"."{table}"').fetchall()
            print(f"{schema + '.' + table:<46}{rows:>12,}")


@contextmanager
def sandbox(port: int) -> Iterator[str]:
    """Runs the stand-ins for the SaaS APIs and yields their address."""
    address = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([sys.executable, "-m", "sandbox", "--port", str(port)], start_new_session=True)
    try:
        for _ in range(100):
            if process.poll() is not None:
                sys.exit("The sandbox did not start, see above.")
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
