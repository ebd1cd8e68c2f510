"""The learning location on the sandbox: what arrives, its lineage, and what a user reads when a setting is wrong."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from tests.conftest import ROOT, Sandbox

TABLES = ("courses", "users", "enrollments", "course_reviews")
SCRIPT = """
import json, sys
from dagster import AssetKey
from code_locations.learning.definitions import defs
assets = [AssetKey(["thinkific", name]) for name in sys.argv[2:]] or None
config = {"ops": {"thinkific": {"config": {"full_reload": sys.argv[1] == "full"}}}}
job = defs.resolve_implicit_global_asset_job_def()
result = job.execute_in_process(run_config=config, asset_selection=assets, raise_on_error=False)
print(json.dumps({
    "success": result.success,
    "failures": [event.step_failure_data.error.to_string() for event in result.get_step_failure_events()],
    "rows": {
        event.asset_key.path[-1]: event.materialization.metadata["rows_loaded"].value
        for event in result.get_asset_materialization_events()
    },
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
            "DLT_DATA_DIR": str(folder / "dlt"),
            "DESTINATION__DUCKDB__CREDENTIALS": str(self.database),
            "SOURCES__THINKIFIC__API_KEY": sandbox.token,
            "SOURCES__THINKIFIC__SUBDOMAIN": "sandbox",
            "SOURCES__THINKIFIC__API_BASE_URL": sandbox.thinkific_url,
        }

    def python(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, **settings}
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)

    def load(self, *tables: str, how: str = "changes", **settings: str) -> dict[str, Any]:
        process = self.python("-c", SCRIPT, how, *tables, **settings)
        assert process.returncode == 0, process.stderr
        report: dict[str, Any] = json.loads(process.stdout)
        return report

    def damage(self, statement: str) -> None:
        with duckdb.connect(str(self.database)) as connection:
            connection.execute("SET schema = 'raw_thinkific'")
            connection.execute(statement)


@pytest.fixture
def location(tmp_path: Path, sandbox: Sandbox) -> Location:
    return Location(tmp_path, sandbox)


def test_the_site_loads_with_all_checks_passed_and_then_its_changes(location: Location, sandbox: Sandbox) -> None:
    report = location.load()

    assert report["success"], report["failures"]
    checks = ("primary_key_is_unique", "rows_match_thinkific")
    assert report["checks"] == {f"{table}.{check}": True for table in TABLES for check in checks}
    assert report["rows"] == {"courses": 12, "users": 600, "enrollments": 2_400, "course_reviews": 150}

    sandbox.change_site("progress", percentage=0.5)
    sandbox.change_site("delete", "users", id=1_050)
    report = location.load()

    assert report["rows"] == {"courses": 12, "users": 599, "enrollments": 1, "course_reviews": 149}
    assert all(report["checks"].values())
    assert location.load("enrollments", how="full")["rows"] == {"enrollments": 2_396}


def test_an_empty_site_loads_too(location: Location, sandbox: Sandbox) -> None:
    sandbox.create_site(courses=0, users=0, enrollments=0, course_reviews=0)
    report = location.load()

    assert report["success"], report["failures"]
    assert report["rows"] == dict.fromkeys(TABLES, 0)
    assert all(report["checks"].values())


def test_reviews_load_without_their_courses(location: Location) -> None:
    report = location.load("course_reviews")

    assert report["rows"] == {"course_reviews": 150}
    assert all(report["checks"].values())


@pytest.mark.parametrize(
    ("damage", "failed"),
    [
        ("DELETE FROM enrollments WHERE id = 50001", "enrollments.rows_match_thinkific"),
        ("INSERT INTO enrollments SELECT * FROM enrollments LIMIT 1", "enrollments.primary_key_is_unique"),
    ],
)
def test_a_check_sees_what_is_wrong(location: Location, damage: str, failed: str) -> None:
    location.load("enrollments")
    location.damage(damage)
    checks = location.load("enrollments")["checks"]

    assert not checks.pop(failed)
    assert all(checks.values())


@pytest.mark.parametrize("variable", ["SOURCES__THINKIFIC__API_KEY", "SOURCES__THINKIFIC__SUBDOMAIN"])
@pytest.mark.parametrize(
    ("value", "sentence"), [("", "{} is missing or empty: set it to read from Thinkific."), ("canary-7f3a", "{}")]
)
def test_a_run_says_what_to_change(location: Location, variable: str, value: str, sentence: str) -> None:
    report = location.load(**{variable: value})

    assert not report["success"]
    for failure in report["failures"]:
        assert sentence.format(variable) in failure.partition("Stack Trace")[0]
        assert "canary" not in failure


def test_importing_needs_no_secret_no_network_and_no_warehouse(location: Location) -> None:
    settings = {
        "SOURCES__THINKIFIC__API_KEY": "",
        "SOURCES__THINKIFIC__SUBDOMAIN": "",
        "SOURCES__THINKIFIC__API_BASE_URL": "http://127.0.0.1:1",
        "WAREHOUSE": "postgres",
    }
    process = location.python("-c", "import code_locations.learning.definitions", **settings)

    assert process.returncode == 0, process.stderr


def test_the_catalogue_is_complete_and_the_site_is_upstream_of_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path))
    from code_locations.learning.definitions import defs

    graph = defs.resolve_asset_graph()
    site, tables = dg.AssetKey(["thinkific", "site"]), {dg.AssetKey(["thinkific", table]) for table in TABLES}
    assert graph.get(site).child_keys == graph.materializable_asset_keys == tables
    assert graph.external_asset_keys == {site}
    for spec in defs.resolve_all_asset_specs():
        assert spec.description
        assert spec.group_name == "thinkific"
        assert spec.owners == ["team:learning"]
        assert spec.key == site or [dep.asset_key for dep in spec.deps] == [site]
        assert spec.kinds == ({"thinkific"} if spec.key == site else {"dlt", "thinkific", "duckdb"})
    assert graph.get(site).metadata["vendor"].value.startswith("https://developers.thinkific.com/")
    schedule = defs.resolve_schedule_def("thinkific_every_six_hours")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    assert defs.resolve_job_def(schedule.job_name).asset_layer.selected_asset_keys == tables
