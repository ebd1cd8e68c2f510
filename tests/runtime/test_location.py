"""A location whose modules cannot all be imported, or do not go together."""

import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.storage.tags import RETRY_ON_ASSET_OR_OP_FAILURE_TAG

from runtime.load.location import merge
from runtime.load.resource import IsolatedDltResource

SOUND = """
import dagster as dg

@dg.asset(key=["sound", "table"])
def table(): ...

@dg.schedule(cron_schedule="@daily", target=[table])
def daily(): ...

defs = dg.Definitions(assets=[table], schedules=[daily])
"""
DEFINITIONS = """
from runtime.load import location

with location.isolated_imports(__package__):
    from team import {names}

defs = location.merge({defs})
"""
Team = Callable[..., dg.Definitions]


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Team]:
    """Writes the modules of a location `team` and its `definitions.py`, and returns the location's definitions.

    A module without a text is imported, but has no file.
    """
    package = tmp_path / "code_locations" / "team"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(package.parent))

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "team"]:
            del sys.modules[name]

    def defined(helpers: str = "", **modules: str) -> dg.Definitions:
        forget()
        text = DEFINITIONS.format(names=", ".join(modules), defs=", ".join(f"{name}.defs" for name in modules))
        for name, code in {**modules, "helpers": helpers, "definitions": text}.items():
            if code:
                (package / f"{name}.py").write_text(code)
        defs: dg.Definitions = import_module("team.definitions").defs
        return defs

    yield defined
    forget()


def run(defs: dg.Definitions, *key: str) -> tuple[bool, str | None, dict[str, str]]:
    """A run of one asset: whether it succeeded, what its failure says, and its tags."""
    with dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
            asset_selection=[dg.AssetKey(key)], raise_on_error=False, instance=instance
        )
        tags = dict(instance.get_run_by_id(result.run_id).tags)  # type: ignore[union-attr]
    for event in result.get_step_failure_events():
        failure = event.step_failure_data.user_failure_data
        return result.success, failure.description if failure else None, tags
    return result.success, None, tags


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (
            "raise ValueError('TEAM must be a list')",
            "ValueError: TEAM must be a list (code_locations/team/broken.py:1)",
        ),
        ("import sys\nsys.exit(3)", "SystemExit: 3 (code_locations/team/broken.py:2)"),
        ("defs = (", "SyntaxError: '(' was never closed (broken.py, line 1) (code_locations/team/broken.py:1)"),
        ("x = 1", "TypeError: team.broken has no `defs`: end it with `defs = dg.Definitions(assets=[…])`"),
        (
            "from dlt.common.exceptions import TerminalException\nraise TerminalException('no such plan')",
            "TerminalException: no such plan (code_locations/team/broken.py:2)",
        ),
    ],
    ids=["error", "exit", "syntax", "no-defs", "terminal"],
)
def test_a_module_that_raises_becomes_a_placeholder_and_the_others_load(
    team: Team, module: str, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    defs = team(broken=module, sound=SOUND)

    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
    assert set(specs) == {"broken/not_loaded", "sound/table"}
    placeholder = specs["broken/not_loaded"]
    assert (placeholder.group_name, placeholder.kinds) == ("broken", {"not_loaded"})
    assert (placeholder.description or "").startswith("team.broken is not loaded")
    assert sentence in (placeholder.description or "")
    assert caplog.messages == [f"team.broken is not loaded. {placeholder.metadata['what to do']}"]
    assert [schedule.name for schedule in defs.schedules or []] == ["daily"]
    assert run(defs, "sound", "table")[0]
    succeeded, said, tags = run(defs, "broken", "not_loaded")
    assert not succeeded
    assert said is not None
    assert sentence in said
    assert tags[RETRY_ON_ASSET_OR_OP_FAILURE_TAG] == "false"  # Dagster would start it again three times


def test_a_module_that_does_not_exist_is_named(team: Team) -> None:
    defs = team(zendsk="", sound=SOUND)

    assert "team.zendsk is not installed" in run(defs, "zendsk", "not_loaded")[1]  # type: ignore[operator]
    assert run(defs, "sound", "table")[0]


def test_what_a_module_imports_from_its_location_is_not_isolated(team: Team, caplog: pytest.LogCaptureFixture) -> None:
    module = SOUND.replace("import dagster", "from team import helpers\nimport dagster")
    assert run(team(sound=module, helpers="answer = 42"), "sound", "table")[0]
    assert caplog.messages == []

    said = run(team(sound=module, helpers="raise ValueError('no helpers today')"), "sound", "not_loaded")[1]
    assert said == "ValueError: no helpers today (code_locations/team/helpers.py:1)"


def test_a_module_is_imported_again_by_the_next_process(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEAM_TOKEN", raising=False)
    needs_token = "import os\ntoken = os.environ['TEAM_TOKEN']\n" + SOUND
    assert run(team(sound=needs_token), "sound", "not_loaded")[1] == (
        "TEAM_TOKEN is missing, empty or a placeholder: set it and restart the location. "
        "(code_locations/team/sound.py:2)"
    )

    monkeypatch.setenv("TEAM_TOKEN", "t")
    assert run(team(sound=needs_token), "sound", "table")[0]


def test_processes_that_start_together_can_name_new_pipelines(
    team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the runs of a new container do. dlt.pipeline() makes and removes files in a folder that they share."""
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    pipelines = "import dlt\npipelines = [dlt.pipeline(f'shop_{n}', destination='duckdb') for n in range(10)]\n"
    processes = get_context("fork")

    def name_pipelines(together: Barrier) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "team"]:
            del sys.modules[name]
        together.wait(30)
        defs: dg.Definitions = import_module("team.definitions").defs
        sys.exit({spec.key.to_user_string() for spec in defs.resolve_all_asset_specs()} != {"sound/table"})

    team(sound=pipelines + SOUND)  # writes the modules
    for _ in range(3):
        shutil.rmtree(tmp_path / "dlt")
        together = processes.Barrier(6)
        started = [processes.Process(target=name_pipelines, args=(together,)) for _ in range(6)]
        for process in started:
            process.start()
        for process in started:
            process.join()
        assert [process.exitcode for process in started] == [0] * 6


def test_a_location_is_shown_although_nothing_can_be_written(
    team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "file"))

    assert [spec.key.to_user_string() for spec in team(sound=SOUND).resolve_all_asset_specs()] == ["sound/table"]


def test_without_isolation_the_module_raises(team: Team) -> None:
    team(broken="raise ValueError('TEAM must be a list')")

    for statement in ("import team.broken", "from team import broken"):
        with pytest.raises(ValueError, match="TEAM must be a list"):
            exec(statement)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, DagsterExecutionInterruptedError])
def test_an_interrupt_is_not_held_up(team: Team, interrupt: type[BaseException]) -> None:
    with pytest.raises(interrupt):
        team(broken=f"from {interrupt.__module__} import {interrupt.__name__} as Interrupt\nraise Interrupt")


def test_modules_that_contradict_each_other_stop_the_later_one(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "blocked_by_the_user", None)
    defs = team(
        sound=SOUND,
        twin="from dagster_dlt import DagsterDltResource\n"
        + SOUND.replace("daily()", "nightly()")
        .replace("[daily]", "[nightly]")
        .replace("schedules=", "resources={'dlt': DagsterDltResource()}, schedules="),
        third=SOUND.replace('"sound"', '"third"').replace("daily()", "later()").replace("[daily]", "[later]"),
    )

    keys = {spec.key.to_user_string() for spec in defs.resolve_all_asset_specs()}
    assert keys == {"sound/table", "twin/not_loaded", "third/table"}
    assert "sound" in run(defs, "twin", "not_loaded")[1]  # type: ignore[operator]


def test_definitions_of_no_module_that_contradict_others_get_a_placeholder_too(team: Team) -> None:
    defs = team(sound=SOUND)
    twin = dg.Definitions.merge(dg.Definitions(assets=[dg.AssetSpec(["sound", "table"])]))
    merged = merge(defs, twin)

    keys = {spec.key.to_user_string() for spec in merged.resolve_all_asset_specs()}
    assert keys == {"sound/table", "unnamed_module/not_loaded"}


def test_the_resource_of_dagsters_guide_is_replaced_by_the_safe_one(team: Team) -> None:
    guide = SOUND.replace("schedules=", "resources={'dlt': DagsterDltResource(), 'own': 1}, schedules=")
    resources = team(sound=f"from dagster_dlt import DagsterDltResource\n{guide}").resources or {}

    assert isinstance(resources["dlt"], IsolatedDltResource)
    assert resources["own"] == 1


TWO_SOURCES = """
import dagster as dg
import dlt
from dagster_dlt import DagsterDltResource, dlt_assets

from runtime.load.translator import SourceTranslator

@dlt.source
def lacking(token: str = dlt.secrets.value):
    return dlt.resource([{"id": 1}], name="orders")

@dlt.source
def sound():
    return dlt.resource([{"id": 1}], name="table")

def assets_of(source):
    @dlt_assets(dlt_source=source, dlt_pipeline=dlt.pipeline("two", destination="duckdb"), name=source.name,
                dagster_dlt_translator=SourceTranslator(source=source.name))
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource):
        yield from dlt.run(context=context)
    return assets

defs = dg.Definitions(assets=[assets_of(lacking()), assets_of(sound())])
"""


def test_a_source_that_lacks_a_setting_leaves_the_other_sources_of_its_module(
    team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DESTINATION__DUCKDB__CREDENTIALS", str(tmp_path / "warehouse.duckdb"))

    defs = team(two=TWO_SOURCES)

    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
    assert set(specs) == {"lacking/not_loaded", "sound/table"}
    missing = "SOURCES__TWO__TOKEN is missing, empty or a placeholder: set it and restart the location."
    description = specs["lacking/not_loaded"].description or ""
    assert missing in description
    assert caplog.messages == [f"team.two: {description}"]
    assert run(defs, "sound", "table")[0]
    succeeded, said, tags = run(defs, "lacking", "not_loaded")
    assert not succeeded
    assert (said or "").startswith(missing)
    assert tags[RETRY_ON_ASSET_OR_OP_FAILURE_TAG] == "false"

    monkeypatch.setenv("SOURCES__TWO__TOKEN", "t")
    keys = {spec.key.to_user_string() for spec in team(two=TWO_SOURCES).resolve_all_asset_specs()}
    assert keys == {"lacking/orders", "sound/table"}


@pytest.mark.parametrize(
    "last_line",
    ["daily = dg.ScheduleDefinition(job=dg.define_asset_job('j', selection=['lacking/orders']), cron_schedule='@daily')"
     "\ndefs = dg.Definitions.merge(defs, dg.Definitions(schedules=[daily]))",
     "lacking().orders.add_limit(1)",
     "defs = dg.Definitions(assets=[assets_of(lacking())])"],
    ids=["a-job-of-its-tables", "uses-its-tables", "no-other-source"],
)  # fmt: skip
def test_a_module_that_cannot_do_without_a_source_is_not_loaded(team: Team, last_line: str) -> None:
    defs = team(two=TWO_SOURCES + last_line, other=SOUND)

    keys = {spec.key.to_user_string() for spec in defs.resolve_all_asset_specs()}
    assert keys == {"two/not_loaded", "sound/table"}
    assert "SOURCES__TWO__TOKEN is missing" in (run(defs, "two", "not_loaded")[1] or "")
