"""The Stripe sandbox's data fits together, is the same each time, and changes on request."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from sandbox.stripe.store import RESOURCES, VERSION, Store
from tests.conftest import Sandbox

Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module", params=["sandbox-token", "sandbox-token-eu"])
def rows(request: pytest.FixtureRequest) -> Rows:
    account = Store("sandbox-token", 1).account(request.param)
    assert account is not None
    return account.rows


def change(sandbox: Sandbox, kind: str, **arguments: Any) -> dict[str, Any]:
    return dict(sandbox.control("POST", "/stripe/changes", {"kind": kind, **arguments}))


def read(sandbox: Sandbox, path: str, key: str = "sandbox-token", **params: str) -> Any:
    headers = {"Authorization": f"Bearer {key}", "Stripe-Version": VERSION}
    return sandbox.http.get(f"{sandbox.url}/stripe/v1/{path}", params=params, headers=headers, timeout=60).json()


def test_money_adds_up_in_whole_units(rows: Rows) -> None:
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


def test_what_an_object_names_is_there(rows: Rows) -> None:
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


def test_the_data_has_what_breaks_loaders(rows: Rows) -> None:
    assert {row["status"] for row in rows["subscriptions"]} == {"active", "trialing", "canceled"}
    assert {row["status"] for row in rows["invoices"]} == {"paid", "open"}
    assert {row["status"] for row in rows["balance_transactions"]} == {"available", "pending"}
    assert any(row["amount"] < 0 for row in rows["balance_transactions"])
    assert any(row["percent_off"] == 25.5 for row in rows["coupons"])
    assert max(len(row["lines"]["data"]) for row in rows["invoices"]) > 10
    assert max(len(row["items"]["data"]) for row in rows["subscriptions"]) > 10


def test_the_same_seed_gives_the_same_data_and_another_key_other_data() -> None:
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


def test_a_changed_customer_shows_in_the_list_and_as_an_event(sandbox: Sandbox) -> None:
    before = read(sandbox, "customers", limit="1")["data"][0]
    changed = change(sandbox, "update_customer", id=before["id"], name="Renamed")
    assert read(sandbox, f"customers/{before['id']}") == changed == before | {"name": "Renamed"}
    event = read(sandbox, "events", limit="1")["data"][0]
    assert (event["type"], event["data"]["object"]) == ("customer.updated", changed)
    assert event["data"]["previous_attributes"] == {"name": before["name"]}
    sandbox.reset()
    assert read(sandbox, f"customers/{before['id']}") == before


def test_a_new_invoice_is_paid_and_adds_up(sandbox: Sandbox) -> None:
    invoice = change(sandbox, "new_invoice", lines=12)
    assert (invoice["status"], len(invoice["lines"]["data"]), invoice["lines"]["has_more"]) == ("paid", 10, True)
    lines = read(sandbox, f"invoices/{invoice['id']}/lines", limit="100")["data"]
    assert sum(line["amount"] for line in lines) == invoice["total"]
    assert read(sandbox, "balance_transactions", limit="1")["data"][0]["amount"] == invoice["total"]
    assert read(sandbox, "events", limit="1")["data"][0]["type"] == "invoice.paid"


def test_other_changes(sandbox: Sandbox) -> None:
    customer = change(sandbox, "new_customer", key="sandbox-token-eu", name="New")
    assert read(sandbox, "customers", "sandbox-token-eu", limit="1")["data"] == [customer]
    assert read(sandbox, "customers", limit="1")["data"] != [customer]
    subscription = change(sandbox, "cancel_subscription")
    assert subscription["status"] == "canceled"
    assert read(sandbox, "events", limit="1")["data"][0]["type"] == "customer.subscription.deleted"
    settled = change(sandbox, "settle")["settled"]
    assert settled
    assert all(read(sandbox, f"balance_transactions/{id}")["status"] == "available" for id in settled)


def test_an_account_of_any_size_on_request(sandbox: Sandbox) -> None:
    sizes = {"key": "sandbox-token-sized", "customers": 101, "subscriptions": 1, "lines": 3}
    made = sandbox.control("POST", "/stripe/accounts", sizes)
    assert (made["customers"], made["subscriptions"]) == (101, 1)
    assert read(sandbox, "customers", "sandbox-token-sized")["has_more"] is True
    sandbox.reset()
    assert read(sandbox, "customers", "sandbox-token-sized")["error"]["message"].startswith("Invalid API Key")


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("/stripe/changes", {"kind": "burn"}, "there is no change 'burn'; known: new_customer, update_customer"),
        ("/stripe/changes", {"kind": "settle", "key": "other"}, "there is no account with the key 'other'"),
        ("/stripe/changes", {"kind": "update_customer", "id": "cus_0"}, "there is no cus_0 among the customers"),
        ("/stripe/changes", {"kind": "update_customer", "colour": 1}, "a customer has no colour"),
        ("/stripe/changes", {"kind": "settle", "colour": 1}, "the change 'settle' with .* failed"),
        ("/stripe/accounts", {"key": "other"}, "key has to be one that begins with sandbox-token-"),
        ("/stripe/accounts", {"key": "sandbox-token-a", "colours": 1}, "there is no size 'colours'; known: customers"),
        ("/stripe/accounts", {"key": "sandbox-token-a", "customers": -1}, "has to be a whole number from 0"),
    ],
)
def test_a_wrong_control_call_is_told_what_is_known(
    sandbox: Sandbox, path: str, body: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(AssertionError, match=sentence):
        sandbox.control("POST", path, body)
