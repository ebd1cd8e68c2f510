"""The fake HubSpot's responses match HubSpot's published descriptions."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.support.paths import published
from tests.support.sandbox import Sandbox

OBJECTS = ("companies", "contacts", "deals", "tickets", "products", "quotes")


@cache
def description(name: str) -> dict[str, Any]:
    """One of HubSpot's descriptions, its schemas closed: what they do not name is an error."""
    found: dict[str, Any] = json.loads(published(f"hubspot/{name}.json"))
    for schema in found["components"]["schemas"].values():
        schema.setdefault("additionalProperties", False)
        for name_, part in schema.get("properties", {}).items():
            if name_ == "properties" and "additionalProperties" in part:  # HubSpot sends null for what is not filled in
                part["additionalProperties"] = {"type": ["string", "null"]}
    return found


def violations(name: str, path: str, method: str, status: str, body: Any) -> list[str]:
    """Where a body breaks the schema that the description has for the address."""
    whole = description(name)
    schema = whole["paths"][path][method]["responses"][status]["content"]
    [reference] = [content["schema"] for content in schema.values()]
    document = {"components": whole["components"]} | reference
    return [f"{list(error.path)}: {error.message[:200]}" for error in Draft202012Validator(document).iter_errors(body)]


def contract_of(kind: str) -> tuple[str, str]:
    """The description of a type of objects and its address there; products and quotes have the shape of deals."""
    if kind in ("companies", "contacts", "tickets"):
        return kind, f"/crm/v3/objects/{kind}"
    return "deals", "/crm/v3/objects/0-3"


@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_match_the_published_description(sandbox: Sandbox, kind: str) -> None:
    name, template = contract_of(kind)
    path = f"/crm/v3/objects/{kind}"
    associations = "" if kind == "products" else "&associations=companies,contacts,deals".replace(kind, "tickets")
    for query in (f"limit=20{associations}", "limit=20&propertiesWithHistory=hubspot_owner_id", "archived=true"):
        listed = sandbox.hubspot.get(f"{path}?{query}").json()
        assert listed["results"]
        assert violations(name, template, "get", "200", listed) == []
    found = sandbox.hubspot.post(f"{path}/search", json={"limit": 5}).json()
    assert len(found["results"]) == 5
    assert violations(name, f"{template}/search", "post", "200", found) == []
    body = {"inputs": [{"id": row["id"]} for row in found["results"]], "properties": [], "propertiesWithHistory": []}
    read = sandbox.hubspot.post(f"{path}/batch/read", json=body)
    assert (read.status_code, violations(name, f"{template}/batch/read", "post", "200", read.json())) == (200, [])
    body["inputs"] = [{"id": "1"}]
    read = sandbox.hubspot.post(f"{path}/batch/read", json=body)
    assert read.status_code == 207
    assert violations(name, f"{template}/batch/read", "post", "207", read.json()) == []


@pytest.mark.parametrize(
    ("name", "path", "template"),
    [
        ("owners", "/crm/v3/owners", "/crm/v3/owners"),
        ("owners", "/crm/v3/owners/", "/crm/v3/owners"),
        ("owners", "/crm/v3/owners?archived=true&limit=1", "/crm/v3/owners"),
        ("pipelines", "/crm/v3/pipelines/deals", "/crm/v3/pipelines/{objectType}"),
        ("pipelines", "/crm/v3/pipelines/tickets", "/crm/v3/pipelines/{objectType}"),
        *(("properties", f"/crm/v3/properties/{kind}", "/crm/v3/properties/{objectType}") for kind in OBJECTS),
        ("properties", "/crm/v3/properties/deals/amount", "/crm/v3/properties/{objectType}/{propertyName}"),
        ("deals", "/crm/v3/objects/deals/3000001?associations=contacts", "/crm/v3/objects/0-3/{dealId}"),
    ],
)
def test_other_resources_match_the_published_description(sandbox: Sandbox, name: str, path: str, template: str) -> None:
    response = sandbox.hubspot.get(path)
    assert response.ok
    assert response.json().get("results", True)
    assert violations(name, template, "get", "200", response.json()) == []


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/crm/v3/owners", {"Authorization": "Bearer wrong"}, 401),
        ("/crm/v3/objects/unicorns", {}, 400),
        ("/crm/v3/objects/deals?limit=101", {}, 400),
        ("/crm/v3/nothing", {}, 404),
        ("/crm/v3/objects/deals/1", {}, 404),
        ("/crm/v3/objects/deals/1/associations/contacts", {}, 404),
        ("/crm/v3/properties/deals/nothing", {}, 404),
    ],
)
def test_errors_match_the_published_description(
    sandbox: Sandbox, path: str, headers: dict[str, str], status: int
) -> None:
    answer = sandbox.hubspot.get(path, headers=headers)
    assert answer.status_code == status
    body = answer.json()
    assert body.pop("status") == "error"  # which the description leaves out
    schema = {"components": description("deals")["components"], "$ref": "#/components/schemas/Error"}
    assert list(Draft202012Validator(schema).iter_errors(body)) == []


def test_the_comparison_reports_what_the_published_description_lacks() -> None:
    owner = {"id": "1", "type": "ROBOT", "archived": False, "createdAt": "x", "updatedAt": "x", "shoe_size": 43}
    found = violations("owners", "/crm/v3/owners", "get", "200", {"results": [owner, {}]})
    assert [part for part in ("ROBOT", "shoe_size", "'id' is a required") if part not in str(found)] == []
