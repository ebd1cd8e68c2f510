"""Stripe: customers, subscriptions, invoices and their catalogue; events and balance transactions by day.

Every table merges on `id`, so any load can be repeated. Amounts are integers in the currency's smallest unit, as at
Stripe, never floats. Stripe's lists can be filtered by the time at which objects were created, but not by when they
changed. Therefore there are two sources:

- `stripe_source` reads its objects completely each time, including every update.
- `incremental_stripe_source` reads what was created since the last load. It is for objects that do not change: events,
  which Stripe keeps for 30 days, and balance transactions, of which only `status` changes, from pending to available,
  within days.

Stripe no longer lists deleted objects: their rows stay, and an event such as `customer.deleted` reports the deletion.

Each account has a section of its own: `section="stripe_eu"` reads SOURCES__STRIPE_EU__SECRET_KEY.

Variables: SOURCES__STRIPE__SECRET_KEY; optional SOURCES__STRIPE__API_BASE_URL, SOURCES__STRIPE__MAX_WAIT and
SOURCES__STRIPE__TIMEOUT (seconds).
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import dlt
from dlt.common.configuration.specs import BaseConfiguration
from dlt.common.time import ensure_datetime_in_tz
from dlt.common.typing import TAnyDateTime
from dlt.extract import DltResource

from dlt_sources.stripe.columns import CHILDREN, COLUMNS
from dlt_sources.stripe.helpers import API, ENDPOINTS, Object

__all__ = ["incremental_stripe_source", "stripe_money", "stripe_source"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# `spec=BaseConfiguration` switches dlt's injection off: it would take `start_date` or `secret_key` from any variable of
# that name. The sources share a dataset, but each has its own schema: dlt stores schemas by name.


@dlt.source(name="stripe", section="stripe", spec=BaseConfiguration)
def stripe_source(
    endpoints: Sequence[str] = ("Subscription", "Account", "Coupon", "Customer", "Invoice", "Product", "Price"),
    secret_key: str | None = None,
    start_date: TAnyDateTime | None = None,
    end_date: TAnyDateTime | None = None,
    section: str = "stripe",
) -> Iterator[DltResource]:
    """Objects of a Stripe account as they are now, one table per endpoint; each load reads all of them.

    With dates, only those created from `start_date` on and before `end_date`. `section` is the account, with its
    settings `SOURCES__<SECTION>__*`.
    """
    since, until = _moment(start_date), _moment(end_date)
    for endpoint in _checked(endpoints):

        def rows(endpoint: str = endpoint) -> Iterator[Any]:
            yield from _read(API(section, secret_key), endpoint, since, until)

        yield _resource(rows, endpoint)


@dlt.source(name="stripe_incremental", section="stripe", spec=BaseConfiguration)
def incremental_stripe_source(
    endpoints: Sequence[str] = ("Event", "BalanceTransaction"),
    secret_key: str | None = None,
    initial_start_date: TAnyDateTime | None = None,
    end_date: TAnyDateTime | None = None,
    section: str = "stripe",
) -> Iterator[DltResource]:
    """Objects that were created in a Stripe account since the last load, within dates, or within a partition.

    The cursor is `created`, a timestamp, and only that span is requested from Stripe. For objects that change later
    use `stripe_source`. `section` is the account, with its settings `SOURCES__<SECTION>__*`.
    """
    since, until = _moment(initial_start_date), _moment(end_date)
    for endpoint in _checked(endpoints):
        # In dlt, a cursor with an end needs an initial value.
        cursor = dlt.sources.incremental[datetime](
            "created", initial_value=since or (EPOCH if until else None), end_value=until
        )

        def rows(created: dlt.sources.incremental[datetime] = cursor, endpoint: str = endpoint) -> Iterator[Any]:
            yield from _read(API(section, secret_key), endpoint, created.last_value, created.end_value)

        yield _resource(rows, endpoint)


def stripe_money(
    since: datetime | None, until: datetime | None, secret_key: str | None = None, section: str = "stripe"
) -> dict[str, dict[str, int]]:
    """The `transactions`, `amount`, `fee` and `net` per currency that Stripe lists now, to check a load.

    Of the balance transactions created from `since` on and before `until`.
    """
    totals: dict[str, Counter[str]] = {}
    for page in _read(API(section, secret_key), "BalanceTransaction", since, until):
        for row in page if isinstance(page, list) else ():
            counts = {name: row[name] for name in ("amount", "fee", "net")} | {"transactions": 1}
            totals.setdefault(row["currency"], Counter()).update(counts)
    return {currency: dict(total) for currency, total in totals.items()}


def _resource(rows: Any, endpoint: str) -> DltResource:
    known = ENDPOINTS[endpoint]
    rows.__doc__ = known.description  # the catalogue shows it
    resource: DltResource = dlt.resource(
        rows,
        name=known.table,
        write_disposition="merge",
        primary_key="id",
        columns=COLUMNS[known.table],
        nested_hints=CHILDREN.get(known.table),
    )
    return resource


def _read(api: API, endpoint: str, since: datetime | None, until: datetime | None) -> Iterator[Any]:
    """Pages of an endpoint's rows, newest first, created in `[since, until)`."""
    known = ENDPOINTS[endpoint]
    params: Object = dict(known.params)
    if since:
        params["created[gte]"] = math.floor(since.timestamp())
    if until:
        params["created[lt]"] = math.ceil(until.timestamp())
    empty = True
    for page in api.pages(f"v1/{known.path}", params):
        if page:
            empty = False
            yield [api.row(item, known.verbatim) for item in page]
    if empty:  # the table is created even if the list is empty
        yield dlt.mark.materialize_table_schema()


def _checked(endpoints: Sequence[str]) -> Sequence[str]:
    names = [endpoints] if isinstance(endpoints, str) else endpoints
    unknown = [name for name in names if name not in ENDPOINTS]
    if unknown or not names:
        raise ValueError(f"endpoints={endpoints!r} must be one or more of {', '.join(ENDPOINTS)}.")
    return names


def _moment(value: TAnyDateTime | None) -> datetime | None:
    return None if value is None else ensure_datetime_in_tz(value, UTC)
