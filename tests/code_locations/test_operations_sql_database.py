"""The operations location on the demo shop: loads by day, late changes, deletions, and its messages on failure."""

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import pytest

from tests.support.database import Database
from tests.support.location import Location

CHANGES = ("order_items", "orders")
DIMENSIONS = ("customers", "products")
CREDENTIALS = "SOURCES__SQL_DATABASE__CREDENTIALS"


@pytest.fixture
def location(tmp_path: Path, demo_shop: Database) -> Location:
    return Location(
        "operations",
        "sql_database",
        tmp_path,
        SOURCES__SQL_DATABASE__CREDENTIALS=demo_shop.reader_url,
        FILESYSTEM_TABLES="stock:parquet",  # of the location's other source
    )


def one(day: str) -> tuple[str, str]:
    return day, day


def backdate(shop: Database, number: int, moment: str) -> None:
    """Changes an order as if that had happened at `moment`, bypassing the trigger that sets the real time."""
    with shop.connect() as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("UPDATE orders SET note = 'late', updated_at = %s WHERE id = %s", [moment, number])


def test_a_backfill_and_a_later_day_match_the_database(location: Location, demo_shop: Database) -> None:
    report = location.load(*CHANGES, partition=("2026-01-01", "2026-04-10"))
    assert report["success"], report["failures"]
    assert report["rows"] == {"orders": 100_000, "order_items": 199_775}
    checks = ("primary_key_is_unique", "rows_match_the_database")
    assert report["checks"] == {f"{table}.{check}": True for table in CHANGES for check in checks}

    demo_shop.execute("SELECT shop_make_changes(100)")
    [(changed,)] = demo_shop.execute("SELECT count(*) FROM orders WHERE updated_at > now() - interval '1 hour'")
    report = location.load(*CHANGES, partition=one(datetime.now(UTC).date().isoformat()))

    assert report["success"], report["failures"]
    assert report["rows"]["orders"] == changed
    assert set(report["checks"].values()) == {True}
    for table, amount in (("orders", "total"), ("order_items", "quantity * unit_price")):
        statement = f"SELECT count(*), sum({amount}) FROM {table} WHERE deleted_at IS NULL"
        assert location.sql(statement) == demo_shop.execute(statement)
    assert location.sql("SELECT count(*) FROM orders WHERE deleted_at IS NOT NULL") == [(0,)]


def test_a_day_has_the_changes_of_that_day_and_may_be_loaded_again(location: Location, demo_shop: Database) -> None:
    backdate(demo_shop, 1, "2026-01-02 00:00:00+00")
    backdate(demo_shop, 2, "2026-01-02 23:59:59.999999+00")
    backdate(demo_shop, 3, "2026-01-03 00:00:00+00")
    for _ in range(2):
        report = location.load("orders", partition=one("2026-01-02"))
        assert set(report["checks"].values()) == {True}

        day = "updated_at >= '2026-01-02Z' AND updated_at < '2026-01-03Z' AND deleted_at IS NULL"
        assert location.sql("SELECT count(*) FROM orders") == demo_shop.execute(
            f"SELECT count(*) FROM orders WHERE {day}"
        )
        assert location.sql("SELECT id FROM orders WHERE note = 'late' ORDER BY id") == [(1,), (2,)]


def test_an_order_that_changes_again_moves_to_its_new_day(location: Location, demo_shop: Database) -> None:
    backdate(demo_shop, 1, "2026-01-02 12:00:00+00")
    location.load("orders", partition=one("2026-01-02"))
    backdate(demo_shop, 1, "2026-01-05 12:00:00+00")
    report = location.load("orders", partition=one("2026-01-02"))
    assert report["severities"] == {"orders.rows_match_the_database": "WARN"}
    location.load("orders", partition=one("2026-01-05"))
    assert set(location.load("orders", partition=one("2026-01-02"))["checks"].values()) == {True}

    moment = datetime(2026, 1, 5, 12, tzinfo=UTC)
    assert location.sql("SELECT updated_at FROM orders WHERE id = 1") == [(moment,)]


def test_a_transaction_that_commits_late_is_loaded_when_its_day_is_loaded_again(
    location: Location, demo_shop: Database
) -> None:
    day = one(datetime.now(UTC).date().isoformat())
    with demo_shop.connect() as slow:
        slow.cursor().execute("UPDATE orders SET note = 'late' WHERE id = 1")
        assert location.load("orders", partition=day)["rows"] == {"orders": 0}
        slow.commit()
    assert location.load("orders", partition=day)["rows"] == {"orders": 1}
    assert location.sql("SELECT note FROM orders") == [("late",)]


def test_a_day_can_be_tried_out_and_does_not_refresh_the_table_of_all_days(location: Location) -> None:
    def run(**config: Any) -> dict[str, Any]:
        ops = {"shop_orders_and_order_items": {"config": config}}
        return {
            "assets": [["sql_database", "orders"]],
            "tags": {"dagster/partition": "2026-01-02"},
            "config": {"ops": ops},
        }

    try_out, refresh, full = location.run(run(max_items=10), run(refresh="drop_data"), run())
    assert try_out["rows"]["sql_database/orders"] >= 10
    assert "refresh='drop_data' would drop the rows of all partitions" in refresh["failures"][0]
    assert set(full["checks"].values()) == {True}


def test_every_load_reads_all_customers_and_products(location: Location) -> None:
    for _ in range(2):
        report = location.load(*DIMENSIONS)
        assert report["success"], report["failures"]
        assert report["rows"] == {"customers": 5_000, "products": 500}
        assert set(report["checks"].values()) == {True}
        assert location.sql("SELECT count(*), count(credit_limit) FROM customers") == [(5_000, 4_286)]


def test_checks_find_missing_duplicate_and_surplus_rows_and_wrong_amounts(location: Location) -> None:
    location.load(*DIMENSIONS)
    unique, match = "sql_database/products.primary_key_is_unique", "sql_database/products.rows_match_the_database"
    wanted = {
        "": {},
        "DELETE FROM products WHERE id = 1": {match: "ERROR"},
        "UPDATE products SET price = price + 0.01 WHERE id = 1": {match: "ERROR"},
        "INSERT INTO products SELECT * FROM products WHERE id = 1": {unique: "ERROR", match: "WARN"},
        # As if the row had been deleted in the database: a load cannot notice that.
        "INSERT INTO products SELECT * REPLACE (501 AS id) FROM products WHERE id = 1": {match: "WARN"},
    }
    reports = location.run(*({"checks": ["sql_database", "products"], "damage": damage} for damage in wanted))

    assert [report["severities"] for report in reports] == list(wanted.values())
    assert all(set(report["checks"]) == {unique, match} for report in reports)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", f"{CREDENTIALS} is missing, empty or a placeholder: set it to read from the database."),
        ("postgresql://shop:canary-7f3a@[::1/shop", f"{CREDENTIALS} must look like postgresql://"),
        (
            "postgresql://shop:canary-7f3a@127.0.0.1:1/shop",
            f"Cannot connect to the database shop at 127.0.0.1; check {CREDENTIALS}: ",
        ),
    ],
)
def test_a_failed_run_says_what_to_change(location: Location, url: str, sentence: str) -> None:
    location.environment[CREDENTIALS] = url
    report = location.load("orders", partition=one("2026-01-02"))

    assert not report["success"]
    for failure in report["failures"]:
        assert sentence in failure.partition("Stack Trace")[0]
        assert "canary" not in failure


@pytest.mark.parametrize(
    "statement",
    [
        *(f"DELETE FROM {table}" for table in (*CHANGES, *DIMENSIONS)),
        "UPDATE orders SET note = 'mine'",
        "SELECT shop_make_changes(1)",
        "CREATE TABLE mine (id integer)",
    ],
)
def test_the_location_may_only_read_the_shop(location: Location, demo_shop: Database, statement: str) -> None:
    with closing(psycopg2.connect(location.environment[CREDENTIALS])) as reader, reader.cursor() as cursor:
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute(statement)
        reader.rollback()
        demo_shop.execute("CREATE TABLE later (id integer)")
        cursor.execute("SELECT * FROM later")


def test_a_wrong_start_date_is_rejected(location: Location) -> None:
    location.environment["SHOP_START_DATE"] = "1.2.2026"
    [report] = location.run({"assets": [["sql_database", "not_loaded"]], "tags": {}, "config": {}})

    assert not report["success"]
    sentence = "SHOP_START_DATE='1.2.2026' is not a date. Write it as 2026-01-31."
    assert sentence in report["failures"][0].partition("Stack Trace")[0]


def test_importing_needs_no_secret_no_database_and_no_warehouse(location: Location) -> None:
    location.environment |= {CREDENTIALS: "", "WAREHOUSE": "postgres"}
    process = location.definitions("-W", "error")

    # dagster's own use of pydantic warns at import
    assert process.returncode == 0 or "DeprecatedSince20" in process.stderr, process.stderr


def test_the_catalogue_is_complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("FILESYSTEM_TABLES", "deliveries:csv,clicks:jsonl,stock:parquet")
    from code_locations.operations.definitions import defs

    specs = {
        spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs() if spec.key.path[0] == "sql_database"
    }
    assert set(specs) == {f"sql_database/{table}" for table in (*CHANGES, *DIMENSIONS)}
    for spec in specs.values():
        assert spec.description
        assert spec.group_name == "shop"
        assert spec.owners == ["team:operations"]
        assert {"dlt", "sql_database", "duckdb"} <= spec.kinds
        assert list(spec.deps) == []


def test_the_schedule_loads_yesterday_and_today(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("FILESYSTEM_TABLES", "deliveries:csv,clicks:jsonl,stock:parquet")
    from code_locations.operations.definitions import defs

    schedule = defs.resolve_schedule_def("shop_hourly")
    with dg.instance_for_test() as instance:
        tick = datetime(2026, 3, 2, 0, 23, tzinfo=UTC)
        context = dg.build_schedule_context(instance, tick, repository_def=defs.get_repository_def())
        changes, dimensions = schedule.evaluate_tick(context).run_requests or []
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    assert changes.partition_key_range == dg.PartitionKeyRange("2026-03-01", "2026-03-02")
    assert {key.path[-1] for key in changes.asset_selection or []} == set(CHANGES)
    assert dimensions.partition_key_range is None
    assert {key.path[-1] for key in dimensions.asset_selection or []} == set(DIMENSIONS)
