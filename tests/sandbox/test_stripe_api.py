"""Stripe's keys, API version, paging, filters, limits and errors."""

from __future__ import annotations

from typing import Any

import pytest
from requests import Response

from sandbox.stripe.store import VERSION
from tests.support.sandbox import Sandbox

HEADERS = {"Authorization": "Bearer sandbox-token", "Stripe-Version": VERSION}


def get(sandbox: Sandbox, path: str, headers: dict[str, str] | None = None, **options: Any) -> Response:
    return sandbox.http.get(
        f"{sandbox.stripe.url}/v1/{path}", headers=HEADERS if headers is None else headers, timeout=60, **options
    )


def ids(response: Response) -> list[str]:
    assert response.ok, response.text
    return [row["id"] for row in response.json()["data"]]


def test_a_key_is_accepted_as_user_name_and_as_bearer_token(sandbox: Sandbox) -> None:
    version = {"Stripe-Version": VERSION}
    with_basic = get(sandbox, "customers", version, auth=("sandbox-token", ""))
    assert ids(with_basic) == ids(get(sandbox, "customers"))
    other = get(sandbox, "customers", version, auth=("sandbox-token-eu", ""))
    assert not set(ids(other)) & set(ids(with_basic))


@pytest.mark.parametrize(
    ("headers", "status", "message"),
    [
        ({}, 401, "You did not provide an API key"),
        ({"Authorization": "Basic %%%"}, 401, "You did not provide an API key"),
        ({"Authorization": "Bearer wrong-key"}, 401, "Invalid API Key provided: wron****-key"),
        ({"Authorization": "Bearer sandbox-token"}, 400, "Invalid Stripe API version: ''"),
        (HEADERS | {"Stripe-Version": "2020-08-27"}, 400, "Invalid Stripe API version: '2020-08-27'"),
    ],
)
def test_a_wrong_key_or_version_gets_stripes_error(
    sandbox: Sandbox, headers: dict[str, str], status: int, message: str
) -> None:
    response = get(sandbox, "customers", headers)
    assert response.status_code == status
    assert response.json()["error"]["message"].startswith(message)
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_paging_works_forward_and_backward_newest_first(sandbox: Sandbox) -> None:
    first = get(sandbox, "customers", params={"limit": 100})
    rows = first.json()["data"]
    assert [row["created"] for row in rows] == sorted((row["created"] for row in rows), reverse=True)
    second = get(sandbox, "customers", params={"limit": 100, "starting_after": ids(first)[-1]})
    third = get(sandbox, "customers", params={"limit": 100, "starting_after": ids(second)[-1]})
    assert [page.json()["has_more"] for page in (first, second, third)] == [True, True, False]
    assert len({*ids(first), *ids(second), *ids(third)}) == 250
    back = get(sandbox, "customers", params={"limit": 60, "ending_before": ids(second)[0]})
    assert (ids(back), back.json()["has_more"]) == (ids(first)[-60:], True)
    assert len(ids(get(sandbox, "customers"))) == 10


def test_a_list_can_be_filtered_by_creation_time(sandbox: Sandbox) -> None:
    rows = get(sandbox, "events", params={"limit": 100}).json()["data"]
    times = sorted({row["created"] for row in rows})
    low, high = times[10], times[20]
    for params, wanted in (
        ({"created[gte]": low, "created[lt]": high}, [row for row in rows if low <= row["created"] < high]),
        ({"created[gt]": low, "created[lte]": high}, [row for row in rows if low < row["created"] <= high]),
        ({"created": low}, [row for row in rows if row["created"] == low]),
    ):
        assert ids(get(sandbox, "events", params=params | {"limit": 100})) == [row["id"] for row in wanted]
    both = get(sandbox, "events", params={"created[gte]": low, "limit": 5, "starting_after": rows[2]["id"]})
    assert ids(both) == [row["id"] for row in rows[3:8]]


def test_cancelled_subscriptions_are_listed_only_on_request(sandbox: Sandbox) -> None:
    def statuses(**params: Any) -> set[str]:
        rows = get(sandbox, "subscriptions", params={"limit": 100} | params).json()["data"]
        return {row["status"] for row in rows}

    assert statuses() == {"active", "trialing"}
    assert statuses(status="all") == {"active", "trialing", "canceled"}
    assert statuses(status="canceled") == {"canceled"}


@pytest.mark.parametrize("resource", ["invoices", "subscriptions"])
def test_a_long_list_in_an_object_is_cut_and_has_a_url(sandbox: Sandbox, resource: str) -> None:
    name = {"invoices": "lines", "subscriptions": "items"}[resource]
    pages: list[dict[str, Any]] = []
    while not pages or pages[-1]["has_more"]:
        after = {"starting_after": pages[-1]["data"][-1]["id"]} if pages else {}
        pages.append(get(sandbox, resource, params={"limit": 100, "status": "all"} | after).json())
    lists = [row[name] for page in pages for row in page["data"]]
    longest = next(found for found in lists if found["has_more"])
    assert len(longest["data"]) == 10
    rest = sandbox.stripe.get(longest["url"], params={"limit": 100})
    assert ids(rest)[:10] == [row["id"] for row in longest["data"]]
    assert len(ids(rest)) > 10


@pytest.mark.parametrize(
    ("path", "params", "status", "error"),
    [
        (
            "customers/cus_0",
            {},
            404,
            {"code": "resource_missing", "param": "id", "message": "No such customer: 'cus_0'"},
        ),
        ("colours", {}, 404, {"message": "Unrecognized request URL (GET: /v1/colours)."}),
        ("customers/a/b", {}, 404, {"message": "Unrecognized request URL (GET: /v1/customers/a/b)."}),
        ("customers", {"limit": "101"}, 400, {"param": "limit", "code": "parameter_invalid_integer"}),
        ("customers", {"limit": "many"}, 400, {"param": "limit", "message": "Invalid integer: many"}),
        ("customers", {"created[gte]": "now"}, 400, {"param": "created[gte]", "message": "Invalid integer: now"}),
        ("customers", {"colour": "red"}, 400, {"param": "colour", "code": "parameter_unknown"}),
        ("customers", {"starting_after": "cus_0"}, 400, {"param": "starting_after", "code": "resource_missing"}),
    ],
)
def test_a_wrong_request_gets_stripes_error(
    sandbox: Sandbox, path: str, params: dict[str, str], status: int, error: dict[str, str]
) -> None:
    response = get(sandbox, path, params=params)
    assert response.status_code == status
    assert response.json()["error"].items() >= error.items()


def test_too_many_requests_per_second_are_rejected(sandbox: Sandbox) -> None:
    sandbox.settings(stripe_requests_per_second=0)
    response = get(sandbox, "coupons")
    assert (response.status_code, response.json()["error"]["code"]) == (429, "rate_limit")
    assert response.headers["Stripe-Rate-Limited-Reason"] == "global-rate"
    sandbox.settings(stripe_requests_per_second=100)
    assert get(sandbox, "coupons").ok


@pytest.mark.parametrize(("kind", "status"), [("stripe_rate_limit", 429), ("stripe_lock_timeout", 409)])
def test_stripe_faults_apply_to_stripe_only(sandbox: Sandbox, kind: str, status: int) -> None:
    sandbox.fault(kind)
    assert sandbox.github.get("/rate_limit").ok
    response = get(sandbox, "coupons")
    assert response.status_code == status
    assert response.json()["error"]["code"] in ("rate_limit", "lock_timeout")
    assert get(sandbox, "coupons").ok
