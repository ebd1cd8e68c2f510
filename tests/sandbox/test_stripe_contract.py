"""The fake Stripe's objects have the keys and types of Stripe's published examples."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from tests.support.paths import published
from tests.support.sandbox import Sandbox


@cache
def examples() -> dict[str, Any]:
    """Stripe's example objects by type, or a skipped test."""
    resources: dict[str, Any] = json.loads(published("stripe/fixtures3.json"))["resources"]
    return resources


def differences(ours: Any, example: Any, path: str) -> list[str]:
    """Where our value has other keys or another type than the example. Null says nothing of a type."""
    if ours is None or example is None:
        return []
    if isinstance(example, dict) and isinstance(ours, dict):
        if path.endswith(("metadata", "previous_attributes")):  # whatever keys the account's owner writes
            return []
        if path.endswith("event.data"):  # any object, and what was different before
            ours, snapshot = dict(ours), ours["object"]
            ours.pop("previous_attributes", None)
            example = {"object": examples()[snapshot["object"]]}
        found = [f"{path} lacks {key}" for key in example.keys() - ours.keys() if example]
        found += [f"{path} has {key}" for key in ours.keys() - example.keys() if example]
        return found + [
            d for key in ours.keys() & example.keys() for d in differences(ours[key], example[key], f"{path}.{key}")
        ]
    if isinstance(example, list) and isinstance(ours, list):
        return [d for item in ours for d in differences(item, example[0], f"{path}[]")] if example else []
    return [] if type(ours) is type(example) else [f"{path} is {ours!r}, not like {example!r}"]


@pytest.mark.parametrize(
    ("resource", "kind"),
    {
        "accounts": "account",
        "balance_transactions": "balance_transaction",
        "coupons": "coupon",
        "customers": "customer",
        "events": "event",
        "invoices": "invoice",
        "prices": "price",
        "products": "product",
        "subscription_items": "subscription_item",
        "subscriptions": "subscription",
    }.items(),
)
def test_objects_match_the_published_examples(sandbox: Sandbox, resource: str, kind: str) -> None:
    after, seen = "", 0
    for change in ("update_customer", "cancel_subscription"):
        sandbox.stripe.change(change)
    while True:
        params = {"limit": "100", "status": "all"} if resource == "subscriptions" else {"limit": "100"}
        page = sandbox.stripe.get(f"/v1/{resource}", params=params | ({"starting_after": after} if after else {}))
        rows = page.json()["data"]
        assert sorted({d for row in rows for d in differences(row, examples()[kind], kind)}) == []
        assert all(row["id"] and row["object"] == kind and row["created"] for row in rows)
        seen += len(rows)
        if not page.json()["has_more"]:
            break
        after = rows[-1]["id"]
    assert seen


def test_invoice_lines_match_the_published_example(sandbox: Sandbox) -> None:
    invoice = sandbox.stripe.get("/v1/invoices").json()["data"][0]
    lines = sandbox.stripe.get(invoice["lines"]["url"]).json()
    assert lines["data"]
    assert [d for row in lines["data"] for d in differences(row, examples()["line_item"], "line_item")] == []


def test_the_comparison_reports_different_keys_and_types() -> None:
    example = {"id": "x", "amount": 1, "list": [{"a": True}], "any": None, "metadata": {}}
    ours = {"id": 5, "amount": 1.0, "list": [{"b": True}], "any": [], "metadata": {"k": "v"}, "new": 1}
    assert sorted(differences(ours, example, "o")) == [
        "o has new",
        "o.amount is 1.0, not like 1",
        "o.id is 5, not like 'x'",
        "o.list[] has b",
        "o.list[] lacks a",
    ]
