"""A load of Stripe: all rows and child rows, typed and described columns, and exact amounts of money."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any

import pytest
from dlt.extract import DltSource

from dlt_sources.stripe import helpers, incremental_stripe_source, stripe_money, stripe_source
from dlt_sources.stripe.columns import COLUMNS
from dlt_sources.stripe.helpers import ENDPOINTS
from sandbox.stripe.store import VERSION, Account, Store
from tests.support.sandbox import StripeApi
from tests.support.source_warehouse import SourceWarehouse

BASE = ("subscription", "account", "coupon", "customer", "invoice", "product", "price")


def everything(**options: Any) -> list[DltSource]:
    return [stripe_source(**options), incremental_stripe_source(**options)]


@pytest.fixture(scope="session")
def account() -> Account:
    """The sandbox's original data, to compare a load with."""
    found = Store("sandbox-token", 1).account("sandbox-token")
    assert found
    return found


def contents(warehouse: SourceWarehouse) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, without dlt's own columns."""
    return {
        table: sorted(warehouse.rows(f"SELECT {', '.join(warehouse.columns(table))} FROM {table}"), key=str)
        for table in warehouse.tables()
    }


def test_creating_a_source_needs_no_secret_and_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCES__STRIPE__SECRET_KEY", raising=False)
    assert tuple(stripe_source().resources) == BASE
    assert tuple(incremental_stripe_source().resources) == ("event", "balance_transaction")
    assert tuple(stripe_source(("Price", "Event")).resources) == ("price", "event")


@pytest.mark.parametrize("endpoints", [("Customer", "Colour"), ("customer",), "Colour", ()])
@pytest.mark.parametrize("source", [stripe_source, incremental_stripe_source])
def test_an_unknown_endpoint_raises_with_the_known_ones(source: Any, endpoints: Any) -> None:
    with pytest.raises(
        ValueError, match=r"endpoints=.* must be one or more of Subscription, Account, .*Transaction\.$"
    ):
        source(endpoints)


def test_all_rows_are_loaded_with_all_child_rows(
    stripe_api: StripeApi, any_warehouse: SourceWarehouse, account: Account
) -> None:
    loaded = any_warehouse.load(*everything())
    for endpoint in ENDPOINTS.values():
        assert loaded[endpoint.table] == len(account.rows[endpoint.path]) > 0
        ids = {id for (id,) in any_warehouse.rows(f"SELECT id FROM {endpoint.table}")}
        assert ids == {row["id"] for row in account.rows[endpoint.path]}
    for table, parent, rows, key in (
        ("invoice__lines__data", "invoice", account.rows["invoices"], "lines"),
        ("subscription__items__data", "subscription", account.rows["subscriptions"], "items"),
    ):
        counts = any_warehouse.rows(
            f"SELECT p.id, count(c.id), max(c._dlt_list_idx) + 1 FROM {parent} p "
            f"JOIN {table} c ON c._dlt_parent_id = p._dlt_id GROUP BY p.id"
        )
        assert {id: (count, count) for id, count, _ in counts} == {
            row["id"]: (len(row[key]["data"]),) * 2 for row in rows
        }
        assert all(count == last for _, count, last in counts)
        assert loaded[table] == sum(len(row[key]["data"]) for row in rows)
    assert any_warehouse.value("SELECT bool_or(lines__has_more) FROM invoice") is False
    assert set(COLUMNS) == {endpoint.table for endpoint in ENDPOINTS.values()}
    for table, described in COLUMNS.items():
        assert described.keys() <= any_warehouse.columns(table).keys()
        assert not {f"{table}.{name}" for name in described} & any_warehouse.undescribed(table)
    amounts = {"invoice__lines__data.amount", "subscription__items__data.price__unit_amount"}
    assert not amounts & any_warehouse.undescribed("invoice__lines__data", "subscription__items__data")


def test_money_is_exact_in_the_warehouse(
    stripe_api: StripeApi, any_warehouse: SourceWarehouse, account: Account
) -> None:
    any_warehouse.load(*everything())
    transactions, invoices = account.rows["balance_transactions"], account.rows["invoices"]
    sums = any_warehouse.rows("SELECT sum(amount), sum(fee), sum(net), count(*) FROM balance_transaction")
    assert sums == [(*(sum(row[name] for row in transactions) for name in ("amount", "fee", "net")), len(transactions))]
    assert stripe_money(None, None) == {
        "usd": dict(zip(("amount", "fee", "net", "transactions"), sums[0], strict=True)),
    }
    assert any_warehouse.value("SELECT count(*) FROM balance_transaction WHERE net <> amount - fee") == 0
    assert any_warehouse.value("SELECT sum(total) FROM invoice") == sum(row["total"] for row in invoices)
    assert (
        any_warehouse.value(
            "SELECT count(*) FROM invoice i WHERE total <> "
            "(SELECT sum(amount) FROM invoice__lines__data l WHERE l._dlt_parent_id = i._dlt_id)"
        )
        == 0
    )
    types = {
        f"{table}.{column}": kind
        for table in any_warehouse.tables()
        for column, kind in any_warehouse.columns(table).items()
        if column.endswith(("amount", "fee", "net", "total", "balance")) or "amount_" in column
    }
    texts = {name for name, kind in types.items() if kind == "VARCHAR"}
    assert {kind for name, kind in types.items() if name not in texts} == {"BIGINT"}
    assert texts == {name for name in types if name.endswith("_decimal")}  # Stripe's exact decimal numbers


def test_times_are_timestamps_and_metadata_is_json(stripe_api: StripeApi, any_warehouse: SourceWarehouse) -> None:
    any_warehouse.load(*everything())
    for table in any_warehouse.tables():
        columns = any_warehouse.columns(table)
        for column, kind in columns.items():
            name = column.rpartition("__")[2]
            assert kind == "TIMESTAMP WITH TIME ZONE" or not name.endswith(("_at", "created", "updated")), column
            assert kind == "JSON" or name not in ("metadata", "data"), column
            assert "metadata__" not in column
        numbers = [column for column, kind in columns.items() if kind == "BIGINT"]
        largest = (
            any_warehouse.rows(f"SELECT {', '.join(f'max({column})' for column in numbers)} FROM {table}")
            if numbers
            else []
        )
        # All times were converted: none of the numbers is as large as a time in seconds.
        assert all((value or 0) < 1_600_000_000 for row in largest for value in row), table
    assert any_warehouse.value("SELECT min(created) >= '2026-04-01' AND max(created) < '2026-07-01' FROM customer")
    assert any_warehouse.columns("subscription")["cancel_at_period_end"] == "BOOLEAN"
    metadata = any_warehouse.value("SELECT CAST(metadata AS text) FROM customer LIMIT 1")
    assert json.loads(metadata) == {"plan source": "web"}


def test_an_event_keeps_its_object_unchanged(
    stripe_api: StripeApi, any_warehouse: SourceWarehouse, account: Account
) -> None:
    any_warehouse.load(incremental_stripe_source(("Event",)))
    for id, data in any_warehouse.rows("SELECT id, CAST(data AS text) FROM event"):
        event = account.find("events", id)
        assert event
        assert json.loads(data) == event["data"]


def test_an_empty_account_creates_empty_tables_with_typed_columns(
    stripe_api: StripeApi, warehouse: SourceWarehouse
) -> None:
    sized(stripe_api, customers=0)
    key = "sandbox-token-sized"
    warehouse.load(stripe_source(("Customer", "Invoice"), key), incremental_stripe_source(secret_key=key))
    for table in ("customer", "invoice", "event", "balance_transaction"):
        assert warehouse.value(f"SELECT count(*) FROM {table}") == 0
        assert warehouse.columns(table)["created"] == "TIMESTAMP WITH TIME ZONE"
    assert warehouse.columns("balance_transaction")["amount"] == "BIGINT"


def sized(stripe_api: StripeApi, **sizes: int) -> None:
    stripe_api.create_account("sandbox-token-sized", **{"subscriptions": 0} | sizes)
    stripe_api.sandbox.forget_requests()


@pytest.mark.parametrize(("rows", "pages"), [(0, 1), (1, 1), (100, 1), (101, 2), (10_000, 100)])
def test_a_list_of_any_length_is_read_with_the_fewest_pages(
    stripe_api: StripeApi, warehouse: SourceWarehouse, rows: int, pages: int
) -> None:
    sized(stripe_api, customers=rows)
    stripe_api.sandbox.settings(stripe_requests_per_second=100_000)
    key = "sandbox-token-sized"
    loaded = warehouse.load(
        stripe_source(("Customer",), key), incremental_stripe_source(("Event",), key, initial_start_date="2026-01-01")
    )
    assert (loaded.get("customer", 0), loaded.get("event", 0)) == (rows, rows)
    assert warehouse.value("SELECT count(DISTINCT id) FROM customer") == rows
    assert stripe_api.sandbox.counts()["by_path"] == {"/stripe/v1/customers": pages, "/stripe/v1/events": pages}


@pytest.mark.parametrize(("lines", "pages"), [(1, 0), (10, 0), (11, 1), (110, 1), (111, 2)])
def test_a_list_within_an_object_is_loaded_completely(
    stripe_api: StripeApi, warehouse: SourceWarehouse, lines: int, pages: int
) -> None:
    sized(stripe_api, customers=1, subscriptions=1, lines=lines)
    loaded = warehouse.load(stripe_source(("Invoice",), "sandbox-token-sized"))
    first = "SELECT id FROM invoice ORDER BY created LIMIT 1"
    numbers = f"SELECT count(DISTINCT id), count(*) FROM invoice__lines__data WHERE invoice = ({first})"
    assert warehouse.rows(numbers) == [(lines, lines)]
    assert loaded["invoice__lines__data"] >= lines
    asked = [path for path in stripe_api.sandbox.counts()["by_path"].items() if path[0].endswith("/lines")]
    assert sum(count for _, count in asked) == pages


@pytest.mark.parametrize("source", [stripe_source, incremental_stripe_source])
def test_dates_bound_the_requests_and_exclude_the_end(
    stripe_api: StripeApi, warehouse: SourceWarehouse, account: Account, source: Any
) -> None:
    moments = sorted(row["created"] for row in account.rows["events"])
    first, last = (datetime.fromtimestamp(moments[place], UTC) for place in (100, 300))
    loaded = warehouse.load(source(("Event",), None, first, last))
    wanted = [row for row in account.rows["events"] if first.timestamp() <= row["created"] < last.timestamp()]
    assert loaded["event"] == len(wanted)
    assert {id for (id,) in warehouse.rows("SELECT id FROM event")} == {row["id"] for row in wanted}
    assert len(stripe_api.sandbox.requests()) == -(-len(wanted) // 100)


def test_an_end_date_needs_no_start_date(stripe_api: StripeApi, warehouse: SourceWarehouse, account: Account) -> None:
    loaded = warehouse.load(incremental_stripe_source(("Event",), end_date="2026-05-01"))
    may = datetime(2026, 5, 1, tzinfo=UTC).timestamp()
    assert loaded["event"] == sum(row["created"] < may for row in account.rows["events"])


def test_a_second_load_changes_nothing(stripe_api: StripeApi, any_warehouse: SourceWarehouse) -> None:
    any_warehouse.load(*everything())
    before = contents(any_warehouse)
    stripe_api.sandbox.forget_requests()
    loaded = any_warehouse.load(*everything())
    assert contents(any_warehouse) == before
    assert not {"event", "balance_transaction"} & set(loaded)
    assert {
        p: n for p, n in stripe_api.sandbox.counts()["by_path"].items() if p.endswith(("events", "transactions"))
    } == {
        "/stripe/v1/events": 1,
        "/stripe/v1/balance_transactions": 1,
    }


def test_changes_are_loaded_and_nothing_else_changes(stripe_api: StripeApi, any_warehouse: SourceWarehouse) -> None:
    any_warehouse.load(*everything())
    before = contents(any_warehouse)
    customer = stripe_api.change("update_customer", name="Renamed", email=None)
    invoice = stripe_api.change("new_invoice", lines=15)
    cancelled = stripe_api.change("cancel_subscription")
    loaded = any_warehouse.load(*everything())
    after = contents(any_warehouse)
    assert any_warehouse.rows(f"SELECT name, email FROM customer WHERE id = '{customer['id']}'") == [("Renamed", None)]
    assert any_warehouse.value(f"SELECT status FROM subscription WHERE id = '{cancelled['id']}'") == "canceled"
    assert any_warehouse.value(f"SELECT count(*) FROM invoice__lines__data WHERE invoice = '{invoice['id']}'") == 15
    assert (loaded["event"], loaded["balance_transaction"]) == (3, 1)
    types = "SELECT type FROM event ORDER BY created DESC LIMIT 3"
    assert sorted(any_warehouse.rows(types)) == [
        ("customer.subscription.deleted",),
        ("customer.updated",),
        ("invoice.paid",),
    ]
    new = {table: Counter(map(str, rows)) - Counter(map(str, before[table])) for table, rows in after.items()}
    assert {table: sum(rows.values()) for table, rows in new.items() if rows} == {
        "customer": 1,
        "subscription": 1,
        "invoice": 1,
        "invoice__lines__data": 15,
        "event": 3,
        "balance_transaction": 1,
        "balance_transaction__fee_details": 1,
    }


def test_a_settled_balance_transaction_is_updated_when_its_days_are_read_again(
    stripe_api: StripeApi, warehouse: SourceWarehouse
) -> None:
    def pending() -> int:
        return int(warehouse.value("SELECT count(*) FROM balance_transaction WHERE status = 'pending'"))

    week = {"initial_start_date": "2026-06-20", "end_date": "2026-07-01"}
    warehouse.load(incremental_stripe_source(("BalanceTransaction",)))
    rows = warehouse.value("SELECT count(*) FROM balance_transaction")
    assert pending() == len(stripe_api.change("settle")["settled"]) > 0
    assert warehouse.load(incremental_stripe_source(("BalanceTransaction",))) == {}
    warehouse.load(incremental_stripe_source(("BalanceTransaction",), **week))
    assert (pending(), warehouse.value("SELECT count(*) FROM balance_transaction")) == (0, rows)


def test_two_accounts_can_be_read_at_once(stripe_api: StripeApi) -> None:
    def rows(section: str) -> Iterator[Any]:
        return iter(stripe_source(("Customer",), section=section).resources["customer"])

    pairs = list(zip_longest(rows("stripe"), rows("stripe_eu")))  # in turns, one page of each after the other
    dollars, euros = ([row for row in column if row] for column in zip(*pairs, strict=True))
    assert ({row["currency"] for row in dollars}, len(dollars)) == ({"usd"}, 250)
    assert ({row["currency"] for row in euros}, len(euros)) == ({"eur"}, 90)


def test_the_source_and_the_sandbox_have_the_same_api_version() -> None:
    assert helpers.VERSION == VERSION
