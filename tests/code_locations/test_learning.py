"""The learning location on the sandbox: what it loads, its lineage, and its messages when a setting is wrong."""

from pathlib import Path

import dagster as dg
import pytest

from tests.support.location import Location
from tests.support.sandbox import Sandbox

TABLES = ("courses", "users", "enrollments", "course_reviews")


@pytest.fixture
def location(tmp_path: Path, sandbox: Sandbox) -> Location:
    return Location(
        "learning",
        "thinkific",
        tmp_path,
        SOURCES__THINKIFIC__API_KEY=sandbox.thinkific.token,
        SOURCES__THINKIFIC__SUBDOMAIN="sandbox",
        SOURCES__THINKIFIC__API_BASE_URL=sandbox.thinkific.url,
    )


def test_the_first_load_reads_the_site_and_later_loads_its_changes(location: Location, sandbox: Sandbox) -> None:
    report = location.load()

    assert report["success"], report["failures"]
    checks = ("primary_key_is_unique", "rows_match_thinkific")
    assert report["checks"] == {f"{table}.{check}": True for table in TABLES for check in checks}
    assert report["rows"] == {"courses": 12, "users": 600, "enrollments": 2_400, "course_reviews": 150}

    sandbox.thinkific.change("progress", percentage=0.5)
    sandbox.thinkific.change("delete", "users", id=1_050)
    report = location.load()

    assert report["rows"] == {"courses": 12, "users": 599, "enrollments": 1, "course_reviews": 149}
    assert all(report["checks"].values())
    assert location.load("enrollments", full_reload=True)["rows"] == {"enrollments": 2_396}


def test_an_empty_site_loads(location: Location, sandbox: Sandbox) -> None:
    sandbox.thinkific.create_site(courses=0, users=0, enrollments=0, course_reviews=0)
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
def test_checks_find_missing_and_duplicate_rows(location: Location, damage: str, failed: str) -> None:
    location.load("enrollments")
    location.sql(damage)
    checks = location.load("enrollments")["checks"]

    assert not checks.pop(failed)
    assert all(checks.values())


@pytest.mark.parametrize("variable", ["SOURCES__THINKIFIC__API_KEY", "SOURCES__THINKIFIC__SUBDOMAIN"])
@pytest.mark.parametrize(
    ("value", "sentence"),
    [("", "{} is missing, empty or a placeholder: set it to read from Thinkific."), ("canary-7f3a", "{}")],
)
def test_a_failed_run_says_what_to_change(location: Location, variable: str, value: str, sentence: str) -> None:
    location.environment[variable] = value
    report = location.load()

    assert not report["success"]
    for failure in report["failures"]:
        assert sentence.format(variable) in failure.partition("Stack Trace")[0]
        assert "canary" not in failure


def test_importing_needs_no_secret_no_network_and_no_warehouse(location: Location) -> None:
    location.environment |= {
        "SOURCES__THINKIFIC__API_KEY": "",
        "SOURCES__THINKIFIC__SUBDOMAIN": "",
        "SOURCES__THINKIFIC__API_BASE_URL": "http://127.0.0.1:1",
        "WAREHOUSE": "postgres",
    }
    process = location.definitions()

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
