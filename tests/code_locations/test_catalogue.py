"""What an analyst reads in the catalogue of every location: groups, descriptions, names and metadata."""

import re
from importlib import import_module
from pathlib import Path

import dagster as dg
import pytest

from tests.support.paths import ROOT

LOCATIONS = sorted(path.parent.name for path in (ROOT / "code_locations").glob("*/definitions.py"))


@pytest.fixture(params=LOCATIONS)
def defs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dg.Definitions:
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("GITHUB_REPOSITORIES", "a/b,c/d")
    monkeypatch.setenv("FILESYSTEM_TABLES", "deliveries:csv,clicks:jsonl,stock:parquet")
    found: dg.Definitions = import_module(f"code_locations.{request.param}.definitions").defs
    return found


def test_all_metadata_can_be_displayed(defs: dg.Definitions) -> None:
    for spec in defs.resolve_all_asset_specs():
        # Refuses what the catalogue would show as "(unserializable)".
        metadata = {key: value for key, value in spec.metadata.items() if not key.startswith("dagster_dbt/")}
        dg.AssetMaterialization(spec.key, metadata=metadata)  # dagster-dbt reads its objects from there


def test_groups_say_what_the_data_is(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    groups = {graph.get(key).group_name for key in graph.materializable_asset_keys}  # others are in their own location

    assert groups.isdisjoint({"sql_database", "filesystem", "default"})


def test_steps_are_named_after_the_group_that_they_load(defs: dg.Definitions) -> None:
    for assets in defs.resolve_asset_graph().assets_defs:
        if assets.is_executable and assets.keys:
            for group in assets.group_names_by_key.values():
                assert re.fullmatch(rf"{group}(_\w+)?", assets.op.name)


def test_schedules_and_sensors_are_named_by_one_scheme_and_described(defs: dg.Definitions) -> None:
    when = "hourly|every_six_hours|daily|on_new_files|follow_sources"
    groups = "|".join({str(spec.group_name) for spec in defs.resolve_all_asset_specs()})

    for automation in [*(defs.schedules or []), *(defs.sensors or [])]:
        assert isinstance(automation, dg.ScheduleDefinition | dg.SensorDefinition)
        if automation.default_status.value == "RUNNING":  # it looks after the deployment, and loads no group
            assert (automation.description or "").endswith("On from the first start.")
        else:
            assert re.fullmatch(rf"({groups})_({when})", automation.name)
            assert (automation.description or "").endswith("Off until you turn it on.")


def test_checks_are_described(defs: dg.Definitions) -> None:
    for checks in defs.asset_checks or []:
        for spec in checks.check_specs:
            assert spec.description
