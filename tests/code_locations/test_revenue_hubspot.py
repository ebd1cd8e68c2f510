"""HubSpot in the revenue location on the sandbox: what arrives, and what a user reads when a setting is wrong."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.conftest import ROOT, Sandbox

KINDS = ("companies", "contacts", "deals", "tickets", "products", "quotes")
STAGED = tuple(f"{what}_{kind}" for what in ("pipelines", "stages_timing") for kind in ("deals", "tickets"))
OTHERS = ("owners", "properties", *STAGED)
HISTORIES = tuple(f"{kind}_property_history" for kind in KINDS)
SCRIPT = """
import json, sys
from dagster import AssetSelection
from code_locations.revenue.definitions import defs
selection = AssetSelection.assets(*(["hubspot", name] for name in sys.argv[1].split(",")))
job = defs.resolve_implicit_global_asset_job_def().get_subset(
    asset_selection=selection.resolve(defs.resolve_asset_graph())
)
result = job.execute_in_process(raise_on_error=False, run_config=json.loads(sys.argv[2]))
print(json.dumps({
    "success": result.success,
    "failures": [event.step_failure_data.error.to_string() for event in result.get_step_failure_events()],
    "rows": {m.asset_key.path[-1]: m.metadata["rows_loaded"].value for m in (
        event.event_specific_data.materialization for event in result.get_asset_materialization_events()
    )},
    "checks": {f"{c.asset_key.path[-1]}.{c.check_name}": c.passed for c in result.get_asset_check_evaluations()},
}))
"""


class Location:
    """The location in a process of its own, as a run has it."""

    def __init__(self, folder: Path, sandbox: Sandbox) -> None:
        self.database = folder / "warehouse.duckdb"
        self.environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "RUNTIME__DLTHUB_TELEMETRY": "false",
            "RUNTIME__REQUEST_BACKOFF_FACTOR": "0.01",
            "DLT_DATA_DIR": str(folder / "dlt"),
            "DESTINATION__DUCKDB__CREDENTIALS": str(self.database),
            "SOURCES__HUBSPOT__API_KEY": sandbox.token,
            "SOURCES__HUBSPOT__API_BASE_URL": sandbox.hubspot_url,
        }

    def load(self, *names: str, full_reload: bool = False, **settings: str) -> dict[str, Any]:
        config = {"ops": {"hubspot": {"config": {"full_reload": full_reload}}}}
        process = subprocess.run(
            [sys.executable, "-c", SCRIPT, ",".join(names), json.dumps(config)],
            env={**self.environment, **settings},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        report: dict[str, Any] = json.loads(process.stdout)
        return report


@pytest.fixture
def location(tmp_path: Path, sandbox: Sandbox) -> Location:
    sandbox.settings(hubspot_requests=1_000_000, hubspot_searches_per_second=1_000_000)
    return Location(tmp_path, sandbox)


def test_everything_loads_with_all_checks_passed_and_then_nothing(location: Location, sandbox: Sandbox) -> None:
    report = location.load(*KINDS, *OTHERS, *HISTORIES)

    assert report["success"], report["failures"]
    assert set(report["rows"]) == {*KINDS, *OTHERS, *HISTORIES}
    assert all(report["rows"].values())
    assert report["rows"]["deals"] == 243
    unique = {f"{name}.primary_key_is_unique": True for name in (*KINDS, *OTHERS, *HISTORIES)}
    assert report["checks"] == unique | {f"{kind}.rows_match_hubspot": True for kind in KINDS}

    sandbox.change_crm("edit", type="deals", id="3000001", properties={"dealname": "Renamed"})
    report = location.load(*KINDS, *OTHERS)
    assert report["success"], report["failures"]
    assert {name for name, rows in report["rows"].items() if rows} == {"deals", "stages_timing_deals"}
    assert report["rows"]["deals"] == 1

    assert location.load("quotes", full_reload=True)["rows"] == {"quotes": 73}


@pytest.mark.parametrize(
    ("damage", "failed"),
    [
        ("DELETE FROM products WHERE id = '5000001'", "products.rows_match_hubspot"),
        ("INSERT INTO products SELECT * FROM products LIMIT 1", "products.primary_key_is_unique"),
    ],
)
def test_a_check_sees_what_is_wrong(location: Location, damage: str, failed: str) -> None:
    location.load("products")
    with duckdb.connect(str(location.database)) as connection:
        connection.execute("SET schema = 'raw_hubspot'")
        connection.execute(damage)
    checks = location.load("products")["checks"]

    assert not checks.pop(failed)
    assert all(checks.values())


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("", "SOURCES__HUBSPOT__API_KEY is missing or empty: set it to read from HubSpot."),
        ("canary-7f3a", "check SOURCES__HUBSPOT__API_KEY"),
    ],
)
def test_a_run_says_what_to_change(location: Location, key: str, sentence: str) -> None:
    report = location.load("owners", SOURCES__HUBSPOT__API_KEY=key)

    assert not report["success"]
    for failure in report["failures"]:
        assert sentence in failure.partition("Stack Trace")[0]
        assert "canary" not in failure


def test_the_catalogue_is_complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("SOURCES__HUBSPOT__API_KEY", raising=False)
    from code_locations.revenue.definitions import defs

    specs = {spec.key.path[-1]: spec for spec in defs.resolve_all_asset_specs() if spec.group_name == "hubspot"}
    assert set(specs) == {*KINDS, *OTHERS, *HISTORIES}
    assert len({spec.description for spec in specs.values()}) == len(specs)
    for name, spec in specs.items():
        assert "HubSpot" in (spec.description or "")
        assert spec.owners == ["team:revenue"]
        assert {"dlt", "hubspot", "duckdb"} <= spec.kinds
        assert spec.metadata["dagster/table_name"] == f"raw_hubspot.{name}"
    schedule = defs.resolve_schedule_def("hubspot_hourly")
    scheduled = {key.path[-1] for key in defs.resolve_job_def(schedule.job_name).asset_layer.selected_asset_keys}
    assert scheduled == {*KINDS, *OTHERS}
