"""HubSpot's authentication, page sizes, search limits and rate limits."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.sandbox import Sandbox


def where(name: str, operator: str, **values: Any) -> list[dict[str, Any]]:
    return [{"filters": [{"propertyName": name, "operator": operator, **values}]}]


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "sandbox-token", "Basic sandbox-token"])
def test_a_missing_or_wrong_token_gets_status_401(sandbox: Sandbox, authorization: str | None) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    answer = sandbox.http.get(f"{sandbox.hubspot.url}/crm/v3/owners", headers=headers, timeout=60)
    assert (answer.status_code, answer.json()["category"]) == (401, "INVALID_AUTHENTICATION")


def test_requests_beyond_the_limit_get_hubspots_error(sandbox: Sandbox) -> None:
    sandbox.settings(hubspot_requests=2, hubspot_window_seconds=1)
    left = [sandbox.hubspot.get("/crm/v3/owners").headers["x-hubspot-ratelimit-remaining"] for _ in range(2)]
    refused = sandbox.hubspot.get("/crm/v3/owners")
    assert (left, refused.status_code) == (["1", "0"], 429)
    body = refused.json()
    assert (body["errorType"], body["policyName"]) == ("RATE_LIMIT", "TEN_SECONDLY_ROLLING")
    assert body["message"] == "You have reached your ten_secondly_rolling limit."


def test_searches_have_a_limit_of_their_own_and_no_limit_headers(sandbox: Sandbox) -> None:
    sandbox.settings(hubspot_searches_per_second=1)
    assert "x-hubspot-ratelimit-max" not in sandbox.hubspot.search("deals").headers
    refused = sandbox.hubspot.search("deals")
    assert (refused.status_code, refused.json()["policyName"]) == (429, "SECONDLY")
    assert sandbox.hubspot.get("/crm/v3/objects/deals").headers["x-hubspot-ratelimit-max"] == "190"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/crm/v3/objects/deals?limit=100", 200),
        ("/crm/v3/objects/deals?limit=101", 400),
        ("/crm/v3/objects/deals?limit=0", 400),
        ("/crm/v3/objects/deals?limit=50&propertiesWithHistory=amount", 200),
        ("/crm/v3/objects/deals?limit=51&propertiesWithHistory=amount", 400),
        ("/crm/v3/owners?limit=500", 200),
        ("/crm/v3/owners?limit=501", 400),
        (f"/crm/v3/objects/deals?properties={'x' * 9_000}", 414),
    ],
)
def test_the_page_size_is_limited(sandbox: Sandbox, path: str, status: int) -> None:
    assert sandbox.hubspot.get(path).status_code == status


@pytest.mark.parametrize(("size", "pages"), [(0, 1), (1, 1), (100, 1), (101, 2)])
def test_paging_ends_with_the_last_object(sandbox: Sandbox, size: int, pages: int) -> None:
    sandbox.hubspot.create_account(deals=size)
    path, ids, asked = "/crm/v3/objects/deals?limit=100", [], 0
    while path:
        answer = sandbox.hubspot.get(path).json()
        ids += [row["id"] for row in answer["results"]]
        path = answer.get("paging", {}).get("next", {}).get("link", "").removeprefix(sandbox.hubspot.url)
        asked += 1
    assert (len(ids), len(set(ids)), asked) == (size, size, pages)


def test_a_search_returns_at_most_ten_thousand_objects(sandbox: Sandbox) -> None:
    sandbox.hubspot.create_account(products=10_050)
    last = sandbox.hubspot.search("products", limit=200, after="9800").json()
    assert (last["total"], len(last["results"]), last["paging"]["next"]["after"]) == (10_050, 200, "10000")
    beyond = sandbox.hubspot.search("products", limit=200, after="10000")
    assert (beyond.status_code, beyond.json()["category"]) == (400, "VALIDATION_ERROR")


@pytest.mark.parametrize(
    "body",
    [
        {"limit": 201},
        {"sorts": [{"propertyName": "amount"}, {"propertyName": "hs_object_id"}]},
        {"filterGroups": where("amount", "EQ", value="1") * 6},
        {"filterGroups": where("no_such_property", "EQ", value="1")},
        {"filterGroups": where("amount", "RESEMBLES", value="1")},
        {"filterGroups": where("amount", "BETWEEN", value="1")},
        {"properties": ["a_long_name_of_a_property"] * 200},
    ],
)
def test_a_search_beyond_the_limits_is_rejected(sandbox: Sandbox, body: dict[str, Any]) -> None:
    answer = sandbox.hubspot.search("deals", **body)
    assert (answer.status_code, answer.json()["category"]) == (400, "VALIDATION_ERROR")


def test_search_filters_compare_by_type(sandbox: Sandbox) -> None:
    sandbox.settings(hubspot_searches_per_second=100)
    sandbox.hubspot.create_account()
    for amount in ("9", "10", "100.5", ""):
        sandbox.hubspot.change("new_object", type="deals", properties={"amount": amount, "dealname": f"Of {amount}"})

    def names(operator: str, name: str = "amount", **values: Any) -> list[str]:
        groups = where(name, operator, **values)
        sorts = [{"propertyName": "amount", "direction": "ASCENDING"}]
        found = sandbox.hubspot.search("deals", filterGroups=groups, sorts=sorts).json()["results"]
        return [row["properties"]["dealname"].removeprefix("Of ") for row in found]

    assert names("GTE", value="10") == ["10", "100.5"]
    assert names("LT", value="10") == ["9"]
    assert names("BETWEEN", value="9", highValue="10") == ["9", "10"]
    assert names("IN", values=["9", "100.5"]) == ["9", "100.5"]
    assert names("NEQ", value="9") == ["", "10", "100.5"]
    assert names("NOT_HAS_PROPERTY") == [""]
    created = sandbox.hubspot.search("deals", limit=1).json()["results"][0]["createdAt"]
    assert names("EQ", "createdate", value=created) == ["9"]
    assert names("GT", "createdate", value=created) == ["", "10", "100.5"]


def test_hubspot_faults_apply_to_hubspot_only(sandbox: Sandbox) -> None:
    sandbox.fault("hubspot_limit", policy="DAILY")
    assert sandbox.github.graphql("{viewer {login}}").ok
    refused = sandbox.hubspot.get("/crm/v3/owners")
    assert (refused.status_code, refused.json()["policyName"]) == (429, "DAILY")
    sandbox.fault("hubspot_scope", scope="crm.objects.owners.read")
    refused = sandbox.hubspot.get("/crm/v3/owners")
    assert (refused.status_code, refused.json()["category"]) == (403, "MISSING_SCOPES")
