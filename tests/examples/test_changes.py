"""`changes.py` loads what happens in a database: no change is lost, doubled or left over, or the load says so."""

import os
import signal
import subprocess
import sys
import threading
import time
from importlib import reload
from typing import Any

import dagster as dg
import psycopg2
import pytest
from psycopg2.extras import LogicalReplicationConnection

from dlt_sources.errors import TransientSourceError
from runtime.load.resource import IsolatedDltResource
from tests.support.database import Database
from tests.support.paths import ROOT
from tests.support.warehouse import Warehouse

SLOT = "shop_test"
ORDERS = "SELECT id, status, CAST(total AS varchar), CAST(placed AS varchar) FROM {}orders ORDER BY id"
CUSTOMERS = "SELECT id, name, CAST(born AS varchar), active FROM {}customers ORDER BY id"
LOAD = """
from importlib import import_module
import sys, code_locations
from dlt_sources import verified
verified.__path__[:] = sys.argv[1:]
from tests.examples.test_changes import load
load(import_module("tests.examples.changes"))
"""


@pytest.fixture(autouse=True)
def settings(shop: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCES__SHOP_CHANGES__CREDENTIALS", shop.url)
    monkeypatch.setenv("SOURCES__SHOP_CHANGES__SLOT_NAME", SLOT)
    shop.execute("CREATE TABLE orders (id bigint PRIMARY KEY, status text, total numeric(12, 2), placed timestamp)")
    shop.execute("CREATE TABLE customers (id int PRIMARY KEY, name varchar(40), born date, active boolean)")
    shop.execute("INSERT INTO orders SELECT i, 'new', i * 1.5, '2026-01-01 10:00' FROM generate_series(1, 100) i")
    shop.execute("INSERT INTO customers SELECT i, 'c' || i, '2000-01-01', true FROM generate_series(1, 10) i")


@pytest.fixture
def changes(changes: Any, request: pytest.FixtureRequest) -> Any:
    """The module, imported with the settings of this test."""
    if "warehouse" in request.fixturenames:
        request.getfixturevalue("warehouse")
    return reload(changes)


@pytest.fixture
def duckdb(warehouse: Warehouse) -> Warehouse:
    if warehouse.name != "duckdb":
        pytest.skip("is about the source, so one warehouse is enough")
    return warehouse


@pytest.fixture
def postgres(warehouse: Warehouse) -> Warehouse:
    if warehouse.name != "postgres":
        pytest.skip("uses Postgres' locks and constraints")
    return warehouse


def load(changes: Any, anew: bool = False) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [changes.shop_changes_assets],
        resources={"dlt": IsolatedDltResource()},
        run_config={"ops": {"shop_changes": {"config": {"reload": anew}}}},
        raise_on_error=False,
    )


def sentence(changes: Any) -> str:
    """What a load fails with."""
    [failure] = load(changes).get_step_failure_events()
    assert failure.step_failure_data.error
    return failure.step_failure_data.error.message


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    [event] = result.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


def demand_same(warehouse: Warehouse, shop: Database) -> None:
    for query in (ORDERS, CUSTOMERS):
        assert warehouse.rows(query.format("raw_shop_changes.")) == shop.execute(query.format(""))


def change_everything(shop: Database) -> None:
    shop.execute("UPDATE orders SET status = 'paid', total = NULL WHERE id < 50")
    shop.execute("DELETE FROM orders WHERE id < 10")
    shop.execute("INSERT INTO orders VALUES (1000, '', 0.10, NULL), (5, 'again', -1, '2026-02-01 00:00:00.123456')")
    shop.execute("UPDATE customers SET active = false WHERE id = 3")
    shop.execute("DELETE FROM customers WHERE id = 4")


def test_what_is_inserted_updated_and_deleted_arrives(changes: Any, warehouse: Warehouse, shop: Database) -> None:
    assert load(changes).success
    demand_same(warehouse, shop)
    change_everything(shop)
    time.sleep(1)
    waited = metadata(load(changes))
    demand_same(warehouse, shop)
    quiet = metadata(load(changes))
    demand_same(warehouse, shop)

    assert waited["lag/seconds"] >= 1
    assert waited["lag/bytes"] > quiet["lag/bytes"] >= 0
    assert (quiet["lag/seconds"], quiet["rows_loaded"]) == (0, 0)


def test_changes_come_in_batches(changes: Any, warehouse: Warehouse, shop: Database) -> None:
    changes.BATCH = 10
    assert load(changes).success
    for start in range(100, 200, 5):
        shop.execute(f"INSERT INTO orders SELECT i, 'new', i, NULL FROM generate_series({start + 1}, {start + 5}) i")
        shop.execute("UPDATE orders SET total = total + 1 WHERE id > 90")
    assert load(changes).success
    demand_same(warehouse, shop)


def test_rows_that_are_written_during_the_first_load_are_there_once(
    changes: Any, warehouse: Warehouse, shop: Database
) -> None:
    ended = threading.Event()

    def write(first: int) -> None:
        with shop.connect() as connection, connection.cursor() as cursor:
            number = first
            while not ended.is_set():
                cursor.execute("INSERT INTO orders VALUES (%s, 'new', %s, now())", (number, number))
                cursor.execute("UPDATE orders SET total = total + 1 WHERE id = %s", (number - 20,))
                cursor.execute("DELETE FROM orders WHERE id = %s", (number - 30,))
                (connection.rollback if number % 50 == 0 else connection.commit)()
                number += 10
            connection.commit()

    writers = [threading.Thread(target=write, args=(1001 + number,)) for number in range(3)]
    for writer in writers:
        writer.start()
    try:
        first = load(changes)
        second = load(changes)
    finally:
        ended.set()
        for writer in writers:
            writer.join()
    assert first.success
    assert second.success
    assert metadata(second)["rows_loaded"] > 0
    assert load(changes).success
    demand_same(warehouse, shop)


def test_a_value_is_the_same_whether_it_was_there_first_or_came_as_a_change(
    changes: Any, warehouse: Warehouse, shop: Database
) -> None:
    shop.execute("""
        ALTER TABLE orders ADD b double precision, ADD c uuid, ADD d bytea, ADD e time, ADD f timestamptz,
        ADD g char(4), ADD j jsonb, ADD k smallint, ADD l numeric, ADD o boolean, ADD p date, ADD q json""")
    values = """0.1, 'aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', '\\x00ff', '10:11:12.123456', '2026-01-02 03:04:05.6+02',
        'ab', '{"x": [1, null]}', -3, 123456.789, false, '2026-02-03', '[1]'"""
    insert = "INSERT INTO orders (id, b, c, d, e, f, g, j, k, l, o, p, q) VALUES ({}, {})"
    shop.execute(insert.format(2001, values))
    assert load(changes).success
    shop.execute(insert.format(2002, values))
    assert load(changes).success

    columns = [
        name
        for (name,) in shop.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attnum > 1"
        )
    ]
    rows = warehouse.rows(f"SELECT {', '.join(columns)} FROM raw_shop_changes.orders WHERE id > 2000")
    first, later = (dict(zip(columns, row, strict=True)) for row in rows)
    assert first == later
    assert None not in [first[name] for name in "bcdefgjklopq"]


def test_a_load_that_fails_loses_nothing(changes: Any, postgres: Warehouse, shop: Database) -> None:
    assert load(changes).success
    change_everything(shop)
    with psycopg2.connect(postgres.credentials) as connection, connection.cursor() as cursor:
        cursor.execute("ALTER TABLE raw_shop_changes.orders ADD CONSTRAINT strict CHECK (status <> 'paid')")
    connection.close()
    assert "strict" in sentence(changes)
    shop.execute("UPDATE customers SET name = 'later' WHERE id = 1")
    assert "strict" in sentence(changes)
    with psycopg2.connect(postgres.credentials) as connection, connection.cursor() as cursor:
        cursor.execute("ALTER TABLE raw_shop_changes.orders DROP CONSTRAINT strict")
    connection.close()
    assert load(changes).success
    demand_same(postgres, shop)


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "later"])
def test_a_load_that_is_killed_loses_nothing(is_first: bool, changes: Any, postgres: Warehouse, shop: Database) -> None:
    from dlt_sources import verified

    if not is_first:
        assert load(changes).success
        change_everything(shop)
    blocker = psycopg2.connect(postgres.credentials)
    with blocker.cursor() as cursor:
        if is_first:
            cursor.execute("CREATE SCHEMA raw_shop_changes")  # not committed: the load waits to do the same
        else:
            cursor.execute("LOCK TABLE raw_shop_changes.orders")
        command = [sys.executable, "-c", LOAD, *verified.__path__]
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ)
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        deadline = time.monotonic() + 60
        while not Database.execute(WarehouseDatabase(postgres), waiting) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    blocker.rollback()
    blocker.close()
    shop.execute("UPDATE customers SET name = 'later' WHERE id = 1")
    assert load(changes).success
    demand_same(postgres, shop)


class WarehouseDatabase(Database):
    def __init__(self, warehouse: Warehouse) -> None:
        self.url = warehouse.credentials


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT pg_drop_replication_slot('shop_test')", "The slot shop_test is gone"),
        (
            "SELECT pg_drop_replication_slot('shop_test');"
            "SELECT pg_create_logical_replication_slot('shop_test', 'pgoutput')",
            "The slot shop_test has moved on without this warehouse",
        ),
        (
            "UPDATE orders SET status = 'read by another';"
            "SELECT pg_replication_slot_advance('shop_test', pg_current_wal_lsn())",
            "The slot shop_test has moved on without this warehouse",
        ),
        ("TRUNCATE customers; INSERT INTO customers VALUES (3)", "1 TRUNCATE and 0 changes of a primary key"),
        ("UPDATE orders SET id = 2000 WHERE id = 7", "0 TRUNCATE and 1 changes of a primary key"),
        (
            "ALTER TABLE orders REPLICA IDENTITY FULL; DELETE FROM orders WHERE id = 7;"
            "ALTER TABLE orders REPLICA IDENTITY DEFAULT",
            "0 TRUNCATE and 1 changes of a primary key or with REPLICA IDENTITY FULL",
        ),
        ("ALTER PUBLICATION shop_test DROP TABLE customers", "customers is not in the publication shop_test"),
    ],
    ids=["gone", "made anew", "read by another", "truncate", "key", "full", "unpublished"],
)
def test_a_hole_fails_the_load_and_a_reload_mends_it(
    statement: str, expected: str, changes: Any, duckdb: Warehouse, shop: Database
) -> None:
    assert load(changes).success
    before = duckdb.rows("SELECT id FROM raw_shop_changes.orders ORDER BY id")
    shop.execute("INSERT INTO orders VALUES (3000, 'new', 1, NULL)")
    for part in statement.split(";"):
        shop.execute(part)
    shop.execute("DELETE FROM customers WHERE id = 1")

    said = sentence(changes)
    assert expected in said
    assert "reload: true" in said
    assert duckdb.rows("SELECT id FROM raw_shop_changes.orders ORDER BY id") == before
    assert load(changes, anew=True).success
    demand_same(duckdb, shop)
    change_everything(shop)
    assert load(changes).success
    demand_same(duckdb, shop)


def test_a_slot_that_fell_behind_fails_the_load_and_a_reload_mends_it(
    changes: Any, duckdb: Warehouse, shop: Database
) -> None:
    assert load(changes).success
    server = shop.server
    server.psql("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
    try:
        server.psql("SELECT pg_reload_conf()")
        for number in range(4):
            shop.execute("UPDATE orders SET total = %s", number)
            shop.execute("SELECT pg_switch_wal()")
        server.psql("CHECKPOINT")
        assert "fell behind max_slot_wal_keep_size" in sentence(changes)
    finally:
        server.psql("ALTER SYSTEM RESET max_slot_wal_keep_size")
        server.psql("SELECT pg_reload_conf()")
    assert load(changes, anew=True).success
    demand_same(duckdb, shop)


def test_a_slot_has_one_reader(changes: Any, duckdb: Warehouse, shop: Database) -> None:
    assert load(changes).success
    reader = psycopg2.connect(shop.url, connection_factory=LogicalReplicationConnection)
    options = {"publication_names": SLOT, "proto_version": "1"}
    reader.cursor().start_replication(slot_name=SLOT, decode=False, options=options)
    with pytest.raises(TransientSourceError, match=r"is being read by the process \d+ of Postgres. It has one reader"):
        changes.Database().check_slot(None)
    reader.close()
    assert load(changes).success


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("DROP TABLE customers", "customers does not exist"),
        ("ALTER TABLE orders REPLICA IDENTITY FULL", "orders needs REPLICA IDENTITY DEFAULT"),
        ("ALTER TABLE orders DROP CONSTRAINT orders_pkey", "orders has no primary key"),
        (
            "ALTER TABLE orders ADD gross numeric GENERATED ALWAYS AS (total * 2) STORED",
            "orders has a generated column",
        ),
        ("CREATE DOMAIN mood AS text; ALTER TABLE orders ADD mood mood", "orders has a column of a type"),
        ("ALTER TABLE orders ADD weight real", "orders has a column of a type"),
        ("ALTER TABLE orders ADD lsn int", "orders has a column lsn"),
        (
            "DROP TABLE orders; CREATE TABLE orders (id int PRIMARY KEY) PARTITION BY RANGE (id)",
            "orders is no plain table",
        ),
    ],
)
def test_an_unfit_table_is_named_before_anything_is_made(
    statement: str, problem: str, changes: Any, duckdb: Warehouse, shop: Database
) -> None:
    shop.execute(statement)

    assert f"Cannot load the changes: {problem}" in sentence(changes)
    assert shop.execute("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()") == []


def test_a_long_value_that_does_not_change_fails_with_what_to_do(
    changes: Any, duckdb: Warehouse, shop: Database
) -> None:
    shop.execute("UPDATE orders SET status = (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 500) i)")
    assert load(changes).success
    demand_same(duckdb, shop)
    shop.execute("UPDATE orders SET total = 0 WHERE id = 1")
    assert "A row was updated whose long text or json did not change" in sentence(changes)


def test_a_slot_of_tables_that_do_not_change_does_not_fall_behind(
    changes: Any, duckdb: Warehouse, shop: Database
) -> None:
    assert load(changes).success
    shop.execute("CREATE TABLE others AS SELECT i FROM generate_series(1, 50000) i")
    [(written,)] = shop.execute("SELECT pg_current_wal_lsn()")
    assert load(changes).success
    assert load(changes).success

    query = "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s"
    assert shop.execute(query, written, SLOT) == [(True,)]
