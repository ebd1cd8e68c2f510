"""A load of HubSpot: all objects with typed properties, all associations, and history."""

from typing import Any

import pytest
import requests

from dlt_sources.errors import PermanentSourceError
from dlt_sources.hubspot import hubspot, hubspot_total
from dlt_sources.hubspot.helpers import milliseconds
from tests.support.sandbox import HubspotApi
from tests.support.source_warehouse import SourceWarehouse

SIZES = {"companies": 60, "contacts": 320, "deals": 240, "tickets": 130, "products": 25, "quotes": 70}
LINKED = {
    "companies": ("contacts", "deals", "tickets", "quotes"),
    "contacts": ("companies", "deals", "tickets", "quotes"),
    "deals": ("companies", "contacts", "tickets", "quotes"),
    "tickets": ("companies", "contacts", "deals"),
    "quotes": ("companies", "contacts", "deals"),
}
TIMESTAMP = "TIMESTAMP WITH TIME ZONE"


def vendor_rows(hubspot_api: HubspotApi, path: str, **params: Any) -> list[dict[str, Any]]:
    """What HubSpot itself lists."""
    rows: list[dict[str, Any]] = []
    url: str | None = f"{hubspot_api.url}{path}"
    while url:
        answer = requests.get(url, params=params, headers=hubspot_api.headers, timeout=60).json()
        rows += answer["results"]
        url, params = answer.get("paging", {}).get("next", {}).get("link"), {}
    return rows


def test_creating_the_source_needs_no_secret_and_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCES__HUBSPOT__API_KEY", raising=False)
    others = {"owners", "properties"}
    others |= {f"{what}_{kind}" for what in ("pipelines", "stages_timing") for kind in ("deals", "tickets")}
    assert set(hubspot().resources) == set(SIZES) | others
    history = {f"{kind}_property_history" for kind in SIZES}
    assert set(hubspot(include_history=True).resources) == set(SIZES) | others | history
    with pytest.raises(ValueError, match="properties names deal; known are companies, contacts, deals"):
        hubspot(properties={"deal": ["amount"]})


def test_all_objects_are_loaded_with_all_associations(hubspot_api: HubspotApi, any_warehouse: SourceWarehouse) -> None:
    loaded = any_warehouse.load(hubspot())
    assert {kind: loaded[kind] for kind in SIZES} == SIZES
    assert {kind: hubspot_total(kind) for kind in SIZES} == SIZES
    for kind, others in LINKED.items():
        for other in others:
            pairs = any_warehouse.rows(f"SELECT value, {other}_id FROM {kind}__{other}")
            assert len(pairs) == len(set(pairs)) > 0
            known = any_warehouse.value(
                f"SELECT count(*) FROM {kind}__{other} AS link "
                f"JOIN {kind} ON {kind}.id = value AND {kind}._dlt_id = link._dlt_parent_id "
                f"JOIN {other} ON {other}.id = {other}_id"
            )
            assert known == len(pairs)
            assert set(pairs) == {
                (b, a) for a, b in any_warehouse.rows(f"SELECT value, {kind}_id FROM {other}__{kind}")
            }
    most = "SELECT max(n) FROM (SELECT count(*) AS n FROM companies__contacts GROUP BY value)"
    assert any_warehouse.value(most) > 100  # more than HubSpot lists with an object
    owned = "SELECT count(*), count(owners.id) FROM deals LEFT JOIN owners ON owners.id = hubspot_owner_id"
    assert any_warehouse.rows(f"{owned} WHERE hubspot_owner_id IS NOT NULL") == [(loaded["deals"] - 27, 240 - 27)]


def test_properties_become_columns_of_their_types(hubspot_api: HubspotApi, any_warehouse: SourceWarehouse) -> None:
    hubspot_api.change("new_property", type="companies", name="never_filled_in", value_type="number")
    any_warehouse.load(hubspot())
    columns = {
        "id": "VARCHAR",
        "name": "VARCHAR",
        "domain": "VARCHAR",
        "hubspot_owner_id": "VARCHAR",
        "createdate": TIMESTAMP,
        "hs_object_id": "VARCHAR",
        "hs_lastmodifieddate": TIMESTAMP,
        "city": "VARCHAR",
        "country": "VARCHAR",
        "phone": "VARCHAR",
        "industry": "VARCHAR",
        "numberofemployees": "DOUBLE",
        "annualrevenue": "DOUBLE",
        "customer_tier": "VARCHAR",
        "is_partner": "BOOLEAN",
        "contract_start": "DATE",
        "last_audit_at": TIMESTAMP,
        "credit_score": "DOUBLE",
        "internal_note": "VARCHAR",
        "never_filled_in": "DOUBLE",
    }
    assert any_warehouse.columns("companies") == columns
    assert any_warehouse.columns("companies__deals") == {"value": "VARCHAR", "deals_id": "VARCHAR"}
    assert any_warehouse.columns("stages_timing_deals") == {
        "id": "VARCHAR",
        "stage": "VARCHAR",
        "date_entered": TIMESTAMP,
        "date_exited": TIMESTAMP,
    }
    stages = any_warehouse.columns("pipelines_deals__stages")
    assert (stages["metadata__probability"], stages["metadata__is_closed"]) == ("DOUBLE", "BOOLEAN")
    described = any_warehouse.pipeline.default_schema.get_table_columns("companies")["credit_score"]
    assert described["description"] == "Credit score of a company"
    fixed = {"companies__deals", "stages_timing_deals", "pipelines_deals", "pipelines_deals__stages", "owners"}
    assert any_warehouse.undescribed("companies", *fixed, "owners__teams", "properties__options") == set()


def test_values_are_those_in_hubspot(hubspot_api: HubspotApi, any_warehouse: SourceWarehouse) -> None:
    any_warehouse.load(hubspot())
    for kind, names in {
        "companies": ("annualrevenue", "is_partner", "contract_start", "last_audit_at", "customer_tier"),
        "contacts": ("satisfaction", "newsletter", "birthday", "last_training_at", "survey_answer_001"),
    }.items():
        rows = vendor_rows(hubspot_api, f"/crm/v3/objects/{kind}", limit=100, properties=",".join(names))
        theirs = {row["id"]: tuple(row["properties"][name] or None for name in names) for row in rows}
        number, flag, day, moment, text = names
        ours = any_warehouse.rows(
            f"SELECT id, {number}, {flag}, CAST({day} AS VARCHAR), 1000 * extract(epoch FROM {moment}), {text} "
            f"FROM {kind}"
        )
        for id_, *values in ours:
            expected = theirs[id_]
            assert values[0] == (float(expected[0]) if expected[0] else None)
            assert values[1] == {"true": True, "false": False, None: None}[expected[1]]
            assert values[2] == expected[2]
            assert values[3] == (milliseconds(expected[3]) if expected[3] else None)
            assert values[4] == expected[4]
    assert any_warehouse.value("SELECT count(*) FROM contacts WHERE survey_answer_001 LIKE '%你好 🙂\n%'") > 0


def test_long_lists_of_properties_are_split_over_requests_and_joined(
    hubspot_api: HubspotApi, warehouse: SourceWarehouse
) -> None:
    hubspot_api.sandbox.forget_requests()
    warehouse.load(hubspot().with_resources("contacts"))
    calls = [call for call in hubspot_api.sandbox.requests() if call["path"].endswith("/objects/contacts")]
    assert len(calls) == 2 * 4  # two pieces of each of four pages
    ends = "SELECT count(*) FROM contacts WHERE survey_answer_001 <> '' AND survey_answer_130 = 'last' AND email <> ''"
    assert warehouse.value(ends) > 200
    assert len(warehouse.columns("contacts")) > 140


def test_only_the_chosen_properties_are_loaded(hubspot_api: HubspotApi, warehouse: SourceWarehouse) -> None:
    chosen = {"deals": ["amount", "hs_is_closed"]}
    source = hubspot(properties=chosen, include_custom_props=False).with_resources("deals", "products")
    warehouse.load(source)
    names = ["id", "amount", "hs_is_closed", "hs_object_id", "hs_lastmodifieddate"]
    assert list(warehouse.columns("deals")) == names
    assert list(warehouse.columns("products"))[:4] == ["id", "name", "description", "price"]
    wrong = hubspot(properties={"deals": ["amout", "dealname"]}).with_resources("deals")
    error = warehouse.load_error(wrong)
    assert isinstance(error, PermanentSourceError)
    assert str(error) == "HubSpot's deals have no property amout: check `properties`."


@pytest.mark.parametrize(("rows", "pages"), [(0, 1), (1, 1), (100, 1), (101, 2), (10_000, 100)])
def test_a_list_of_any_length_is_read_with_the_fewest_pages(
    hubspot_api: HubspotApi, warehouse: SourceWarehouse, rows: int, pages: int
) -> None:
    hubspot_api.create_account(products=rows)
    hubspot_api.sandbox.forget_requests()
    assert warehouse.load(hubspot().with_resources("products"))["products"] == rows
    assert hubspot_api.sandbox.counts()["by_path"]["/hubspot/crm/v3/objects/products"] == pages
    assert warehouse.value("SELECT count(DISTINCT id) FROM products") == rows
    assert warehouse.columns("products")["price"] == "DOUBLE"


def test_all_associations_of_an_object_are_loaded(hubspot_api: HubspotApi, warehouse: SourceWarehouse) -> None:
    hubspot_api.create_account(companies=1, contacts=1_400)
    warehouse.load(hubspot().with_resources("companies"))
    assert warehouse.value("SELECT count(DISTINCT contacts_id) FROM companies__contacts") == 1_200
    hubspot_api.change("edit", type="companies", properties={"city": "Ulm"})
    assert warehouse.load(hubspot().with_resources("companies"))["companies__contacts"] == 1_200
    assert warehouse.value("SELECT count(DISTINCT contacts_id) FROM companies__contacts") == 1_200


def test_stage_timings_follow_an_object_through_its_pipeline(
    hubspot_api: HubspotApi, warehouse: SourceWarehouse
) -> None:
    warehouse.load(hubspot().with_resources("deals", "stages_timing_deals", "pipelines_deals"))
    current = warehouse.value(
        "SELECT count(*) FROM deals JOIN stages_timing_deals AS timing ON timing.id = deals.id AND stage = dealstage "
        "JOIN pipelines_deals__stages AS stages ON stages.id = stage "
        "WHERE date_exited IS NULL AND date_entered > '2025-01-01'"
    )
    assert current == SIZES["deals"]
    assert warehouse.value("SELECT count(*) FROM stages_timing_deals WHERE date_exited < date_entered") == 0
    [deal] = warehouse.rows("SELECT id FROM deals WHERE dealstage = 'appointmentscheduled' LIMIT 1")
    hubspot_api.change("move", type="deals", id=deal[0], stage="closedwon")
    assert warehouse.load(hubspot().with_resources("stages_timing_deals")) == {"stages_timing_deals": 2}
    rows = f"SELECT stage, date_exited IS NULL FROM stages_timing_deals WHERE id = '{deal[0]}' ORDER BY date_entered"
    assert warehouse.rows(rows) == [("appointmentscheduled", False), ("closedwon", True)]


def test_history_is_complete_and_merged(hubspot_api: HubspotApi, any_warehouse: SourceWarehouse) -> None:
    source = hubspot(include_history=True).with_resources("deals_property_history", "companies_property_history")
    any_warehouse.load(source)
    rows = vendor_rows(hubspot_api, "/crm/v3/objects/deals", limit=50, propertiesWithHistory="amount,dealstage")
    theirs = [
        (row["id"], name, entry["value"], entry["updatedByUserId"])
        for row in rows
        for name, entries in row["propertiesWithHistory"].items()
        for entry in entries
    ]
    columns = "object_id, property_name, value, updated_by_user_id"
    ours = any_warehouse.rows(
        f"SELECT {columns} FROM deals_property_history WHERE property_name IN ('amount', 'dealstage')"
    )
    assert sorted(ours) == sorted(theirs)
    assert any_warehouse.columns("deals_property_history")["timestamp"] == TIMESTAMP
    assert not any(any_warehouse.load(source).values())
    hubspot_api.change("edit", type="deals", id="3000002", properties={"amount": "1.25"})
    loaded = any_warehouse.load(source)
    assert (loaded["deals_property_history"] > 0, loaded.get("companies_property_history", 0)) == (True, 0)
    amounts = "SELECT value FROM deals_property_history WHERE property_name = 'amount' AND object_id = "
    assert len(any_warehouse.rows(f"{amounts}'3000002'")) == 2
    total = any_warehouse.value("SELECT count(*) FROM deals_property_history")
    distinct = "SELECT count(*) FROM (SELECT DISTINCT object_id, property_name, timestamp FROM deals_property_history)"
    assert any_warehouse.value(distinct) == total


def test_an_object_without_history_does_not_drop_others_on_its_page(
    hubspot_api: HubspotApi, warehouse: SourceWarehouse
) -> None:
    source = hubspot(
        include_history=True, include_custom_props=False, properties={"companies": ["internal_note"]}
    ).with_resources("companies_property_history")
    warehouse.load(source)
    rows = vendor_rows(hubspot_api, "/crm/v3/objects/companies", limit=50, propertiesWithHistory="internal_note")
    having = {row["id"] for row in rows if row["propertiesWithHistory"]}
    assert 0 < len(having) < SIZES["companies"] // 2
    assert {id_ for (id_,) in warehouse.rows("SELECT object_id FROM companies_property_history")} == having


def test_all_owners_and_properties_are_loaded(hubspot_api: HubspotApi, warehouse: SourceWarehouse) -> None:
    loaded = warehouse.load(hubspot().with_resources("owners", "properties"))
    assert (loaded["owners"], loaded["owners__teams"]) == (12, 6)
    assert warehouse.value("SELECT count(*) FROM owners WHERE archived") == 3
    kinds = dict(warehouse.rows("SELECT object_type, count(*) FROM properties GROUP BY object_type"))
    assert kinds == {kind: len(vendor_rows(hubspot_api, f"/crm/v3/properties/{kind}")) for kind in SIZES}
    options = "SELECT o.value FROM properties p JOIN properties__options o ON o._dlt_parent_id = p._dlt_id"
    gold = warehouse.rows(f"{options} WHERE p.name = 'customer_tier' ORDER BY o.display_order")
    assert gold == [("gold",), ("silver",), ("bronze",)]


def test_archived_objects_are_flagged(hubspot_api: HubspotApi, warehouse: SourceWarehouse) -> None:
    source = hubspot(soft_delete=True).with_resources("deals", "companies")
    assert warehouse.load(source)["deals"] == SIZES["deals"] + 3
    flags = "SELECT is_deleted, archived_at IS NULL, count(*) FROM deals GROUP BY ALL ORDER BY ALL"
    assert warehouse.rows(flags) == [(False, True, 240), (True, False, 3)]
    hubspot_api.change("archive", type="deals", id="3000005")
    loaded = warehouse.load(source)
    assert (loaded["deals"], loaded.get("companies", 0)) == (1, 0)
    assert warehouse.rows(flags) == [(False, True, 239), (True, False, 4)]
    assert not any(warehouse.load(source).values())
    hubspot_api.change("restore", type="deals", id="3000005")
    assert warehouse.load(source)["deals"] == 1
    assert warehouse.rows(flags) == [(False, True, 240), (True, False, 3)]
    assert not any(warehouse.load(source).values())
