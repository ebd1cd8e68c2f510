"""What the catalogue says about a table and its loads."""

from typing import Any

import dagster as dg
import dlt
import pytest
from dagster_dlt import DagsterDltResource, dlt_assets
from dlt.common.schema import Schema
from dlt.common.schema.typing import TColumnSchema, TTableSchema

from runtime.load.metadata import declared_columns, tables_of
from runtime.load.resource import IsolatedDltResource
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import warehouse_pipeline
from tests.support.colours import PARTS, THINGS, load
from tests.support.warehouse import Warehouse


def test_a_resource_has_the_tables_with_columns_and_their_descendants() -> None:
    text: TColumnSchema = {"name": "text", "data_type": "text"}
    never_seen: TColumnSchema = {"name": "never_seen"}  # only hinted, no value was loaded
    tables: list[TTableSchema] = [
        {"name": "orders", "resource": "orders", "columns": {"text": text}},
        {"name": "orders__lines", "parent": "orders", "columns": {"text": text}},
        {"name": "orders__lines__taxes", "parent": "orders__lines", "columns": {"text": text}},
        {"name": "orders__notes", "parent": "orders", "columns": {"never_seen": never_seen}},
        {"name": "customers", "resource": "customers", "columns": {"text": text}},
    ]
    schema = Schema("shop")
    for table in tables:
        schema.update_table(table)

    assert list(tables_of("orders", schema)) == ["orders", "orders__lines", "orders__lines__taxes"]


def test_declared_columns_have_their_warehouse_names_types_and_descriptions() -> None:
    columns: dict[str, Any] = {
        "Order Id": {"data_type": "bigint", "description": "The shop's number."},
        "note": {"nullable": False},  # of unknown type
    }
    declared = declared_columns(dlt.resource([], name="Orders", columns=columns))

    assert declared is not None
    assert [(column.name, column.type, column.description) for column in declared.columns] == [
        ("order_id", "bigint", "The shop's number.")
    ]


@pytest.mark.parametrize("columns", [None, {"note": {"nullable": False}}, lambda item: {"id": {"data_type": "text"}}])
def test_nothing_is_declared_without_types_or_if_they_depend_on_the_data(columns: Any) -> None:
    resource = dlt.resource([], name="orders", table_name=lambda item: "orders", columns=columns)

    assert declared_columns(resource) is None


def test_a_load_records_its_times_and_jobs_without_local_paths(warehouse: Warehouse) -> None:
    [things] = [
        event.materialization.metadata
        for event in load("red").get_asset_materialization_events()
        if event.asset_key == dg.AssetKey(["colours", "things"])
    ]
    jobs: Any = things["jobs"].value

    assert str(things["started_at"].value) < str(things["finished_at"].value)
    assert {job["table_name"] for job in jobs} == {"things", "things__parts"}
    assert {job["state"] for job in jobs} == {"completed_jobs"}
    assert not [value for job in jobs for value in job.values() if "/" in str(value)]
    assert (things["rows_loaded"].value, things["rows_loaded/things__parts"].value) == (THINGS, THINGS * PARTS)


EVENTS = [{"id": 1, "type": "push", "ref": "a"}, {"id": 2, "type": "watch", "stars": 3}]


def load_events(events: list[dict[str, Any]]) -> Any:
    """The metadata of a load by a resource whose tables depend on the rows."""

    @dlt.source(name="dynamic", section="dynamic")
    def source(events: list[dict[str, Any]]) -> Any:
        return dlt.resource(events, name="events", table_name=lambda event: event["type"])

    @dlt_assets(
        dlt_source=source([]),
        dlt_pipeline=warehouse_pipeline("dynamic", "raw_colours"),
        name="dynamic",
        dagster_dlt_translator=SourceTranslator(source="dynamic"),
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Any:
        yield from dlt.run(context=context, dlt_source=source(events)).fetch_row_count()

    result = dg.materialize([assets], resources={"dlt": IsolatedDltResource()})
    [event] = result.get_asset_materialization_events()
    return event.materialization.metadata


def test_a_resource_with_dynamic_table_names_shows_each_table_and_no_single_row_count(warehouse: Warehouse) -> None:
    assert load_events([])["dagster/row_count"].value == 0
    for events in (EVENTS, []):  # the second load finds nothing new in tables that have rows
        metadata = load_events(events)
        assert metadata["rows_loaded"].value == len(events)
        assert "dagster/row_count" not in metadata
        columns = {name: {column.name for column in metadata[name].value.columns} for name in ("push", "watch")}
        assert (columns["push"] >= {"id", "ref"}, columns["watch"] >= {"id", "stars"}) == (True, True)
    assert load_events(EVENTS[:1]).keys() >= {"push", "watch"}
