"""HubSpot's data is consistent, reproducible, and changes on request."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.hubspot.properties import stage_property
from tests.support.sandbox import Sandbox, StartSandbox

KINDS = ("companies", "contacts", "deals", "tickets", "products", "quotes")
STAGES = {"deals": ("pipeline", "dealstage"), "tickets": ("hs_pipeline", "hs_pipeline_stage")}


def get(sandbox: Sandbox, path: str, **params: Any) -> Any:
    answer = sandbox.hubspot.get(path, params=params)
    assert answer.ok, answer.text
    return answer.json()


def everything(sandbox: Sandbox, kind: str, **params: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        answer = get(sandbox, f"/crm/v3/objects/{kind}", **{"limit": 50} | params | after)
        rows += answer["results"]
        if "paging" not in answer:
            return rows
        after = {"after": answer["paging"]["next"]["after"]}


@pytest.mark.parametrize("kind", ["deals", "tickets"])
def test_a_stage_belongs_to_its_pipeline_and_ends_the_history(sandbox: Sandbox, kind: str) -> None:
    stages = {
        pipeline["id"]: [stage["id"] for stage in pipeline["stages"]]
        for pipeline in get(sandbox, f"/crm/v3/pipelines/{kind}")["results"]
    }
    pipeline, stage = STAGES[kind]
    every = [stage_id for ids in stages.values() for stage_id in ids]
    entered = {stage_id: stage_property("entered", stage_id) for stage_id in every}
    exited = {stage_id: stage_property("exited", stage_id) for stage_id in every}
    names = ",".join([pipeline, stage, *entered.values(), *exited.values()])
    rows = everything(sandbox, kind, properties=names, propertiesWithHistory=stage)
    assert {row["properties"][pipeline] for row in rows} == set(stages)
    for row in rows:
        properties, history = row["properties"], row["propertiesWithHistory"][stage]
        assert properties[stage] in stages[properties[pipeline]]
        assert history[0]["value"] == properties[stage]
        assert [properties[entered[entry["value"]]] for entry in history] == [entry["timestamp"] for entry in history]
        assert [entry["timestamp"] for entry in history] == sorted((e["timestamp"] for e in history), reverse=True)
        for entry, following in zip(history[1:], history, strict=False):
            assert properties[exited[entry["value"]]] == following["timestamp"]
        assert properties[exited[history[0]["value"]]] is None


def test_associations_and_owners_exist_and_associations_are_mutual(sandbox: Sandbox) -> None:
    ids = {kind: {row["id"] for row in everything(sandbox, kind)} for kind in KINDS}
    owners = {
        owner["id"]
        for archived in ("false", "true")
        for owner in get(sandbox, "/crm/v3/owners", archived=archived)["results"]
    }
    pairs: dict[tuple[str, str], set[tuple[str, str]]] = {}
    sandbox.settings(hubspot_requests=1_000)
    for kind in KINDS[:-2]:
        others = [other for other in KINDS[:4] if other != kind]
        for row in everything(sandbox, kind, associations=",".join(others), properties="hubspot_owner_id"):
            assert row["properties"]["hubspot_owner_id"] in owners | {None}
            for other, page in row.get("associations", {}).items():
                pairs.setdefault((kind, other), set()).update((row["id"], link["id"]) for link in page["results"])
                assert {link["id"] for link in page["results"]} <= ids[other]
    assert len(pairs) == 12
    assert pairs["deals", "contacts"] == {(deal, contact) for contact, deal in pairs["contacts", "deals"]}


def test_the_batch_endpoint_returns_all_associations_of_a_long_list(sandbox: Sandbox) -> None:
    sandbox.hubspot.create_account(companies=1, contacts=1_400)
    [company] = everything(sandbox, "companies", associations="contacts")
    page = company["associations"]["contacts"]
    assert (len({link["id"] for link in page["results"]}), "paging" in page) == (100, True)
    path = "/crm/v4/associations/companies/contacts/batch/read"
    found: list[int] = []
    after: dict[str, str] | None = {}
    while after is not None:
        body = {"inputs": [{"id": company["id"]} | after]}
        [row] = sandbox.hubspot.post(path, json=body).json()["results"]
        found += [link["toObjectId"] for link in row["to"]]
        after = {"after": row["paging"]["next"]["after"]} if "paging" in row else None
    assert len(found) == len(set(found)) == 1_200


def test_links_of_an_objects_associations_lead_through_all_pages(sandbox: Sandbox) -> None:
    sandbox.hubspot.create_account(companies=1, contacts=1_400)
    [company] = everything(sandbox, "companies", associations="contacts")
    page, found = company["associations"]["contacts"], []
    while True:
        found += [link["id"] for link in page["results"]]
        if "paging" not in page:
            break
        page = get(sandbox, page["paging"]["next"]["link"].removeprefix(sandbox.hubspot.url))
    assert (len(found), len(set(found))) == (1_200, 1_200)


def test_object_types_have_three_names_and_paths_an_optional_slash(sandbox: Sandbox) -> None:
    first, *rest = get(sandbox, "/crm/v3/objects/companies", associations="contacts")["results"]
    assert [first, *rest] == get(sandbox, "/crm/v3/objects/company/", associations="contact")["results"]
    assert [first, *rest] == get(sandbox, "/crm/v3/objects/0-2", associations="0-1")["results"]
    assert first == get(sandbox, f"/crm/v3/objects/company/{first['id']}", associations="0-1")
    assert get(sandbox, "/crm/v3/owners/") == get(sandbox, "/crm/v3/owners")
    assert get(sandbox, "/crm/v3/pipelines/deal") == get(sandbox, "/crm/v3/pipelines/deals")
    properties = get(sandbox, "/crm/v3/properties/deals")["results"]
    assert get(sandbox, "/crm/v3/properties/deal/dealname") in properties


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_of_property_exists_and_has_values(sandbox: Sandbox, kind: str) -> None:
    known = get(sandbox, f"/crm/v3/properties/{kind}")["results"]
    custom = {one["name"]: one["type"] for one in known if not one["hubspotDefined"]}
    assert set(custom.values()) == {"string", "number", "bool", "enumeration", "date", "datetime"}
    rows = everything(sandbox, kind, properties=",".join(custom))
    for value_type in ("bool", "enumeration", "date", "datetime"):
        names = [name for name, found in custom.items() if found == value_type]
        assert any(row["properties"][name] for row in rows for name in names), value_type


def test_the_same_seed_gives_the_same_data(sandbox: Sandbox, start_sandbox: StartSandbox) -> None:
    ours = everything(sandbox, "deals", propertiesWithHistory="dealstage,amount")
    assert ours == everything(start_sandbox(), "deals", propertiesWithHistory="dealstage,amount")
    assert ours != everything(start_sandbox("--seed", "2"), "deals", propertiesWithHistory="dealstage,amount")


def test_changes_are_visible_in_lists_and_after_indexing_in_searches(sandbox: Sandbox) -> None:
    [made] = sandbox.hubspot.change("new_object", type="contacts", properties={"email": "new@example.com"})["ids"]
    sandbox.hubspot.change("edit", type="contacts", id=made, properties={"email": "newer@example.com"}, indexed=False)

    def email_of_the_last_change() -> str:
        last = {"limit": 1, "sorts": [{"propertyName": "lastmodifieddate", "direction": "DESCENDING"}]}
        [row] = sandbox.hubspot.search("contacts", properties=["email"], **last).json()["results"]
        return str(row["properties"]["email"])

    assert email_of_the_last_change() == "new@example.com"
    sandbox.hubspot.change("index")
    assert email_of_the_last_change() == "newer@example.com"
    [row] = [row for row in everything(sandbox, "contacts", propertiesWithHistory="email") if row["id"] == made]
    history = [entry["value"] for entry in row["propertiesWithHistory"]["email"]]
    assert history == ["newer@example.com", "new@example.com"]
    sandbox.hubspot.change("archive", type="contacts", id=made)
    assert made not in {row["id"] for row in everything(sandbox, "contacts")}
    assert made in {row["id"] for row in everything(sandbox, "contacts", archived="true")}
