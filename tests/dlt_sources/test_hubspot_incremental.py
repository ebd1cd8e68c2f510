"""A second load of HubSpot: all changes, and nothing else."""

from typing import Any

import pytest

from dlt_sources.errors import PermanentSourceError
from dlt_sources.hubspot import hubspot
from tests.support.sandbox import HubspotApi
from tests.support.source_warehouse import SourceWarehouse

KINDS = ("companies", "contacts", "deals", "tickets", "products", "quotes")


def loaded_rows(loaded: dict[str, int]) -> dict[str, int]:
    return {table: rows for table, rows in loaded.items() if rows}


def test_a_second_load_loads_nothing(hubspot_api: HubspotApi, warehouse: SourceWarehouse) -> None:
    source = hubspot(include_history=True, soft_delete=True)
    warehouse.extract(source)
    hubspot_api.sandbox.forget_requests()
    assert warehouse.extract(source) == {}
    paths = hubspot_api.sandbox.counts()["by_path"]
    assert not any("batch/read" in path for path in paths)
    assert paths["/hubspot/crm/v3/objects/companies/search"] == 2  # for the table and for its history


def test_a_load_on_another_machine_continues_from_the_state_in_the_warehouse(
    hubspot_api: HubspotApi, any_warehouse: SourceWarehouse
) -> None:
    any_warehouse.load(hubspot())
    any_warehouse.pipeline = any_warehouse.fresh_pipeline("elsewhere")
    assert loaded_rows(any_warehouse.load(hubspot())) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_only_changed_objects_are_loaded(hubspot_api: HubspotApi, warehouse: SourceWarehouse, kind: str) -> None:
    source = hubspot().with_resources(kind)
    before = warehouse.load(source)[kind]
    [first] = hubspot_api.change("edit", type=kind, properties={"hs_object_source": "x"})["ids"]
    [new] = hubspot_api.change("new_object", type=kind)["ids"]
    assert warehouse.load(source)[kind] == 2
    modified = "lastmodifieddate" if kind == "contacts" else "hs_lastmodifieddate"
    newest = warehouse.rows(f"SELECT id FROM {kind} ORDER BY {modified} DESC LIMIT 2")
    assert newest == [(new,), (first,)]
    assert warehouse.value(f"SELECT count(*) FROM {kind}") == before + 1
    assert loaded_rows(warehouse.load(source)) == {}


def test_a_changed_object_keeps_its_associations(hubspot_api: HubspotApi, any_warehouse: SourceWarehouse) -> None:
    source = hubspot().with_resources("deals")
    any_warehouse.load(source)
    pairs = "SELECT value, contacts_id FROM deals__contacts ORDER BY 1, 2"
    before = any_warehouse.rows(pairs)
    hubspot_api.change("associate", type="deals", id="3000001", to="contacts", to_id="2000300")
    hubspot_api.change("edit", type="deals", count=150, properties={"amount": "7"})
    assert any_warehouse.load(source)["deals"] == 150
    assert any_warehouse.rows(pairs) == sorted([*before, ("3000001", "2000300")])


def test_an_association_without_a_change_is_loaded_by_a_full_reload(
    hubspot_api: HubspotApi, warehouse: SourceWarehouse
) -> None:
    warehouse.load(hubspot().with_resources("deals"))
    hubspot_api.change("associate", type="deals", id="3000001", to="contacts", to_id="2000300")
    assert loaded_rows(warehouse.load(hubspot().with_resources("deals"))) == {}
    assert warehouse.load(hubspot(full_reload=True).with_resources("deals"))["deals"] == 240
    new = "SELECT count(*) FROM deals__contacts WHERE value = '3000001' AND contacts_id = '2000300'"
    assert warehouse.value(new) == 1
    assert loaded_rows(warehouse.load(hubspot().with_resources("deals"))) == {}


def test_a_change_that_the_search_finds_late_is_loaded(hubspot_api: HubspotApi, warehouse: SourceWarehouse) -> None:
    source = hubspot().with_resources("deals")
    warehouse.load(source)
    [late] = hubspot_api.change("edit", type="deals", id="3000009", properties={"amount": "1.5"}, indexed=False)["ids"]
    hubspot_api.change("edit", type="deals", id="3000010", properties={"amount": "2.5"})
    assert loaded_rows(warehouse.load(source))["deals"] == 1
    hubspot_api.change("index")
    assert loaded_rows(warehouse.load(source))["deals"] == 1
    assert warehouse.value(f"SELECT amount FROM deals WHERE id = '{late}'") == 1.5
    assert loaded_rows(warehouse.load(source)) == {}


@pytest.mark.parametrize("rows", [0, 1, 100, 101, 200, 201, 10_300])
def test_all_changes_of_the_same_millisecond_are_loaded(
    hubspot_api: HubspotApi, warehouse: SourceWarehouse, rows: int
) -> None:
    hubspot_api.create_account(products=2)
    source = hubspot().with_resources("products")
    warehouse.extract(source)
    hubspot_api.change("new_object", type="products", count=rows)  # an import: all in the same millisecond
    hubspot_api.change("edit", type="products", id="5000001")
    assert warehouse.extract(source) == {"products": rows + 1}
    assert warehouse.extract(source) == {}


def test_more_changes_than_a_search_lists_are_loaded(hubspot_api: HubspotApi, warehouse: SourceWarehouse) -> None:
    hubspot_api.create_account(products=1)
    source = hubspot().with_resources("products")
    warehouse.extract(source)
    hubspot_api.create_account(products=10_300)
    assert warehouse.extract(source) == {"products": 10_299}
    assert warehouse.extract(source) == {}


@pytest.mark.parametrize("first", [True, False])
def test_a_row_that_changes_during_the_load_is_kept_once_in_its_later_state(
    hubspot_api: HubspotApi, any_warehouse: SourceWarehouse, first: bool
) -> None:
    names = {"deals": ["dealname"]}

    def source() -> Any:
        return hubspot(properties=names, include_custom_props=False).with_resources("deals")

    if not first:
        any_warehouse.load(source())
        hubspot_api.change("edit", type="deals", count=230, properties={"dealname": "In bulk"})
    changed: list[str] = []

    def edit_one_behind_and_one_ahead(row: dict[str, Any]) -> dict[str, Any]:
        if not changed:
            changed.append(row["id"])
            hubspot_api.change("edit", type="deals", id=row["id"], properties={"dealname": "Behind"})
            for _ in range(20):  # minutes on the sandbox's clock: longer than the overlap
                hubspot_api.change("edit", type="deals", id="3000229", properties={"dealname": "Ahead"})
        return row

    reading = source()
    reading.resources["deals"].add_map(edit_one_behind_and_one_ahead)
    any_warehouse.load(reading)
    any_warehouse.load(source())
    assert any_warehouse.rows("SELECT dealname FROM deals WHERE dealname IN ('Ahead', 'Behind') ORDER BY 1") == [
        ("Ahead",),
        ("Behind",),
    ]
    assert any_warehouse.value("SELECT count(*) FROM deals") == 240
    if not first:
        assert any_warehouse.value("SELECT count(*) FROM deals WHERE dealname = 'In bulk'") == 228
    assert loaded_rows(any_warehouse.load(source())) == {}


@pytest.mark.parametrize("first", [True, False])
def test_a_failed_load_loads_nothing_and_the_next_one_everything(
    hubspot_api: HubspotApi, warehouse: SourceWarehouse, first: bool
) -> None:
    if not first:
        warehouse.load(hubspot().with_resources("tickets"))
        hubspot_api.change("edit", type="tickets", count=120, properties={"subject": "Changed"})

    def break_the_next_request(row: dict[str, Any]) -> dict[str, Any]:
        if not hubspot_api.sandbox.faults():
            hubspot_api.sandbox.fault("status", status=401)
        return row

    source = hubspot().with_resources("tickets")
    source.resources["tickets"].add_map(break_the_next_request)
    assert isinstance(warehouse.load_error(source), PermanentSourceError)
    hubspot_api.sandbox.clear_faults()
    assert warehouse.load(hubspot().with_resources("tickets"))["tickets"] == (130 if first else 120)
    assert warehouse.value("SELECT count(*) FROM tickets") == 130


def test_lists_without_a_search_load_only_rows_that_differ(hubspot_api: HubspotApi, warehouse: SourceWarehouse) -> None:
    source = hubspot().with_resources("owners", "pipelines_deals", "properties")
    warehouse.load(source)
    hubspot_api.change("rename_owner", id="401", last_name="Married")
    hubspot_api.change("rename_pipeline", type="deals", id="178001", label="Resellers")
    hubspot_api.change("new_property", type="quotes", name="colour")
    assert warehouse.extract(source) == {"owners": 1, "pipelines_deals": 1, "properties": 1}
    warehouse.load()
    assert warehouse.value("SELECT last_name FROM owners WHERE id = '401'") == "Married"
    assert warehouse.value("SELECT count(*) FROM pipelines_deals__stages") == 8


def test_a_new_property_is_loaded_with_the_next_change_of_its_object(
    hubspot_api: HubspotApi, warehouse: SourceWarehouse
) -> None:
    source = hubspot().with_resources("companies")
    warehouse.load(source)
    hubspot_api.change("new_property", type="companies", name="headcount_plan", value_type="number")
    hubspot_api.change("edit", type="companies", id="1000001", properties={"headcount_plan": "12"})
    assert warehouse.load(source)["companies"] == 1
    assert warehouse.columns("companies")["headcount_plan"] == "DOUBLE"
    assert warehouse.rows("SELECT id, headcount_plan FROM companies WHERE headcount_plan > 0") == [("1000001", 12.0)]
