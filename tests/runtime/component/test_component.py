"""The project of docs/components.md: what it loads, the commands, and the project as a code location."""

import importlib
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dagster as dg
import dlt
import duckdb
import pytest
import yaml
from dagster.components import build_defs_for_component

from runtime.load.component import IsolatedDltLoadCollectionComponent, IsolatedLoad
from runtime.load.warehouse import warehouse_pipeline
from tests.support.paths import ROOT
from tests.support.warehouse import Warehouse

PROJECT = Path(__file__).parent / "logistics"
PAGE = (ROOT / "docs" / "components.md").read_text()
COMMANDS = re.findall(r"^    (dg .*)$", PAGE, re.MULTILINE)
DAYS = ["2026-01-01", "2026-01-02", "2026-01-03"]
REGIONS = ["north", "south", "west"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project."""
    return shutil.copytree(PROJECT, tmp_path / "logistics", ignore=shutil.ignore_patterns("__pycache__", ".local*"))


@cache
def definitions(source: Path) -> dg.Definitions:
    sys.path.insert(0, str(source))
    found: dg.Definitions = importlib.import_module("logistics.definitions").defs()
    return found


def load(partition: str, options: Mapping[str, Any] | None = None) -> bool:
    """A run of a day or a region, in a process of its own."""
    config = {"ops": {"dlt_assets_depots_raw_depots": {"config": options}}} if options else {}
    key = dg.AssetKey(["raw_parcels", "parcels"] if partition in DAYS else ["raw_depots", "depots"])
    job = definitions(PROJECT / "src").resolve_implicit_global_asset_job_def()
    return job.execute_in_process(config, asset_selection=[key], partition_key=partition).success


def test_days_and_names_that_load_at_once_are_all_there_and_a_second_run_changes_nothing(
    warehouse: Warehouse,
) -> None:
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as workers:
        assert all(workers.map(load, [*DAYS, *REGIONS]))
        first = rows_of(warehouse)
        assert all(workers.map(load, [*REGIONS, *DAYS]))

    assert first == [
        ("depots north", 50),
        ("depots south", 50),
        ("depots west", 50),
        ("gates", 3 * 50 * 2),
        ("parcels 01", 24),
        ("parcels 02", 24),
        ("parcels 03", 24),
        ("scans", 3 * 24 * 2),
    ]
    assert rows_of(warehouse) == first


def test_a_run_has_the_options_of_a_load(warehouse: Warehouse) -> None:
    count = "SELECT count(*) FROM raw_depots.depots"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as worker:
        assert worker.submit(load, "north", {"max_items": 5}).result()
        [(tried,)] = warehouse.rows(count)
        assert worker.submit(load, "north").result()

    assert 0 < tried < 50
    assert warehouse.rows(count) == [(50,)]


def rows_of(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    return sorted(
        warehouse.rows(
            "SELECT 'parcels ' || substr(id, 1, 2), count(DISTINCT id) FROM raw_parcels.parcels GROUP BY 1 "
            "UNION ALL SELECT 'scans', count(*) FROM raw_parcels.parcels__scans "
            "UNION ALL SELECT 'depots ' || region, count(*) FROM raw_depots.depots GROUP BY 1 "
            "UNION ALL SELECT 'gates', count(*) FROM raw_depots.depots__gates"
        )
    )


def environment(folder: Path, *paths: Path) -> dict[str, str]:
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(folder),
        "PYTHONPATH": ":".join(map(str, [*paths, ROOT])),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "DLT_DATA_DIR": str(folder / "dlt"),
        "DESTINATION__DUCKDB__CREDENTIALS": str(folder / "warehouse.duckdb"),
    }


def run(folder: Path, line: str, env: dict[str, str]) -> str:
    """What a command prints."""
    done = subprocess.run(line.split(), cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def loaded(folder: Path, table: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(folder / "warehouse.duckdb")) as connection:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchall()


@pytest.mark.timeout(300)
def test_the_commands_of_the_page_scaffold_a_load_that_runs(project: Path) -> None:
    scaffold, components, check, listed = COMMANDS
    dg_ = partial(run, project, env=environment(project.parent, project / "src"))
    dg_(scaffold)

    assert IsolatedDltLoadCollectionComponent.__name__ in dg_(f"{components} --json")
    dg_(check)
    defs = json.loads(dg_(f"{listed} --json"))
    keys = {asset["asset_key"] for asset in defs["assets"]}
    assert keys == {"raw_parcels/parcels", "raw_depots/depots", "raw_greetings/greetings", "greetings_greetings"}
    assert [check["key"] for check in defs["asset_checks"]] == ["raw_parcels/parcels:primary_key_is_unique"]
    dg_("dg launch --assets raw_greetings/greetings")
    assert loaded(project.parent, "raw_greetings.greetings") == [(1,)]


def image(folder: Path, project: Path) -> Path:
    """The folder /app of the project's image, as the Dockerfile makes it."""
    for name in ("code_locations/__init__.py", "dlt_sources/__init__.py", "dlt_sources/verified/__init__.py"):
        (folder / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "src" / name).touch()
    (folder / "src" / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "location_code.py", folder / "src" / "scripts")
    shutil.move(project, folder / "src" / "code_locations" / "logistics")
    app = folder / "app"
    run(folder / "src", f"{sys.executable} scripts/location_code.py logistics {app}", {})
    (app / "runtime").symlink_to(ROOT / "runtime")
    return app


def settings_of_the_page(app: Path) -> dict[str, str]:
    """What compose gives to the service of the page."""
    [service] = re.findall(r"^```yaml\n(  logistics:\n.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(service.splitlines()) == 1 + 6
    compose = (ROOT / "docker-compose.yml").read_text().replace("\nnetworks:\n", f"\n{service}\nnetworks:\n", 1)
    settings: dict[str, str] = yaml.safe_load(compose)["services"]["logistics"]["environment"]
    return {name: settings[name].replace("/app", str(app)) for name in ("DAGSTER_MODULE_NAME", "PYTHONPATH")}


@contextmanager
def server(app: Path, env: dict[str, str]) -> Iterator[Path]:
    """The location's server. Yields the workspace.yaml of the page, with its address."""
    [line] = re.findall(r"^```yaml\n(  - grpc_server.*)\n```", PAGE, re.MULTILINE)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    workspace = app.parent / "workspace.yaml"
    workspace.write_text(f"load_from:\n{line}".replace("host: logistics", "host: 127.0.0.1").replace("4000", port))
    env = env | {"DAGSTER_GRPC_HOST": "127.0.0.1", "DAGSTER_GRPC_PORT": port, "DAGSTER_LAZY_LOAD_USER_CODE": "1"}
    with (app.parent / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "runtime.instance.server"], cwd=app, env=env, stdout=log, stderr=log
        )
        try:
            health = [sys.executable, "-m", "runtime.instance.health"]
            while subprocess.run(health, cwd=app, env=env, capture_output=True).returncode:
                assert process.poll() is None, (app.parent / "log").read_text()
            yield workspace
        finally:
            process.terminate()
            process.wait(60)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "state", ["LOCAL_FILESYSTEM", pytest.param("LEGACY_CODE_SERVER_SNAPSHOTS", marks=pytest.mark.slow)]
)
def test_the_project_is_a_code_location_also_with_a_state_backed_component(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    lanes = project / "src" / "logistics" / "defs" / "lanes" / "defs.yaml"
    lanes.write_text(lanes.read_text().replace("LOCAL_FILESYSTEM", state))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    coordinator = {"module": "dagster._core.run_coordinator", "class": "DefaultRunCoordinator"}  # needs no daemon
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({"run_coordinator": coordinator}))
    env = environment(tmp_path) | {"DAGSTER_HOME": str(tmp_path)}
    if state == "LOCAL_FILESYSTEM":  # fetched before the image is built, and not in the container
        run(project, "dg utils refresh-defs-state", environment(tmp_path, project / "src") | {"LANES": "sea,rail"})
    else:
        env["LANES"] = "sea,rail"
    app = image(tmp_path, project)
    with dg.DagsterInstance.get() as instance, server(app, env | settings_of_the_page(app)) as workspace:
        launch = f"dagster job launch --workspace {workspace} --job"
        run(tmp_path, f'{launch} day_of_parcels --tags {{"dagster/partition":"2026-01-03"}}', env)
        run(tmp_path, f"{launch} lanes", env)
        statuses = wait_for(instance, 2)

    assert statuses == [dg.DagsterRunStatus.SUCCESS] * 2, (tmp_path / "log").read_text()
    assert loaded(tmp_path, "raw_parcels.parcels") == [(24,)]
    assert loaded(tmp_path, "raw_lanes.sea") == loaded(tmp_path, "raw_lanes.rail") == [(3,)]


def wait_for(instance: dg.DagsterInstance, runs: int) -> Sequence[dg.DagsterRunStatus]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = instance.get_runs()
        if len(found) == runs and all(run.is_finished for run in found):
            break
        time.sleep(0.5)
    return [run.status for run in instance.get_runs()]


def component(*loads: Any) -> dg.Definitions:
    """The definitions of a component with loads of these sources and other fields."""
    found = [IsolatedLoad(warehouse_pipeline("paint", "raw_paint"), source, **fields) for source, fields in loads]
    defs: dg.Definitions = build_defs_for_component(IsolatedDltLoadCollectionComponent(found))
    return defs


@dlt.source(name="paint")
def paint(partition_key: str | None = None, token: str = "none") -> Any:
    return dlt.resource([{"colour": partition_key, "token": token}], name="tins", primary_key="colour")


@dlt.source(name="paint")
def paint_without_default(partition_key: str) -> Any:
    return dlt.resource([{"colour": partition_key}], name="tins")


@dlt.source(name="paint")
def paint_of_a_secret(token: str = dlt.secrets.value) -> Any:
    return dlt.resource([{"token": token}], name="tins")


@dlt.resource
def tins() -> Iterator[Any]:
    yield {"colour": "red"}


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (paint, "paint takes partition_key, so its load needs a partitions_def."),
        (paint_without_default, "paint_without_default needs a default for partition_key, for example None: "),
        (tins, "tins is no source but a "),
        ("red", "red is no source but a str"),
    ],
)
def test_a_wrong_source_is_refused_with_what_to_do(source: Any, sentence: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(sentence)):
        component((source, {}))


def test_a_missing_secret_is_a_placeholder_and_the_other_loads_are_there() -> None:
    defs = component((paint_of_a_secret, {}), (paint, {"partitions_def": dg.StaticPartitionsDefinition(["red"])}))
    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}

    assert "raw_paint/tins" in specs
    placeholder = specs["paint_of_a_secret/not_loaded"]
    assert "SOURCES__TEST_COMPONENT__TOKEN is missing" in str(placeholder.description)
    assert f"from {__name__} import paint_of_a_secret; paint_of_a_secret()" in str(placeholder.metadata["traceback"])


def test_a_range_that_a_function_of_one_key_cannot_read_is_refused() -> None:
    days = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-05")
    defs = component((paint, {"partitions_def": days, "backfill_policy": dg.BackfillPolicy.single_run()}))
    result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
        tags={"dagster/asset_partition_range_start": DAYS[0], "dagster/asset_partition_range_end": DAYS[1]},
        raise_on_error=False,
    )

    [failure] = result.get_step_failure_events()
    assert "paint takes partition_key, which a run of 2026-01-01...2026-01-02 does not have" in str(
        failure.step_failure_data
    )


def test_partitions_of_a_function_of_one_key_get_a_run_each_and_the_pool_holds() -> None:
    defs = component((paint, {"partitions_def": dg.DailyPartitionsDefinition("2026-01-01"), "pool": "paint"}))
    assets = defs.resolve_asset_graph().assets_def_for_key(dg.AssetKey(["raw_paint", "tins"]))

    assert assets.backfill_policy == dg.BackfillPolicy.multi_run(1)
    assert assets.op.pool == "paint"


def test_partitions_may_be_a_template_variable() -> None:
    customers = dg.DynamicPartitionsDefinition(name="customers")
    load = IsolatedLoad.resolve_from_yaml(
        'source: "{{ source }}"\npipeline: "{{ pipeline }}"\npartitions_def: "{{ customers }}"',
        scope={"source": paint, "pipeline": warehouse_pipeline("paint", "raw_paint"), "customers": customers},
    )

    assert load.partitions_def == customers


def test_other_locations_do_not_import_it() -> None:
    code = "import sys, runtime.load.location, runtime.load.checks; print('runtime.load.component' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
