"""HubSpot in the revenue location on the sandbox: what it loads, and its messages when a setting is wrong."""

import gzip
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.location import Location, materialize
from tests.support.sandbox import Sandbox

KINDS = ("companies", "contacts", "deals", "tickets", "products", "quotes")
STAGED = tuple(f"{what}_{kind}" for what in ("pipelines", "stages_timing") for kind in ("deals", "tickets"))
OTHERS = ("owners", "properties", *STAGED)
HISTORIES = tuple(f"{kind}_property_history" for kind in KINDS)
PERSONAL = re.compile(r"contact\d+@|Contact \d+|Dmitri|Hiroshi")


@pytest.fixture
def location(tmp_path: Path, sandbox: Sandbox) -> Location:
    sandbox.settings(hubspot_requests=1_000_000, hubspot_searches_per_second=1_000_000)
    return Location(
        "revenue",
        "hubspot",
        tmp_path,
        RUNTIME__REQUEST_BACKOFF_FACTOR="0.01",
        SOURCES__HUBSPOT__API_KEY=sandbox.hubspot.token,
        SOURCES__HUBSPOT__API_BASE_URL=sandbox.hubspot.url,
    )


def test_the_first_load_reads_everything_and_the_next_only_what_changed(location: Location, sandbox: Sandbox) -> None:
    report = location.load(*KINDS, *OTHERS, *HISTORIES)

    assert report["success"], report["failures"]
    assert set(report["rows"]) == {*KINDS, *OTHERS, *HISTORIES}
    assert all(report["rows"].values())
    assert report["rows"]["deals"] == 243
    unique = {f"{name}.primary_key_is_unique": True for name in (*KINDS, *OTHERS, *HISTORIES)}
    assert report["checks"] == unique | {f"{kind}.rows_match_hubspot": True for kind in KINDS}

    sandbox.hubspot.change("edit", type="deals", id="3000001", properties={"dealname": "Renamed"})
    report = location.load(*KINDS, *OTHERS)
    assert report["success"], report["failures"]
    assert {name for name, rows in report["rows"].items() if rows} == {"deals", "stages_timing_deals"}
    assert report["rows"]["deals"] == 1

    assert location.load("quotes", full_reload=True)["rows"] == {"quotes": 73}


def test_a_try_out_reads_a_page_and_a_refresh_loads_one_table_anew(location: Location) -> None:
    tables = [["hubspot", "deals"]]
    try_out = {"ops": {"hubspot": {"config": {"max_items": 5}}}}
    refresh = {"ops": {"hubspot": {"config": {"refresh": "drop_resources"}}}}
    reports = location.run(*({"assets": tables, "tags": {}, "config": config} for config in (try_out, {}, refresh, {})))

    some, everything, again, nothing = (report["rows"]["hubspot/deals"] for report in reports)
    assert 5 <= some < everything == again == 243
    assert nothing == 0
    assert all(reports[-1]["checks"].values())


@pytest.mark.parametrize(
    ("damage", "failed"),
    [
        ("DELETE FROM products WHERE id = '5000001'", "products.rows_match_hubspot"),
        ("INSERT INTO products SELECT * FROM products LIMIT 1", "products.primary_key_is_unique"),
    ],
)
def test_checks_find_missing_and_duplicate_rows(location: Location, damage: str, failed: str) -> None:
    location.load("products")
    location.sql(damage)
    checks = location.load("products")["checks"]

    assert not checks.pop(failed)
    assert all(checks.values())


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("", "SOURCES__HUBSPOT__API_KEY is missing, empty or a placeholder: set it to read from HubSpot."),
        ("canary-7f3a", "check SOURCES__HUBSPOT__API_KEY"),
    ],
)
def test_a_failed_run_says_what_to_change(location: Location, key: str, sentence: str) -> None:
    location.environment["SOURCES__HUBSPOT__API_KEY"] = key
    report = location.load("owners")

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


def test_no_personal_value_of_a_contact_is_in_the_warehouse_the_logs_or_the_files_of_a_failed_load(
    location: Location,
) -> None:
    location.environment |= {
        "HUBSPOT_PERSONAL_DATA": "email:hash,firstname:leave_out,lastname:leave_out",
        "SOURCES__HUBSPOT__HASH_SALT": "a-long-random-text",
    }
    tables = ["contacts", "contacts_property_history"]
    [report] = location.run(materialize("hubspot", *tables))
    output = (location.folder / "output").read_text()
    found = {
        table: "\n".join(map(str, location.sql(f"SELECT * FROM {table}")))
        for (table,) in location.sql("SELECT table_name FROM information_schema.tables WHERE table_schema LIKE 'raw%'")
    }

    assert report["success"], report["failures"]
    assert set(report["checks"].values()) == {True}
    assert set(tables) < set(found)
    assert location.sql("SELECT count(*), max(length(email)) FROM contacts WHERE email IS NOT NULL") == [(287, 64)]
    assert {name for (name,) in location.sql("SELECT DISTINCT property_name FROM contacts_property_history")} > {
        "lifecyclestage"
    }
    assert not {name for name, text in found.items() if PERSONAL.search(text)}
    assert not PERSONAL.search(output)

    location.sql("DROP TABLE contacts; CREATE VIEW contacts AS SELECT 1 AS id")
    [report] = location.run(materialize("hubspot", *tables, full_reload=True))
    output = (location.folder / "output").read_text()
    files = [path for path in (location.folder / "dlt").rglob("*") if path.is_file()]

    assert not report["success"]
    assert "contacts" in report["failures"][0]
    assert any(re.search("[0-9a-f]{64}", text_of(path)) for path in files if path.name.startswith("contacts."))
    assert not [path for path in files if PERSONAL.search(text_of(path))]
    assert not PERSONAL.search(output)


def text_of(path: Path) -> str:
    content = path.read_bytes()
    if content[:4] == b"PAR1":
        return "\n".join(map(str, pq.read_table(path).to_pylist()))
    return (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode(errors="replace")
