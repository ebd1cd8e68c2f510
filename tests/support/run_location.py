"""Runs a location's assets in a process that a test has forked.

A run is a JSON object with `assets` (keys; none: all), `tags` and `config`; or with `checks`, the key of an asset whose
checks are run, and `damage`, SQL that is executed before and undone afterwards.
"""

import os
from collections.abc import Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb

from runtime.load import retries


def work(
    location: str, folder: Path, environment: dict[str, str], runs: Sequence[dict[str, Any]], answer: Connection
) -> None:
    """Sends the reports of the runs. What they print goes to the file `output` in the folder."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    with Path("output").open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    retries.MAX_WAIT_SECONDS = 0.1
    defs: dg.Definitions = import_module(f"code_locations.{location}.definitions").defs
    answer.send([check(defs, **run) if "checks" in run else load(defs, **run) for run in runs])


def load(defs: dg.Definitions, assets: list[list[str]], tags: dict[str, str], config: dict[str, Any]) -> dict[str, Any]:
    result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
        asset_selection=[dg.AssetKey(key) for key in assets] or None,
        tags=tags,
        run_config=config,
        raise_on_error=False,
    )
    return report(result)


def check(defs: dg.Definitions, checks: list[str], damage: str) -> dict[str, Any]:
    warehouse = Path(os.environ["DESTINATION__DUCKDB__CREDENTIALS"])
    sound = warehouse.read_bytes()
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute(f"SET schema = 'raw_{checks[0]}'; {damage}")
    selection = dg.AssetSelection.checks_for_assets(dg.AssetKey(checks))
    job = dg.define_asset_job("checks", selection).resolve(asset_graph=defs.resolve_asset_graph())
    result = job.execute_in_process(raise_on_error=False)
    warehouse.write_bytes(sound)
    return report(result)


def report(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    materializations = [event.materialization for event in result.get_asset_materialization_events()]
    errors = [event.step_failure_data.error for event in result.get_step_failure_events()]
    checks = {f"{c.asset_key.to_user_string()}.{c.check_name}": c for c in result.get_asset_check_evaluations()}
    return {
        "success": result.success,
        "failures": [error.to_string() if error else "" for error in errors],
        "materialized": len(materializations),
        "rows": {
            m.asset_key.to_user_string(): m.metadata["rows_loaded"].value
            for m in materializations
            if "rows_loaded" in m.metadata
        },
        "checks": {name: check.passed for name, check in checks.items()},
        "checked_partitions": {name: check.partition for name, check in checks.items()},
        "severities": {name: check.severity.value for name, check in checks.items() if not check.passed},
    }
