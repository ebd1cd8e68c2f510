"""A load through the resource `dlt`: what arrives, what is left behind, what the catalogue says."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import dlt
import duckdb
import pytest
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType

from runtime.load import resource
from runtime.load.checks import primary_key_checks
from runtime.load.resource import IsolatedDltResource
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import warehouse_pipeline
from tests.support.colours import PARTS, THINGS, colours, colours_assets, load
from tests.support.warehouse import Warehouse


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, object]:
    [event] = [e for e in result.get_asset_materialization_events() if e.asset_key == dg.AssetKey(["colours", asset])]
    return {name: value.value for name, value in event.materialization.metadata.items()}


def test_a_load_brings_rows_and_children_and_leaves_nothing_else(warehouse: Warehouse, tmp_path: Path) -> None:
    result = load("red")

    assert result.success
    assert warehouse.rows("SELECT count(*), count(DISTINCT id) FROM things WHERE colour = 'red'") == [(THINGS, THINGS)]
    assert warehouse.rows("SELECT count(*) FROM things__parts") == [(THINGS * PARTS,)]
    assert warehouse.datasets() == {"raw_colours"}  # no staging dataset
    assert list((tmp_path / "dlt" / "runs").iterdir()) == []  # no working directory


def test_the_catalogue_tells_rows_columns_and_the_real_name(warehouse: Warehouse) -> None:
    things = metadata(load("red"), "things")

    assert things["rows_loaded"] == THINGS
    assert things["rows_loaded/things__parts"] == THINGS * PARTS
    assert str(things["dagster/table_name"]).endswith(".raw_colours.things")
    assert str(things["dagster/table_name"]).count(".") == 2
    schema = things["dagster/column_schema"]
    assert isinstance(schema, dg.TableSchema)
    columns = {column.name: column for column in schema.columns}
    assert columns["id"].type == "bigint"
    assert "primary_key" in columns["id"].constraints.other
    load_ids = things["load_ids"]
    assert isinstance(load_ids, list)
    assert warehouse.rows("SELECT load_id FROM _dlt_loads WHERE status = 0") == [(load_ids[0],)]


def test_an_empty_load_is_a_success_with_no_rows(warehouse: Warehouse) -> None:
    result = load("none")

    assert result.success
    assert metadata(result, "things")["rows_loaded"] == 0


def test_loading_again_in_the_same_process_changes_no_row(warehouse: Warehouse) -> None:
    load("red")
    again = load("red")

    assert metadata(again, "things")["rows_loaded"] == THINGS
    assert warehouse.rows("SELECT count(*) FROM things") == [(THINGS,)]


def test_each_partition_keeps_its_own_cursor(warehouse: Warehouse) -> None:
    for colour in ("red", "green", "red", "green", "red"):
        load(colour)

    visits = warehouse.rows("SELECT colour, max(visit) FROM visits GROUP BY colour ORDER BY colour")
    assert visits == [("green", 2), ("red", 3)]


def test_a_subset_loads_only_what_was_selected(warehouse: Warehouse) -> None:
    assets = colours_assets()
    result = dg.materialize(
        [assets],
        selection=[dg.AssetKey(["colours", "visits"])],
        partition_key="red",
        resources={"dlt": IsolatedDltResource()},
    )

    assert [event.asset_key for event in result.get_asset_materialization_events()] == [
        dg.AssetKey(["colours", "visits"])
    ]
    assert warehouse.rows("SELECT count(*) FROM visits") == [(1,)]


@pytest.mark.parametrize("things", [THINGS, 0])
def test_rows_are_counted_on_request(warehouse: Warehouse, things: int) -> None:
    @dlt_assets(
        dlt_source=colours("red", things),
        dlt_pipeline=warehouse_pipeline("colours", "raw_colours"),
        name="colours",
        dagster_dlt_translator=SourceTranslator(source="colours"),
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        yield from dlt.run(context=context).fetch_row_count()

    for loads in (1, 2):
        result = dg.materialize([assets], resources={"dlt": IsolatedDltResource()})
        assert metadata(result, "things")["dagster/row_count"] == things
        assert metadata(result, "visits")["dagster/row_count"] == loads


@pytest.mark.parametrize("table", ["order", "user"])
def test_a_table_may_be_called_as_a_word_of_sql(warehouse: Warehouse, table: str) -> None:
    @dlt.source(name="colours", section="colours")
    def words() -> Any:
        key: Any = "select"
        return dlt.resource([{"select": n, "from": "x"} for n in (1, 2, 2)], name=table, primary_key=key)

    @dlt_assets(
        dlt_source=words(),
        dlt_pipeline=warehouse_pipeline("colours", "raw_colours"),
        name="colours",
        dagster_dlt_translator=SourceTranslator(source="colours"),
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        yield from dlt.run(context=context).fetch_row_count()

    result = dg.materialize([assets, primary_key_checks(assets)], resources={"dlt": IsolatedDltResource()})

    assert metadata(result, table)["dagster/row_count"] == 3
    [check] = result.get_asset_check_evaluations()
    assert [value.value for name, value in check.metadata.items() if name.startswith("bad primary keys")] == [1]


def test_an_op_loads_too(warehouse: Warehouse) -> None:
    @dg.op(out=dg.Out(dg.Nothing))
    def first(context: dg.OpExecutionContext, dlt: DagsterDltResource) -> Iterator[Any]:
        yield from dlt.run(
            context=context,
            dlt_source=colours("red"),
            dlt_pipeline=warehouse_pipeline("colours", "raw_colours"),
            dagster_dlt_translator=SourceTranslator(source="colours"),
        )
        yield dg.Output(None)

    @dg.job(resource_defs={"dlt": IsolatedDltResource()})
    def job() -> None:
        first()
        first.alias("second")()  # two ops of one run, one after the other or at once

    result = job.execute_in_process()

    assert warehouse.rows("SELECT count(*), count(DISTINCT id) FROM things") == [(THINGS, THINGS)]
    assert warehouse.rows("SELECT max(visit) FROM visits") == [(2,)]
    assert warehouse.datasets() == {"raw_colours"}
    assert len([event for event in result.all_events if event.is_step_materialization]) == 4


def test_a_long_step_says_how_far_it_is(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "PROGRESS_SECONDS", 0.0)
    with dg.instance_for_test() as instance:
        result = load("red", instance=instance)
        messages = [record.user_message for record in instance.all_logs(result.run_id)]

    assert any("Extract colours" in message for message in messages), messages


def test_a_failed_load_changes_nothing_and_keeps_its_files(warehouse: Warehouse, tmp_path: Path) -> None:
    load("red")
    with pytest.raises(Exception, match="the paint has run out"):
        load("rusty")

    assert warehouse.rows("SELECT DISTINCT colour FROM things") == [("red",)]
    assert warehouse.datasets() == {"raw_colours"}
    assert len(list((tmp_path / "dlt" / "runs").iterdir())) == 1  # to look at; see docs/how-a-load-runs.md


BY_STOCK = [pytest.mark.slow, pytest.mark.xfail(strict=True, reason="dagster-dlt's own resource")]
STOCK = pytest.param(["--stock"], marks=BY_STOCK)


@pytest.mark.parametrize("options", [STOCK, pytest.param([], id="isolated")])
def test_partitions_load_at_once_into_an_empty_warehouse(warehouse: Warehouse, options: list[str]) -> None:
    colours = ["red", "green", "blue", "black", "white", "grey"]
    command = [sys.executable, "-m", "tests.support.colours"]
    for _ in range(2):
        runs = [subprocess.Popen([*command, c, *options], stderr=subprocess.PIPE, text=True) for c in colours]
        errors = [run.communicate(timeout=100)[1] for run in runs]
        assert [run.returncode for run in runs] == [0] * len(runs), "\n".join(error[-2000:] for error in errors)

    loaded = warehouse.rows("SELECT colour, count(*), count(DISTINCT id) FROM things GROUP BY colour ORDER BY colour")
    assert loaded == [(colour, THINGS, THINGS) for colour in sorted(colours)]
    assert warehouse.rows("SELECT count(*) FROM things__parts") == [(len(colours) * THINGS * PARTS,)]
    assert warehouse.rows("SELECT colour, max(visit) FROM visits GROUP BY colour ORDER BY colour") == [
        (colour, 2) for colour in sorted(colours)
    ]
    assert warehouse.datasets() == {"raw_colours"}


SLOW_READER = """
import sys, time
from pathlib import Path
import dagster as dg, dlt
from dagster_dlt import DagsterDltResource, dlt_assets
from runtime.load.resource import IsolatedDltResource
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import warehouse_pipeline

version, seconds, resource = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]

@dlt.source(name="colours", section="colours")
def versions():
    @dlt.resource(primary_key="id", write_disposition="merge")
    def things(moment=dlt.sources.incremental("version", initial_value=0)):
        row = {"id": 1, "version": int(version.read_text())}
        Path(f"{version}.read").touch()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not Path(f"{version}.go").exists():
            time.sleep(0.1)
        yield [row]
    return things

@dlt_assets(
    dlt_source=versions(),
    dlt_pipeline=warehouse_pipeline("colours", "raw_colours"),
    dagster_dlt_translator=SourceTranslator(source="colours"),
    partitions_def=dg.StaticPartitionsDefinition(["red"]),
)
def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource):
    yield from dlt.run(context=context)

resources = {"dlt": IsolatedDltResource() if resource == "isolated" else DagsterDltResource()}
dg.materialize([assets], partition_key="red", resources=resources)
"""


@pytest.mark.parametrize("resource", ["isolated", pytest.param("stock", marks=BY_STOCK)])
def test_of_two_loads_of_one_partition_the_older_never_wins(
    warehouse: Warehouse, tmp_path: Path, resource: str
) -> None:
    version, read = tmp_path / "version", tmp_path / "version.read"

    def start(number: int, seconds: float) -> subprocess.Popen[bytes]:
        version.write_text(str(number))
        command = [sys.executable, "-c", SLOW_READER, str(version), str(seconds), resource]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)

    assert start(1, 0).wait(60) == 0
    read.unlink()
    slow = start(2, 6 if resource == "isolated" else 60)
    while not read.exists():
        time.sleep(0.1)
    quick = start(3, 0)
    if resource == "stock":  # which lets the second overtake the first
        quick.wait(60)
        (tmp_path / "version.go").touch()
    assert (slow.wait(60), quick.wait(60)) == (0, 0)
    assert start(3, 0).wait(60) == 0

    assert warehouse.rows("SELECT id, version FROM things") == [(1, 3)]


def test_settings_under_the_pipelines_name_hold_for_its_partitions(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP__SOURCES__SHOP__TOKEN", "ours")
    monkeypatch.setenv("SOURCES__SHOP__TOKEN", "another team's")

    @dlt.source(name="shop", section="shop")
    def shop() -> Any:
        @dlt.resource
        def orders(token: str = dlt.secrets.value) -> Iterator[Any]:
            yield {"token": token}

        return orders

    @dlt_assets(
        dlt_source=shop(),
        dlt_pipeline=warehouse_pipeline("shop", "raw_colours"),
        dagster_dlt_translator=SourceTranslator(source="shop"),
        partitions_def=dg.StaticPartitionsDefinition(["de"]),
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[Any]:
        yield from dlt.run(context=context)

    dg.materialize([assets], partition_key="de", resources={"dlt": IsolatedDltResource()})

    assert warehouse.rows("SELECT token FROM orders") == [("ours",)]


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_the_assets_pipeline_may_hold_a_connection_and_knows_the_load_afterwards(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    pipeline = dlt.pipeline(
        "my-shop",
        destination=dlt.destinations.duckdb(duckdb.connect()),
        dataset_name="raw_shop",
        pipelines_dir=str(tmp_path / "import"),
    )
    seen: dict[str, Any] = {}

    @dlt_assets(dlt_source=colours("red"), dlt_pipeline=pipeline, name="colours")
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[Any]:
        yield from dlt.run(context=context)
        assert pipeline.last_trace
        assert pipeline.last_trace.last_normalize_info
        seen["rows"] = pipeline.last_trace.last_normalize_info.row_counts["things"]
        seen["schema"] = pipeline.default_schema_name
        seen["read"] = len(pipeline.dataset()["things"].fetchall())

    dg.materialize([assets], resources={"dlt": IsolatedDltResource()})

    assert seen == {"rows": THINGS, "schema": "colours", "read": THINGS}


def test_a_new_partition_starts_from_the_schema_of_the_others(warehouse: Warehouse) -> None:
    amounts = {"de": 5, "fr": "7"}

    @dlt.source(name="shop", section="shop")
    def shop(country: str) -> Any:
        return dlt.resource([{"amount": amounts[country]}], name="orders")

    @dlt_assets(
        dlt_source=shop("de"),
        dlt_pipeline=warehouse_pipeline("shop", "raw_colours"),
        dagster_dlt_translator=SourceTranslator(source="shop"),
        partitions_def=dg.StaticPartitionsDefinition(list(amounts)),
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[Any]:
        yield from dlt.run(context=context, dlt_source=shop(context.partition_key))

    for country in amounts:
        dg.materialize([assets], partition_key=country, resources={"dlt": IsolatedDltResource()})

    assert warehouse.rows("SELECT amount FROM orders ORDER BY amount") == [(5,), (7,)]
