"""Stripe: customers, subscriptions, invoices and their catalogue; events and balance transactions by day.

All of it merges on `id`, so a load may run again at any time. Amounts are integers in the currency's minor unit, as
Stripe has them: never floats. Stripe's lists can be asked for what was *created* in a span of time, never for what
was changed in it. Therefore `stripe_source` reads its objects whole each time, which brings every update; and
`incremental_stripe_source` is for what is created and then stays as it is: events (Stripe keeps them for 30 days) and
balance transactions, of which only `status` moves, from pending to available, within days. What is deleted at Stripe
is no longer listed: its row stays, and an event such as `customer.deleted` tells.

Each account is a section of its own, `section="stripe_eu"` reads SOURCES__STRIPE_EU__SECRET_KEY.

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

from dlt_sources.stripe.helpers import API, ENDPOINTS, Object

__all__ = ["incremental_stripe_source", "stripe_money", "stripe_source"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# `spec=BaseConfiguration` switches dlt's injection off: it would fill `start_date` or `secret_key` from bare variables
# of that name. The sources share a dataset, but each has a schema of its own: dlt stores schemas by name.


@dlt.source(name="stripe", section="stripe", spec=BaseConfiguration)
def stripe_source(
    endpoints: Sequence[str] = ("Subscription", "Account", "Coupon", "Customer", "Invoice", "Product", "Price"),
    secret_key: str | None = None,
    start_date: TAnyDateTime | None = None,
    end_date: TAnyDateTime | None = None,
    section: str = "stripe",
) -> Iterator[DltResource]:
    """Objects of a Stripe account as they are now, a table per endpoint; each load reads them all.

    With dates, only those that were created from `start_date` on and before `end_date`. `section` names the account:
    whose `SOURCES__<SECTION>__…` it is.
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
    """What was created in a Stripe account since the last load, or within dates, or within a scheduler's interval.

    The cursor is `created`, a timestamp; Stripe itself is asked for no more than the span. For objects that change
    later use `stripe_source`. `section` names the account: whose `SOURCES__<SECTION>__…` it is.
    """
    since, until = _moment(initial_start_date), _moment(end_date)
    for endpoint in _checked(endpoints):
        # dlt's: a cursor with an end needs a beginning
        cursor = dlt.sources.incremental[datetime](
            "created", initial_value=since or (EPOCH if until else None), end_value=until
        )

        def rows(created: dlt.sources.incremental[datetime] = cursor, endpoint: str = endpoint) -> Iterator[Any]:
            yield from _read(API(section, secret_key), endpoint, created.last_value, created.end_value)

        yield _resource(rows, endpoint)


def stripe_money(
    since: datetime | None, until: datetime | None, secret_key: str | None = None, section: str = "stripe"
) -> dict[str, dict[str, int]]:
    """Per currency the `transactions`, `amount`, `fee` and `net` that Stripe lists now, to check a load against.

    Those of the balance transactions that were created from `since` on and before `until`.
    """
    totals: dict[str, Counter[str]] = {}
    for page in _read(API(section, secret_key), "BalanceTransaction", since, until):
        for row in page if isinstance(page, list) else ():
            counts = {name: row[name] for name in ("amount", "fee", "net")} | {"transactions": 1}
            totals.setdefault(row["currency"], Counter()).update(counts)
    return {currency: dict(total) for currency, total in totals.items()}


def _resource(rows: Any, endpoint: str) -> DltResource:
    known = ENDPOINTS[endpoint]
    rows.__doc__ = known.description
    resource: DltResource = dlt.resource(
        rows,
        name=known.table,
        write_disposition="merge",
        primary_key="id",
        columns=known.columns,
        nested_hints=known.children,
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
    if empty:  # the table exists all the same
        yield dlt.mark.materialize_table_schema()


def _checked(endpoints: Sequence[str]) -> Sequence[str]:
    names = [endpoints] if isinstance(endpoints, str) else endpoints
    unknown = [name for name in names if name not in ENDPOINTS]
    if unknown or not names:
        raise ValueError(f"endpoints={endpoints!r} has to name some of {', '.join(ENDPOINTS)}.")
    return names


def _moment(value: TAnyDateTime | None) -> datetime | None:
    return None if value is None else ensure_datetime_in_tz(value, UTC)
