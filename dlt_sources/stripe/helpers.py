"""Stripe's API: its lists page by page, and complete objects."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from dlt.sources.helpers.rest_client.redaction import sanitize_url
from requests.auth import HTTPBasicAuth

from dlt_sources.errors import TransientSourceError
from dlt_sources.http import ApiClient

Object = dict[str, Any]

# Pinned: the default is a setting of the account, and changing it in Stripe's dashboard would change the columns.
VERSION = "2026-03-25.dahlia"
MAX_PAGE = 100

# The names of Stripe's times, which are always whole seconds since 1970.
TIMES = re.compile(
    r"created|updated|\w+_at|(\w+_)?(start|end|date|timestamp)|available_on|redeem_by|current_deadline"
    r"|billing_cycle_anchor|next_payment_attempt|next_pending_invoice_item_invoice"
)


class API:
    """An account's API, with the settings `SOURCES__<SECTION>__*`."""

    def __init__(self, section: str, secret_key: str | None) -> None:
        self._api = ApiClient(
            source=section,
            title="Stripe",
            credential="secret_key",
            base_url="https://api.stripe.com",
            permission="read access to it, if it is a restricted key",
        )
        self._client = self._api.rest_client(secret_key, lambda key: HTTPBasicAuth(key, ""))
        self._client.session.headers["Stripe-Version"] = VERSION

    def pages(self, path: str, params: Object, after: str | None = None) -> Iterator[list[Object]]:
        """The pages of a list, beginning after the object `after`, in Stripe's order: usually newest first."""
        more = True
        while more:
            asked = params | {"limit": MAX_PAGE} | ({"starting_after": after} if after else {})
            response = self._client.get(path, params=asked)
            page = self._api.body(response)
            try:
                rows, more = page["data"], page["has_more"]
                after = rows[-1]["id"] if more else None
            except (TypeError, LookupError) as error:
                where = sanitize_url(response.url)
                raise TransientSourceError(f"Stripe sent JSON that is not a list of objects at {where}.") from error
            yield rows

    def row(self, item: Object, verbatim: frozenset[str]) -> Object:
        """An object as a row: its fields complete, but for those in `verbatim`."""
        fields = ((key, value) for key, value in item.items() if value is not None)
        return {key: value if key in verbatim else self._complete(key, value) for key, value in fields}

    def _complete(self, key: str, value: Any) -> Any:
        """A field's value with complete lists, times as timestamps, and without nulls.

        Stripe returns only the first items of a list within an object. For each null, dlt would warn that a column
        has no type. Metadata is not changed: its keys are those of the account's owner.
        """
        if type(value) is int and TIMES.fullmatch(key):  # a bool is no int here
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, list):
            return [self._complete("", item) for item in value]
        if not isinstance(value, dict) or key == "metadata":
            return value
        if value.get("object") == "list" and value.get("has_more"):
            shown = value["data"]
            rest = self.pages(value["url"], {}, after=shown[-1]["id"] if shown else None)
            value = value | {"data": [*shown, *(item for page in rest for item in page)], "has_more": False}
        return {name: self._complete(name, item) for name, item in value.items() if item is not None}


@dataclass(frozen=True)
class Endpoint:
    """A list of Stripe's objects and the table that it becomes. Fields in `verbatim` stay as Stripe sends them."""

    path: str
    table: str
    description: str
    params: Mapping[str, str] = field(default_factory=dict)
    verbatim: frozenset[str] = frozenset()


ENDPOINTS: dict[str, Endpoint] = {
    "Subscription": Endpoint(
        "subscriptions",
        "subscription",
        "Subscriptions of a Stripe account in any state, also ended; their items are in `subscription__items__data`.",
        params={"status": "all"},  # by default Stripe leaves out cancelled ones
    ),
    "Account": Endpoint(
        "accounts",
        "account",
        "Accounts connected to a Stripe account, with what they may do and what is required of them.",
    ),
    "Coupon": Endpoint(
        "coupons",
        "coupon",
        "Coupons of a Stripe account: a percentage, or an amount in the currency's smallest unit, off a bill.",
    ),
    "Customer": Endpoint(
        "customers",
        "customer",
        "Customers of a Stripe account. `balance` is in the currency's smallest unit.",
    ),
    "Invoice": Endpoint(
        "invoices",
        "invoice",
        "Invoices of a Stripe account, amounts in the currency's smallest unit; all lines in `invoice__lines__data`.",
    ),
    "Product": Endpoint(
        "products",
        "product",
        "Products that a Stripe account sells.",
    ),
    "Price": Endpoint(
        "prices",
        "price",
        "Prices of products, per unit and interval, in the currency's smallest unit.",
    ),
    "Event": Endpoint(
        "events",
        "event",
        "What happened in a Stripe account. `data` has the object as it was then, as Stripe sent it.",
        verbatim=frozenset({"data"}),
    ),
    "BalanceTransaction": Endpoint(
        "balance_transactions",
        "balance_transaction",
        "Every movement of money in a Stripe account: net = amount - fee, in the currency's smallest unit.",
    ),
}
