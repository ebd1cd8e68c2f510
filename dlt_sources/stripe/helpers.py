"""Stripe's API: lists page by page, objects made whole, and the columns of their tables."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import dlt
from dlt.common.schema.typing import TColumnSchema
from dlt.extract.hints import TResourceNestedHints
from dlt.sources.helpers.rest_client.redaction import sanitize_url
from requests.auth import HTTPBasicAuth

from dlt_sources.http import TransientSourceError, Vendor

Object = dict[str, Any]

# Pinned: without it an account's own default decides, and a click in Stripe's dashboard changes the columns.
VERSION = "2026-03-25.dahlia"
MAX_PAGE = 100

# The names of Stripe's times, which are whole seconds since 1970 wherever they occur.
TIMES = re.compile(
    r"created|updated|\w+_at|(\w+_)?(start|end|date|timestamp)|available_on|redeem_by|current_deadline"
    r"|billing_cycle_anchor|next_payment_attempt|next_pending_invoice_item_invoice"
)


class API:
    """An account's API. `section` is whose settings it reads: `SOURCES__<SECTION>__*`."""

    def __init__(self, section: str, secret_key: str | None) -> None:
        self._vendor = Vendor(
            source=section,
            title="Stripe",
            credential="secret_key",
            base_url="https://api.stripe.com",
            permission="read access to it, if it is a restricted key",
        )
        secret = self._vendor.secret(secret_key)
        self._client = self._vendor.client(secret, HTTPBasicAuth(secret, ""))
        self._client.session.headers["Stripe-Version"] = VERSION

    def pages(self, path: str, params: Object, after: str | None = None) -> Iterator[list[Object]]:
        """The pages of a list, from behind the object `after`. Stripe's order: newest first, or an invoice's own."""
        more = True
        while more:
            asked = params | {"limit": MAX_PAGE} | ({"starting_after": after} if after else {})
            response = self._client.get(path, params=asked)
            page = self._vendor.body(response)
            try:
                rows, more = page["data"], page["has_more"]
                after = rows[-1]["id"] if more else None
            except (TypeError, LookupError) as error:
                where = sanitize_url(response.url)
                raise TransientSourceError(f"Stripe sent no list, or an endless one, at {where}.") from error
            yield rows

    def row(self, item: Object, verbatim: frozenset[str]) -> Object:
        """An object as a row: see `whole`, which leaves the fields in `verbatim` alone."""
        fields = ((key, value) for key, value in item.items() if value is not None)
        return {key: value if key in verbatim else self.whole(key, value) for key, value in fields}

    def whole(self, key: str, value: Any) -> Any:
        """A field's value with all its lists complete, its times as timestamps, and no nulls inside.

        Stripe shows only the first items of a list within an object. For each null dlt would warn that a column has
        no type. Metadata stays as it is: its keys are whatever the account's owner writes.
        """
        if type(value) is int and TIMES.fullmatch(key):  # a bool is no int here
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, list):
            return [self.whole("", item) for item in value]
        if not isinstance(value, dict) or key == "metadata":
            return value
        if value.get("object") == "list" and value.get("has_more"):
            shown = value["data"]
            rest = self.pages(value["url"], {}, after=shown[-1]["id"] if shown else None)
            value = value | {"data": [*shown, *(item for page in rest for item in page)], "has_more": False}
        return {name: self.whole(name, item) for name, item in value.items() if item is not None}


def columns(*names: str) -> dict[str, TColumnSchema]:
    """Columns in order, text unless a colon says otherwise: typed, so that they exist even while they are null."""
    typed = (name.partition(":") for part in names for name in part.split())
    return {name: {"name": name, "data_type": kind or "text"} for name, _, kind in typed}  # type: ignore[typeddict-item]


@dataclass(frozen=True)
class Endpoint:
    """A list of Stripe's and the table that it becomes; `children` are the lists within an object."""

    path: str
    table: str
    description: str
    columns: dict[str, TColumnSchema]
    children: dict[str | Sequence[str], TResourceNestedHints] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    verbatim: frozenset[str] = frozenset()


_PRICE = "price__id price__product price__currency price__unit_amount:bigint price__metadata:json plan__metadata:json"
# dlt would take the envelope of a list, which is no table, for the parent of the list's rows.
_ITEM = dlt.mark.make_nested_hints(
    parent_table_name="subscription",
    columns=columns(
        f"id subscription quantity:bigint {_PRICE} metadata:json created:timestamp",
        "current_period_start:timestamp current_period_end:timestamp",
    ),
)
_LINE = dlt.mark.make_nested_hints(
    parent_table_name="invoice",
    columns=columns(
        "id invoice description currency amount:bigint subtotal:bigint quantity:bigint metadata:json",
        "period__start:timestamp period__end:timestamp",
    ),
)

ENDPOINTS: dict[str, Endpoint] = {
    "Subscription": Endpoint(
        "subscriptions",
        "subscription",
        "Subscriptions of a Stripe account in any state, ended ones too; their items in `subscription__items__data`.",
        columns(
            "id customer status currency collection_method latest_invoice cancel_at_period_end:bool metadata:json",
            "application_fee_percent:double created:timestamp start_date:timestamp billing_cycle_anchor:timestamp",
            "trial_start:timestamp trial_end:timestamp cancel_at:timestamp canceled_at:timestamp ended_at:timestamp",
        ),
        {("items", "data"): _ITEM},
        {"status": "all"},  # by default Stripe leaves out what was cancelled
    ),
    "Account": Endpoint(
        "accounts",
        "account",
        "Accounts connected to a Stripe account, with what they may do and what is required of them.",
        columns(
            "id type email country default_currency business_type charges_enabled:bool payouts_enabled:bool",
            "details_submitted:bool metadata:json created:timestamp",
        ),
    ),
    "Coupon": Endpoint(
        "coupons",
        "coupon",
        "Coupons of a Stripe account: a percentage, or an amount in the currency's minor unit, off a bill.",
        columns(
            "id name currency amount_off:bigint percent_off:double duration duration_in_months:bigint",
            "times_redeemed:bigint max_redemptions:bigint valid:bool metadata:json",
            "redeem_by:timestamp created:timestamp",
        ),
    ),
    "Customer": Endpoint(
        "customers",
        "customer",
        "Customers of a Stripe account. `balance` is in the currency's minor unit.",
        columns(
            "id name email phone description currency balance:bigint delinquent:bool address__country",
            "metadata:json created:timestamp",
        ),
    ),
    "Invoice": Endpoint(
        "invoices",
        "invoice",
        "Invoices of a Stripe account, amounts in the currency's minor unit; all lines in `invoice__lines__data`.",
        columns(
            "id number customer status currency billing_reason collection_method amount_due:bigint amount_paid:bigint",
            "amount_remaining:bigint subtotal:bigint total:bigint total_excluding_tax:bigint metadata:json",
            "parent__subscription_details__subscription parent__subscription_details__metadata:json",
            "created:timestamp due_date:timestamp period_start:timestamp period_end:timestamp",
            "status_transitions__finalized_at:timestamp status_transitions__paid_at:timestamp",
            "status_transitions__voided_at:timestamp status_transitions__marked_uncollectible_at:timestamp",
        ),
        {("lines", "data"): _LINE},
    ),
    "Product": Endpoint(
        "products",
        "product",
        "Products that a Stripe account sells.",
        columns("id name description active:bool default_price type metadata:json updated:timestamp created:timestamp"),
    ),
    "Price": Endpoint(
        "prices",
        "price",
        "Prices of products, per unit and interval, in the currency's minor unit.",
        columns(
            "id product currency unit_amount:bigint unit_amount_decimal type active:bool nickname recurring__interval",
            "recurring__interval_count:bigint metadata:json created:timestamp",
        ),
    ),
    "Event": Endpoint(
        "events",
        "event",
        "What happened in a Stripe account. `data` has the object as it was then, as Stripe sent it.",
        columns(
            "id type api_version account livemode:bool pending_webhooks:bigint request__id request__idempotency_key",
            "data:json created:timestamp",
        ),
        verbatim=frozenset({"data"}),
    ),
    "BalanceTransaction": Endpoint(
        "balance_transactions",
        "balance_transaction",
        "Every movement of money in a Stripe account: net = amount - fee, in the currency's minor unit.",
        columns(
            "id type reporting_category status source description currency amount:bigint fee:bigint net:bigint",
            "exchange_rate:double available_on:timestamp created:timestamp",
        ),
    ),
}
