"""HubSpot's invented data fits together, is the same each time, and changes on request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sandbox.hubspot.properties import stage_property

if TYPE_CHECKING:
    from tests.conftest import Sandbox, Start

KINDS = ("companies", "contacts", "deals", "tickets", "products", "quotes")
STAGES = {"deals": ("pipeline", "dealstage"), "tickets": ("hs_pipeline", "hs_pipeline_stage")}


def get(sandbox: Sandbox, path: str, **params: Any) -> Any:
    answer = sandbox.http.get(f"{sandbox.hubspot_url}{path}", params=params, headers=sandbox.headers, timeout=60)
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


def search(sandbox: Sandbox, kind: str, **body: Any) -> Any:
    url = f"{sandbox.hubspot_url}/crm/v3/objects/{kind}/search"
    return sandbox.http.post(url, json=body, headers=sandbox.headers, timeout=60).json()


@pytest.mark.parametrize("kind", ["deals", "tickets"])
def test_a_stage_is_one_of_its_pipeline_and_where_the_history_ends(sandbox: Sandbox, kind: str) -> None:
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


def test_associations_and_owners_exist_and_are_seen_from_both_sides(sandbox: Sandbox) -> None:
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


def test_a_long_list_of_associations_goes_on_in_the_batch(sandbox: Sandbox) -> None:
    sandbox.fill_crm(companies=1, contacts=1_400)
    [company] = everything(sandbox, "companies", associations="contacts")
    page = company["associations"]["contacts"]
    assert (len({link["id"] for link in page["results"]}), "paging" in page) == (100, True)
    url = f"{sandbox.hubspot_url}/crm/v4/associations/companies/contacts/batch/read"
    found: list[int] = []
    after: dict[str, str] | None = {}
    while after is not None:
        body = {"inputs": [{"id": company["id"]} | after]}
        [row] = sandbox.http.post(url, json=body, headers=sandbox.headers, timeout=60).json()["results"]
        found += [link["toObjectId"] for link in row["to"]]
        after = {"after": row["paging"]["next"]["after"]} if "paging" in row else None
    assert len(found) == len(set(found)) == 1_200


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_of_property_is_there_filled_in(sandbox: Sandbox, kind: str) -> None:
    known = get(sandbox, f"/crm/v3/properties/{kind}")["results"]
    custom = {one["name"]: one["type"] for one in known if not one["hubspotDefined"]}
    assert set(custom.values()) == {"string", "number", "bool", "enumeration", "date", "datetime"}
    rows = everything(sandbox, kind, properties=",".join(custom))
    for value_type in ("bool", "enumeration", "date", "datetime"):
        names = [name for name, found in custom.items() if found == value_type]
        assert any(row["properties"][name] for row in rows for name in names), value_type


def test_the_same_seed_gives_the_same_data(sandbox: Sandbox, start_sandbox: Start) -> None:
    ours = everything(sandbox, "deals", propertiesWithHistory="dealstage,amount")
    assert ours == everything(start_sandbox(), "deals", propertiesWithHistory="dealstage,amount")
    assert ours != everything(start_sandbox("--seed", "2"), "deals", propertiesWithHistory="dealstage,amount")


def test_changes_show(sandbox: Sandbox) -> None:
    [made] = sandbox.change_crm("new_object", type="contacts", properties={"email": "new@example.com"})["ids"]
    sandbox.change_crm("edit", type="contacts", id=made, properties={"email": "newer@example.com"}, indexed=False)
    email = {"properties": ["email"], "sorts": [{"propertyName": "lastmodifieddate", "direction": "DESCENDING"}]}
    assert search(sandbox, "contacts", limit=1, **email)["results"][0]["properties"]["email"] == "new@example.com"
    sandbox.change_crm("index")
    assert search(sandbox, "contacts", limit=1, **email)["results"][0]["properties"]["email"] == "newer@example.com"
    [row] = [row for row in everything(sandbox, "contacts", propertiesWithHistory="email") if row["id"] == made]
    history = [entry["value"] for entry in row["propertiesWithHistory"]["email"]]
    assert history == ["newer@example.com", "new@example.com"]
    sandbox.change_crm("archive", type="contacts", id=made)
    assert made not in {row["id"] for row in everything(sandbox, "contacts")}
    assert made in {row["id"] for row in everything(sandbox, "contacts", archived="true")}


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (("/hubspot/changes", {"kind": "explode"}), "there is no change 'explode'; known: new_object"),
        (("/hubspot/changes", {"kind": "archive", "type": "deals", "id": "1"}), "there is no deals 1; ids: 3000001"),
        (("/hubspot/changes", {"kind": "archive", "type": "deal", "id": "1"}), "there is no type 'deal'; known: comp"),
        (("/hubspot/account", {"deals": -1}), "deals has to be a whole number from 0 to 100,000, not -1"),
    ],
)
def test_a_wrong_control_call_says_what_is_known(sandbox: Sandbox, call: Any, sentence: str) -> None:
    answer = sandbox.http.post(f"{sandbox.url}/_sandbox{call[0]}", json=call[1], timeout=60)
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]
