"""Stripe's data is consistent, reproducible, and changes on request."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from sandbox.stripe.store import RESOURCES, Store
from tests.support.sandbox import Sandbox

Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module", params=["sandbox-token", "sandbox-token-eu"])
def rows(request: pytest.FixtureRequest) -> Rows:
    account = Store("sandbox-token", 1).account(request.param)
    assert account is not None
    return account.rows


def read(sandbox: Sandbox, path: str, key: str = "sandbox-token", **params: str) -> Any:
    return sandbox.stripe.get(f"/v1/{path}", params=params, headers={"Authorization": f"Bearer {key}"}).json()


def test_amounts_are_integers_and_add_up(rows: Rows) -> None:
    for invoice in rows["invoices"]:
        total = sum(line["amount"] for line in invoice["lines"]["data"])
        assert invoice["total"] == invoice["subtotal"] == invoice["amount_due"] == total > 0
        assert invoice["amount_paid"] + invoice["amount_remaining"] == total
    for transaction in rows["balance_transactions"]:
        assert transaction["net"] == transaction["amount"] - transaction["fee"]
        assert transaction["fee"] == sum(detail["amount"] for detail in transaction["fee_details"])
        assert type(transaction["net"]) is int
    paid = Counter(row["amount_paid"] for row in rows["invoices"] if row["status"] == "paid")
    assert paid == Counter(row["amount"] for row in rows["balance_transactions"] if row["type"] == "charge")


def test_referenced_objects_exist(rows: Rows) -> None:
    known = {resource: {row["id"] for row in rows[resource]} for resource in RESOURCES}
    assert all(len(known[resource]) == len(rows[resource]) > 0 for resource in RESOURCES)
    for subscription in rows["subscriptions"]:
        assert subscription["customer"] in known["customers"]
        assert subscription["latest_invoice"] in {*known["invoices"], None}
        for item in subscription["items"]["data"]:
            assert item["id"] in known["subscription_items"]
            assert (item["price"]["id"], item["price"]["product"]) in {(p["id"], p["product"]) for p in rows["prices"]}
    for price in rows["prices"]:
        assert price["product"] in known["products"]
    for invoice in rows["invoices"]:
        assert invoice["customer"] in known["customers"]
        assert invoice["parent"]["subscription_details"]["subscription"] in known["subscriptions"]
    assert len({row["number"] for row in rows["invoices"]}) == len(rows["invoices"])


def test_the_data_contains_what_breaks_loaders(rows: Rows) -> None:
    assert {row["status"] for row in rows["subscriptions"]} == {"active", "trialing", "canceled"}
    assert {row["status"] for row in rows["invoices"]} == {"paid", "open"}
    assert {row["status"] for row in rows["balance_transactions"]} == {"available", "pending"}
    assert any(row["amount"] < 0 for row in rows["balance_transactions"])
    assert any(row["percent_off"] == 25.5 for row in rows["coupons"])
    assert max(len(row["lines"]["data"]) for row in rows["invoices"]) > 10
    assert max(len(row["items"]["data"]) for row in rows["subscriptions"]) > 10


def test_seed_and_key_determine_the_data() -> None:
    first, again, other = (Store("sandbox-token", seed).account("sandbox-token") for seed in (1, 1, 2))
    eu = Store("sandbox-token", 1).account("sandbox-token-eu")
    assert first
    assert again
    assert other
    assert eu
    assert first.rows == again.rows != other.rows
    for resource in RESOURCES:
        if resource != "coupons":
            assert not {row["id"] for row in first.rows[resource]} & {row["id"] for row in eu.rows[resource]}
    assert {row["currency"] for row in eu.rows["invoices"]} == {"eur"}


def test_a_changed_customer_is_visible_in_the_list_and_as_an_event(sandbox: Sandbox) -> None:
    before = read(sandbox, "customers", limit="1")["data"][0]
    changed = sandbox.stripe.change("update_customer", id=before["id"], name="Renamed")
    assert read(sandbox, f"customers/{before['id']}") == changed == before | {"name": "Renamed"}
    event = read(sandbox, "events", limit="1")["data"][0]
    assert (event["type"], event["data"]["object"]) == ("customer.updated", changed)
    assert event["data"]["previous_attributes"] == {"name": before["name"]}
    sandbox.reset()
    assert read(sandbox, f"customers/{before['id']}") == before


def test_a_new_invoice_is_paid_and_adds_up(sandbox: Sandbox) -> None:
    invoice = sandbox.stripe.change("new_invoice", lines=12)
    assert (invoice["status"], len(invoice["lines"]["data"]), invoice["lines"]["has_more"]) == ("paid", 10, True)
    lines = read(sandbox, f"invoices/{invoice['id']}/lines", limit="100")["data"]
    assert sum(line["amount"] for line in lines) == invoice["total"]
    assert read(sandbox, "balance_transactions", limit="1")["data"][0]["amount"] == invoice["total"]
    assert read(sandbox, "events", limit="1")["data"][0]["type"] == "invoice.paid"


def test_new_customers_cancellations_and_settlements_are_visible(sandbox: Sandbox) -> None:
    customer = sandbox.stripe.change("new_customer", key="sandbox-token-eu", name="New")
    assert read(sandbox, "customers", "sandbox-token-eu", limit="1")["data"] == [customer]
    assert read(sandbox, "customers", limit="1")["data"] != [customer]
    subscription = sandbox.stripe.change("cancel_subscription")
    assert subscription["status"] == "canceled"
    assert read(sandbox, "events", limit="1")["data"][0]["type"] == "customer.subscription.deleted"
    settled = sandbox.stripe.change("settle")["settled"]
    assert settled
    assert all(read(sandbox, f"balance_transactions/{id}")["status"] == "available" for id in settled)


def test_an_account_of_any_size_can_be_created_until_a_reset(sandbox: Sandbox) -> None:
    made = sandbox.stripe.create_account("sandbox-token-sized", customers=101, subscriptions=1, lines=3)
    assert (made["customers"], made["subscriptions"]) == (101, 1)
    assert read(sandbox, "customers", "sandbox-token-sized")["has_more"] is True
    sandbox.reset()
    assert read(sandbox, "customers", "sandbox-token-sized")["error"]["message"].startswith("Invalid API Key")
