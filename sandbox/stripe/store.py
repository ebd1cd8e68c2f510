"""The accounts of the fake Stripe, generated when first requested, and the changes that a test can make."""

from __future__ import annotations

import string
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any

from sandbox.arguments import check_known
from sandbox.stripe import shapes
from sandbox.stripe.shapes import Object

VERSION = "2026-03-25.dahlia"
DAY = 86_400
MONTH = 30 * DAY
START = int(datetime.fromisoformat("2026-04-01T00:00:00Z").timestamp())
NOW = int(datetime.fromisoformat("2026-07-01T00:00:00Z").timestamp())  # later than all data
TICK = 60
RESOURCES = (
    "accounts",
    "balance_transactions",
    "coupons",
    "customers",
    "events",
    "invoices",
    "prices",
    "products",
    "subscription_items",
    "subscriptions",
)
CATALOGUE = {"Starter": 900, "Team": 2_900, "Business": 9_900, "Seats": 1_250, "Support": 4_999}


@dataclass(frozen=True)
class Size:
    """The size of an account. The first `subscriptions` customers have a subscription with monthly invoices.

    The first invoice has `lines` lines, as with metered usage.
    """

    customers: int = 250
    subscriptions: int = 170
    lines: int = 230
    country: str = "US"
    currency: str = "usd"


class Account:
    """An account: its objects by resource, in the order of creation."""

    def __init__(self, seed: int, key: str, size: Size) -> None:
        self._rng = Random(f"{seed} {key}")  # noqa: S311 - has to be repeatable
        self._size = size
        self.now = NOW
        self.rows: dict[str, list[Object]] = {resource: [] for resource in RESOURCES}
        self._build()
        for rows in self.rows.values():
            rows.sort(key=lambda row: int(row["created"]))

    def find(self, resource: str, id: str) -> Object | None:
        return next((row for row in self.rows[resource] if row["id"] == id), None)

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{''.join(self._rng.choices(string.ascii_letters + string.digits, k=20))}"

    def _add(self, resource: str, row: Object) -> Object:
        self.rows[resource].append(row)
        return row

    def _event(self, created: int, kind: str, row: Object, previous: Object | None = None) -> None:
        self._add("events", shapes.event(self._id("evt"), created, VERSION, kind, row, previous))

    def _build(self) -> None:
        rng, size, past = self._rng, self._size, START - 90 * DAY
        for number, (name, amount) in enumerate(CATALOGUE.items()):
            product = self._add("products", shapes.product(self._id("prod"), past + number * DAY, name))
            for interval, times in (("month", 1), ("year", 10)):
                created = product["created"] + 60 * times
                price = self._id("price"), created, product["id"], size.currency, amount * times, interval
                product["default_price"] = product["default_price"] or price[0]
                self._add("prices", shapes.price(*price))
        for number, (percent, amount_off) in enumerate([(25.5, None), (10.0, None), (None, 500)]):
            name = f"{percent}% off" if percent else f"{(amount_off or 0) / 100:.2f} off"
            code = self._id("c")[2:10].upper()
            created = past + number * DAY
            self._add("coupons", shapes.coupon(code, created, name, percent, amount_off, size.currency))
        for number, name in enumerate(("Harbour", "Meadow", "Orchard", "Quarry")):
            created = past + number * DAY
            account = shapes.account(self._id("acct"), created, name, size.country, size.currency)
            self._add("accounts", account)
        for number in range(size.customers):
            created = START + number * 75 * DAY // size.customers + rng.randrange(3_600)
            customer = self._customer(created, f"Customer {number + 1}", f"customer{number + 1}@example.com")
            if number < size.subscriptions:
                self._subscribe(customer, number)

    def _customer(self, created: int, name: str, email: str) -> Object:
        size = self._size
        customer = shapes.customer(self._id("cus"), created, name, email, size.country, size.currency)
        self._event(created, "customer.created", customer)
        return self._add("customers", customer)

    def _subscribe(self, customer: Object, number: int) -> None:
        rng, created, id = self._rng, customer["created"] + 600, self._id("sub")
        status = "trialing" if number % 9 == 7 else "active"
        monthly = [price for price in self.rows["prices"] if price["recurring"]["interval"] == "month"]
        items = [
            shapes.subscription_item(self._id("si"), created, id, price, rng.randint(1, 20), MONTH)
            for price in (monthly * 3 if number == 1 else rng.sample(monthly, rng.randint(1, 3)))
        ]
        self.rows["subscription_items"] += items
        currency = self._size.currency
        subscription = shapes.subscription(id, created, customer["id"], currency, items, status)
        self._add("subscriptions", subscription)
        self._event(created, "customer.subscription.created", subscription)
        ends = created + 40 * DAY if number % 12 == 5 else NOW
        if status == "active":
            for start in range(created, min(ends, NOW), MONTH):
                lines = self._size.lines if number == 0 and start == created else 0
                self.bill(subscription, start, paid=rng.random() < 0.92, refunded=rng.random() < 0.03, lines=lines)
        if ends < NOW:
            self.cancel(subscription, ends)

    def bill(self, subscription: Object, created: int, paid: bool, refunded: bool, lines: int = 0) -> Object:
        """Add an invoice with the subscription's items, or with `lines` lines and, if it is paid, the charge."""
        customer = self.find("customers", subscription["customer"])
        assert customer is not None
        id, items = self._id("in"), subscription["items"]["data"]
        charged = [items[number % len(items)] for number in range(lines)] if lines else items
        rows = [shapes.line(self._id("il"), id, item, created, MONTH) for item in charged]
        number = f"{customer['invoice_prefix']}-{customer['next_invoice_sequence']:04}"
        customer["next_invoice_sequence"] += 1
        paid_at = created + 3_600 if paid and created + 3_600 <= self.now else None
        invoice = shapes.invoice(id, created, customer, subscription["id"], number, rows, paid_at)
        subscription["latest_invoice"] = id
        self._add("invoices", invoice)
        if paid_at:
            total = invoice["total"]
            charge, fee = self._id("ch"), (total * 29 + 500) // 1_000 + 30
            self._transaction(paid_at, "charge", charge, total, fee)
            self._event(paid_at, "invoice.paid", invoice)
            if refunded and paid_at + DAY <= self.now:
                self._transaction(paid_at + DAY, "refund", self._id("re"), -total, 0)
        return invoice

    def _transaction(self, created: int, kind: str, source: str, amount: int, fee: int) -> None:
        id, currency, available = self._id("txn"), self._size.currency, created + 7 * DAY
        row = shapes.balance_transaction(
            id, created, kind, source, currency, amount, fee, available - available % DAY, self.now
        )
        self._add("balance_transactions", row)

    def cancel(self, subscription: Object, at: int) -> None:
        subscription |= {"status": "canceled", "canceled_at": at, "ended_at": at}
        subscription["cancellation_details"] = shapes.nulls("comment feedback") | {"reason": "cancellation_requested"}
        self._event(at, "customer.subscription.deleted", subscription)

    # The changes: a method's name is the `kind` of the control call. Arguments that are left out are chosen.

    def new_customer(self, name: str = "Newcomer", email: str = "newcomer@example.com") -> Object:
        return self._customer(self.now, name, email)

    def update_customer(self, id: str | None = None, **fields: Any) -> Object:
        customer = self._chosen("customers", id)
        for name in fields:
            check_known("field", name, customer)
        fields = fields or {"description": f"Changed at {self.now}"}
        previous = {name: deepcopy(customer[name]) for name in fields}
        customer |= fields
        self._event(self.now, "customer.updated", customer, previous)
        return customer

    def new_invoice(self, subscription: str | None = None, lines: int = 0) -> Object:
        """An invoice from an hour ago that has just been paid."""
        self.now += 3_600
        return self.bill(self._chosen("subscriptions", subscription), self.now - 3_600, True, False, lines)

    def cancel_subscription(self, id: str | None = None) -> Object:
        subscription = self._chosen("subscriptions", id)
        self.cancel(subscription, self.now)
        return subscription

    def settle(self) -> Object:
        """Make all pending balance transactions available. This creates no event."""
        pending = [row for row in self.rows["balance_transactions"] if row["status"] == "pending"]
        for row in pending:
            row["status"] = "available"
        return {"settled": [row["id"] for row in pending]}

    def _chosen(self, resource: str, id: str | None) -> Object:
        found = self.find(resource, id) if id else next(iter(self.rows[resource]), None)
        if found is None:
            raise ValueError(f"{resource} has no {id}" if id else f"{resource} is empty")
        return found


CHANGES = ("new_customer", "update_customer", "new_invoice", "cancel_subscription", "settle")


class Store:
    """The accounts by key. `reset` generates again those that were changed, and keeps the others."""

    def __init__(self, token: str, seed: int) -> None:
        self._seed = seed
        self.token = token
        self._built_in = {token: Size(), f"{token}-eu": Size(90, 60, 12, "DE", "eur")}
        self._sizes = dict(self._built_in)
        self._made: dict[str, Account] = {}
        self._changed: set[str] = set()

    def reset(self) -> None:
        for key in self._changed:
            self._made.pop(key, None)
        self._sizes = dict(self._built_in)
        self._changed.clear()

    def account(self, key: str) -> Account | None:
        """The account with this key."""
        if key not in self._made and key in self._sizes:
            self._made[key] = Account(self._seed, key, self._sizes[key])
        return self._made.get(key)

    def create(self, key: str, size: Size) -> Account:
        """Add an account; until the reset it replaces one with the same key."""
        self._made[key] = Account(self._seed, key, size)
        self._changed.add(key)
        return self._made[key]

    def change(self, kind: str, key: str, arguments: dict[str, Any]) -> Object:
        """Make one change, a minute after the last one; returns what was changed. Raises ValueError."""
        account = self.account(key)
        if account is None:
            raise ValueError(f"unknown key {key!r}")
        check_known("change", kind, CHANGES)
        self._changed.add(key)
        account.now += TICK
        try:
            return shapes.serialize(getattr(account, kind)(**arguments))
        except TypeError as error:
            raise ValueError(f"the change {kind!r} with {arguments} failed: {error}") from error
