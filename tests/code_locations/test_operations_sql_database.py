"""The operations location on the demo shop: what arrives by days, late or deleted, and what a user reads on failure."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from tests.conftest import ROOT, Shop

SCRIPT = """
import json, sys
from dagster import AssetKey
from code_locations.operations.definitions import defs
from runtime import retries
retries.MAX_WAIT_SECONDS = 0.1
start, end, *tables = sys.argv[1:]
result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
    asset_selection=[AssetKey(["sql_database", table]) for table in tables],
    tags={"dagster/asset_partition_range_start": start, "dagster/asset_partition_range_end": end} if start else {},
    raise_on_error=False,
)
print(json.dumps({
    "success": result.success,
    "failures": [event.step_failure_data.error.to_string() for event in result.get_step_failure_events()],
    "rows": {
        event.materialization.asset_key.path[-1]: event.materialization.metadata["rows_loaded"].value
        for event in result.get_asset_materialization_events()
    },
    "checks": {
        f"{check.asset_key.path[-1]}.{check.check_name}": check.passed or check.severity.value
        for check in result.get_asset_check_evaluations()
    },
}))
"""
# The checks of one table alone, after each damage to the warehouse as it is.
CHECKS = """
import json, os, shutil, sys
import duckdb
from dagster import AssetKey, AssetSelection, define_asset_job
from code_locations.operations.definitions import defs
selection = AssetSelection.checks_for_assets(AssetKey(["sql_database", "products"]))
job = define_asset_job("checks", selection).resolve(asset_graph=defs.resolve_asset_graph())
warehouse = os.environ["DESTINATION__DUCKDB__CREDENTIALS"]
shutil.copy(warehouse, "undamaged")
for damage in sys.argv[1:]:
    shutil.copy("undamaged", warehouse)
    with duckdb.connect(warehouse) as connection:
        connection.execute("SET schema = 'raw_sql_database'; " + damage)
    result = job.execute_in_process(raise_on_error=False)
    print(json.dumps({
        check.check_name: check.passed or check.severity.value for check in result.get_asset_check_evaluations()
    }))
"""
CHANGES = ("order_items", "orders")
DIMENSIONS = ("customers", "products")
CREDENTIALS = "SOURCES__SQL_DATABASE__CREDENTIALS"


class Location:
    """The location in a process of its own, as a run has it: its settings are read at import."""

    def __init__(self, folder: Path, shop: Shop) -> None:
        self.database = folder / "warehouse.duckdb"
        self.environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "RUNTIME__DLTHUB_TELEMETRY": "false",
            "DLT_DATA_DIR": str(folder / "dlt"),
            "DESTINATION__DUCKDB__CREDENTIALS": str(self.database),
            CREDENTIALS: shop.url,
            "FILESYSTEM_TABLES": "stock:parquet",  # of the location's other source
        }

    def python(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, **settings}
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=self.database.parent, env=environment, capture_output=True, text=True, timeout=100, check=False
        )

    def load(self, *tables: str, days: tuple[str, str] = ("", ""), **settings: str) -> dict[str, Any]:
        process = self.python("-c", SCRIPT, *days, *tables, **settings)
        assert process.returncode == 0, process.stderr
        report: dict[str, Any] = json.loads(process.stdout)
        return report

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.database)) as connection:
            connection.execute("SET schema = 'raw_sql_database'; SET timezone = 'UTC'")
            return connection.execute(sql).fetchall()


@pytest.fixture
def location(tmp_path: Path, demo_shop: Shop) -> Location:
    return Location(tmp_path, demo_shop)


def one(day: str) -> tuple[str, str]:
    return day, day


def backdate(shop: Shop, number: int, moment: str) -> None:
    """Changes an order as if it had been then: without the trigger that says when it really was."""
    with shop.connect() as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("UPDATE orders SET note = 'late', updated_at = %s WHERE id = %s", [moment, number])


def test_all_days_are_one_run_and_a_busy_day_another_and_all_adds_up(location: Location, demo_shop: Shop) -> None:
    report = location.load(*CHANGES, days=("2026-01-01", "2026-04-10"))
    assert report["success"], report["failures"]
    assert report["rows"] == {"orders": 100_000, "order_items": 199_775}
    checks = ("primary_key_is_unique", "rows_match_the_database")
    assert report["checks"] == {f"{table}.{check}": True for table in CHANGES for check in checks}

    demo_shop.execute("SELECT shop_make_changes(100)")
    [(changed,)] = demo_shop.execute("SELECT count(*) FROM orders WHERE updated_at > now() - interval '1 hour'")
    report = location.load(*CHANGES, days=one(datetime.now(UTC).date().isoformat()))

    assert report["rows"]["orders"] == changed
    assert set(report["checks"].values()) == {True}
    for table, amount in (("orders", "total"), ("order_items", "quantity * unit_price")):
        statement = f"SELECT count(*), sum({amount}) FROM {table} WHERE deleted_at IS NULL"
        assert location.rows(statement) == demo_shop.execute(statement)
    assert location.rows("SELECT count(*) FROM orders WHERE deleted_at IS NOT NULL") == [(0,)]


def test_a_day_is_that_day_and_may_be_loaded_again(location: Location, demo_shop: Shop) -> None:
    backdate(demo_shop, 1, "2026-01-02 00:00:00+00")
    backdate(demo_shop, 2, "2026-01-02 23:59:59.999999+00")
    backdate(demo_shop, 3, "2026-01-03 00:00:00+00")
    for _ in range(2):
        report = location.load("orders", days=one("2026-01-02"))
        assert set(report["checks"].values()) == {True}

        day = "updated_at >= '2026-01-02Z' AND updated_at < '2026-01-03Z' AND deleted_at IS NULL"
        assert location.rows("SELECT count(*) FROM orders") == demo_shop.execute(
            f"SELECT count(*) FROM orders WHERE {day}"
        )
        assert location.rows("SELECT id FROM orders WHERE note = 'late' ORDER BY id") == [(1,), (2,)]


def test_an_order_that_changes_late_leaves_its_day(location: Location, demo_shop: Shop) -> None:
    backdate(demo_shop, 1, "2026-01-02 12:00:00+00")
    location.load("orders", days=one("2026-01-02"))
    backdate(demo_shop, 1, "2026-01-05 12:00:00+00")
    assert location.load("orders", days=one("2026-01-02"))["checks"]["orders.rows_match_the_database"] == "WARN"
    location.load("orders", days=one("2026-01-05"))
    assert set(location.load("orders", days=one("2026-01-02"))["checks"].values()) == {True}

    moment = datetime(2026, 1, 5, 12, tzinfo=UTC)
    assert location.rows("SELECT updated_at FROM orders WHERE id = 1") == [(moment,)]


def test_a_transaction_that_commits_late_is_seen_when_its_day_is_read_again(
    location: Location, demo_shop: Shop
) -> None:
    day = one(datetime.now(UTC).date().isoformat())
    with demo_shop.connect() as slow:
        slow.cursor().execute("UPDATE orders SET note = 'late' WHERE id = 1")
        assert location.load("orders", days=day)["rows"] == {"orders": 0}
        slow.commit()
    assert location.load("orders", days=day)["rows"] == {"orders": 1}
    assert location.rows("SELECT note FROM orders") == [("late",)]


def test_dimensions_load_whole(location: Location) -> None:
    for _ in range(2):
        report = location.load(*DIMENSIONS)
        assert report["rows"] == {"customers": 5_000, "products": 500}
        assert set(report["checks"].values()) == {True}
        assert location.rows("SELECT count(*), count(credit_limit) FROM customers") == [(5_000, 4_286)]


def test_a_check_sees_what_is_wrong(location: Location) -> None:
    location.load(*DIMENSIONS)
    wanted = {
        "SELECT 1": (True, True),
        "DELETE FROM products WHERE id = 1": (True, "ERROR"),
        "UPDATE products SET price = price + 0.01 WHERE id = 1": (True, "ERROR"),
        "INSERT INTO products SELECT * FROM products WHERE id = 1": ("ERROR", "WARN"),
        # As if it had been deleted in the database without a mark: nothing tells the load.
        "INSERT INTO products SELECT * REPLACE (501 AS id) FROM products WHERE id = 1": (True, "WARN"),
    }
    process = location.python("-c", CHECKS, *wanted)
    assert process.returncode == 0, process.stderr

    found = [json.loads(line) for line in process.stdout.splitlines()]
    names = ("primary_key_is_unique", "rows_match_the_database")
    assert found == [dict(zip(names, results, strict=True)) for results in wanted.values()]


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", f"{CREDENTIALS} is missing or empty: set it to read from the database."),
        ("postgresql://shop:canary-7f3a@[::1/shop", f"{CREDENTIALS} has to look like postgresql://"),
        (
            "postgresql://shop:canary-7f3a@127.0.0.1:1/shop",
            f"The database shop at 127.0.0.1 cannot be reached, or refuses; check {CREDENTIALS}: ",
        ),
    ],
)
def test_a_run_says_what_to_change(location: Location, url: str, sentence: str) -> None:
    report = location.load("orders", days=one("2026-01-02"), **{CREDENTIALS: url})

    assert not report["success"]
    for failure in report["failures"]:
        assert sentence in failure.partition("Stack Trace")[0]
        assert "canary" not in failure


def test_a_start_date_that_is_none_is_told(location: Location) -> None:
    process = location.python("-c", "import code_locations.operations.definitions", SHOP_START_DATE="1.2.2026")

    assert process.returncode == 1
    assert "SHOP_START_DATE='1.2.2026' has to be a day like 2026-01-01." in process.stderr.strip().splitlines()[-1]


def test_importing_needs_no_secret_no_database_and_no_warehouse(location: Location) -> None:
    settings = {CREDENTIALS: "", "WAREHOUSE": "postgres"}
    process = location.python("-W", "error", "-c", "import code_locations.operations.definitions", **settings)

    # dagster's own use of pydantic warns at import
    assert process.returncode == 0 or "DeprecatedSince20" in process.stderr, process.stderr


def test_the_catalogue_is_complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("FILESYSTEM_TABLES", "stock:parquet")
    from code_locations.operations.definitions import defs

    specs = {
        spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs() if spec.key.path[0] == "sql_database"
    }
    assert set(specs) == {f"sql_database/{table}" for table in (*CHANGES, *DIMENSIONS)}
    for spec in specs.values():
        assert spec.description
        assert spec.group_name == "sql_database"
        assert spec.owners == ["team:operations"]
        assert {"dlt", "sql_database", "duckdb"} <= spec.kinds
        assert list(spec.deps) == []


def test_the_schedule_reads_yesterday_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("FILESYSTEM_TABLES", "stock:parquet")
    from code_locations.operations.definitions import defs

    schedule = defs.resolve_schedule_def("sql_database_every_hour")
    with dg.instance_for_test() as instance:
        tick = datetime(2026, 3, 2, 0, 23, tzinfo=UTC)
        context = dg.build_schedule_context(instance, tick, repository_def=defs.get_repository_def())
        changes, dimensions = schedule.evaluate_tick(context).run_requests or []
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    assert changes.partition_key_range == dg.PartitionKeyRange("2026-03-01", "2026-03-02")
    assert {key.path[-1] for key in changes.asset_selection or []} == set(CHANGES)
    assert dimensions.partition_key_range is None
    assert {key.path[-1] for key in dimensions.asset_selection or []} == set(DIMENSIONS)
