"""The Stripe sandbox's objects have the keys and the types of Stripe's published examples."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sandbox.stripe.store import VERSION
from tests.conftest import Sandbox


@cache
def examples() -> dict[str, Any]:
    """Stripe's example objects by type, or a skipped test."""
    folder = os.environ.get("CONTRACTS_DIR")
    if not folder:
        pytest.skip("CONTRACTS_DIR does not say where Stripe's published examples are")
    resources: dict[str, Any] = json.loads((Path(folder) / "stripe" / "fixtures3.json").read_text())["resources"]
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
def test_every_object_has_stripes_shape(sandbox: Sandbox, resource: str, kind: str) -> None:
    headers = sandbox.headers | {"Stripe-Version": VERSION}
    address, after, seen = f"{sandbox.url}/stripe/v1/{resource}", "", 0
    for change in ("update_customer", "cancel_subscription"):
        sandbox.control("POST", "/stripe/changes", {"kind": change})
    while True:
        params = {"limit": "100", "status": "all"} if resource == "subscriptions" else {"limit": "100"}
        page = sandbox.http.get(
            address, params=params | ({"starting_after": after} if after else {}), headers=headers, timeout=60
        )
        rows = page.json()["data"]
        assert sorted({d for row in rows for d in differences(row, examples()[kind], kind)}) == []
        assert all(row["id"] and row["object"] == kind and row["created"] for row in rows)
        seen += len(rows)
        if not page.json()["has_more"]:
            break
        after = rows[-1]["id"]
    assert seen


def test_lines_have_stripes_shape(sandbox: Sandbox) -> None:
    headers = sandbox.headers | {"Stripe-Version": VERSION}
    invoice = sandbox.http.get(f"{sandbox.url}/stripe/v1/invoices", headers=headers, timeout=60).json()["data"][0]
    lines = sandbox.http.get(f"{sandbox.url}/stripe{invoice['lines']['url']}", headers=headers, timeout=60).json()
    assert lines["data"]
    assert [d for row in lines["data"] for d in differences(row, examples()["line_item"], "line_item")] == []


def test_the_comparison_finds_other_keys_and_types() -> None:
    example = {"id": "x", "amount": 1, "list": [{"a": True}], "any": None, "metadata": {}}
    ours = {"id": 5, "amount": 1.0, "list": [{"b": True}], "any": [], "metadata": {"k": "v"}, "new": 1}
    assert sorted(differences(ours, example, "o")) == [
        "o has new",
        "o.amount is 1.0, not like 1",
        "o.id is 5, not like 'x'",
        "o.list[] has b",
        "o.list[] lacks a",
    ]
