"""Merges as dlt makes them, with what this project sets for each warehouse."""

import threading
import uuid
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import dagster as dg
import dlt
import psycopg2
import pyarrow as pa
import pytest
from dagster_dlt import DagsterDltResource, dlt_assets
from dlt.destinations.exceptions import DatabaseTransientException
from dlt.destinations.job_client_impl import SqlLoadJob

from runtime.load.resource import IsolatedDltResource
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import warehouse_pipeline
from tests.support.warehouse import Warehouse

UPSERT: Any = {"disposition": "merge", "strategy": "upsert"}


def thing(number: int) -> dict[str, Any]:
    return {"id": number, "name": f"thing {number}", "parts": [{"n": part} for part in range(number % 3)]}


@pytest.mark.parametrize("disposition", ["merge", UPSERT], ids=["delete-insert", "upsert"])
def test_a_merge_that_is_done_twice_has_each_row_once(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, disposition: Any
) -> None:
    run, losses = SqlLoadJob.run, iter([True])

    def committed_but_lost(job: SqlLoadJob) -> None:
        run(job)
        if next(losses, False):
            raise DatabaseTransientException(ConnectionError("before it said that all is done"))

    monkeypatch.setattr(SqlLoadJob, "run", committed_but_lost)
    things = dlt.resource(
        [thing(number) for number in range(100)], name="things", primary_key="id", write_disposition=disposition
    )
    warehouse_pipeline("things", "raw_colours").run(things)

    assert next(losses, None) is None
    assert warehouse.rows("SELECT count(*), count(DISTINCT id) FROM raw_colours.things") == [(100, 100)]
    assert warehouse.rows("SELECT count(*) FROM raw_colours.things__parts") == [(99,)]


@pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
def test_a_load_of_many_tables_leaves_connections_for_others(warehouse: Warehouse) -> None:
    pipeline = warehouse_pipeline("things", "raw_colours")
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        with closing(psycopg2.connect(warehouse.credentials)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            while not done.wait(0.01):
                cursor.execute("SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database()")
                most = max(most, *cursor.fetchone() or ())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        pipeline.run([dlt.resource([thing(1)], name=f"things_{number}") for number in range(30)])
    finally:
        done.set()
        watching.join()
    assert 0 < most <= 10


def load(orders: Any, **options: Any) -> dg.ExecuteInProcessResult:
    """Loads the resource `orders` as a location does."""

    @dlt_assets(
        dlt_source=dlt.source(lambda: orders, name="shop", section="shop")(),
        dlt_pipeline=warehouse_pipeline("shop", "raw_colours"),
        dagster_dlt_translator=SourceTranslator(source="shop"),
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Any:
        yield from dlt.run(context=context, **options)

    return dg.materialize([assets], resources={"dlt": IsolatedDltResource()})


VERSIONS = [
    {"id": number, "version": version, "lines": [{"of": version}]}
    for version in ("old", "new")
    for number in range(500)
]


@pytest.mark.parametrize("disposition", ["merge", UPSERT], ids=["delete-insert", "upsert"])
@pytest.mark.parametrize("before", [False, True], ids=["first load", "second load"])
def test_of_rows_with_one_key_the_last_stays(warehouse: Warehouse, disposition: Any, before: bool) -> None:
    def orders(pages: list[Any]) -> Any:
        return dlt.resource(pages, name="orders", primary_key="id", write_disposition=disposition)

    if before:
        load(orders([[{"id": 7, "version": "first", "lines": [{"of": "first"}]}]]))
    load(orders([VERSIONS[start : start + 300] for start in range(0, 1000, 300)]))

    assert warehouse.rows("SELECT version, count(*), count(DISTINCT id) FROM orders GROUP BY version") == [
        ("new", 500, 500)
    ]
    assert warehouse.rows('SELECT "of", count(*) FROM orders__lines GROUP BY 1') == [("new", 500)]


@pytest.mark.parametrize("disposition", ["merge", UPSERT], ids=["delete-insert", "upsert"])
@pytest.mark.parametrize(
    ("ids", "left"),
    [
        ([7, "7", 7.0], [2]),
        (["2026-01-31T12:00:00Z", "2026-01-31T12:00:00+00:00", "2026-01-31T13:00:00+01:00"], [2]),
        ([True, "true", 1], [2]),
        (["a", 7, "7"], [0, 2]),
        (["1.5", "1.50", 1.5], [1, 2]),  # texts
        (["a", "9999-12-31T23:59:59-05:00"], [0, 1]),  # beyond what a timestamp in UTC can be
    ],
    ids=["numbers", "moments", "booleans", "texts", "texts of numbers", "texts of moments"],
)
def test_keys_are_the_same_if_the_warehouse_makes_them_so(
    warehouse: Warehouse, disposition: Any, ids: list[Any], left: list[int]
) -> None:
    rows = [{"id": id, "number": number} for number, id in enumerate(ids)]

    load(dlt.resource([rows], name="orders", primary_key="id", write_disposition=disposition))

    assert warehouse.rows("SELECT number FROM orders ORDER BY 1") == [(number,) for number in left]


def test_a_merge_that_fails_leaves_the_rows_that_were_there(warehouse: Warehouse) -> None:
    """A merge deletes and inserts. dlt commits the one before the other on DuckDB."""

    def orders(amount: int | None) -> Any:
        rows = [{"id": 1, "amount": amount}, {"id": 2, "amount": 2}]
        columns: Any = {"amount": {"data_type": "bigint"}}
        return dlt.resource([rows], name="orders", primary_key="id", write_disposition="merge", columns=columns)

    load(orders(1))
    warehouse.rows("ALTER TABLE orders ALTER COLUMN amount SET NOT NULL")
    with pytest.raises(dg.Failure, match="amount"):
        load(orders(None))

    assert warehouse.rows("SELECT id, amount FROM orders ORDER BY 1") == [(1, 1), (2, 2)]


PLAIN = [{"id": row["id"], "version": row["version"], "kind": "orders"} for row in VERSIONS]


@pytest.mark.parametrize("disposition", ["merge", UPSERT], ids=["delete-insert", "upsert"])
@pytest.mark.parametrize("source", ["named by its rows", "marked", "two resources", "a key found while reading"])
def test_of_rows_with_one_key_the_last_stays_wherever_they_come_from(
    warehouse: Warehouse, disposition: Any, source: str
) -> None:
    hints: Any = {"primary_key": "id", "write_disposition": disposition}
    old, new = PLAIN[:500], PLAIN[500:]
    match source:
        case "named by its rows":
            load(dlt.resource([PLAIN], name="rows", table_name=lambda row: row["kind"], **hints))
        case "marked":
            load(dlt.resource([dlt.mark.with_table_name(PLAIN, "orders")], name="rows", **hints))
        case "two resources":
            load(
                [
                    dlt.resource([part], name=f"of_{part[0]['version']}", table_name="orders", **hints)
                    for part in (old, new)
                ]
            )
        case _:
            marked = dlt.mark.with_hints(old, dlt.mark.make_hints(primary_key="id"))
            load(dlt.resource(lambda: iter([marked, new]), name="orders", write_disposition=disposition))

    assert warehouse.rows("SELECT version, count(*) FROM orders GROUP BY version") == [("new", 500)]


NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("key", "of_arrow", "other"),
    [
        (7, pa.array([7]), 8),
        ("a", pa.array(["a"]).dictionary_encode(), "b"),
        (NOON, pa.array([NOON]), NOON.replace(day=1)),
        (NOON.isoformat(), pa.array([NOON]), NOON.replace(day=1)),
        (Decimal("1.50"), pa.array([Decimal("1.5")]), Decimal(2)),
        (uuid.UUID(int=7), pa.array([str(uuid.UUID(int=7))]), uuid.UUID(int=8)),
    ],
    ids=["number", "text", "time", "time as text", "decimal", "uuid"],
)
def test_a_key_in_dictionaries_and_in_arrow_rows_is_refused(
    warehouse: Warehouse, key: Any, of_arrow: Any, other: Any
) -> None:
    def orders(*pages: Any) -> Any:
        return dlt.resource(lambda: iter(pages), name="orders", primary_key="id", write_disposition="merge")

    arrow = pa.table({"id": of_arrow, "version": ["arrow"]})
    with pytest.raises(dg.Failure, match="orders: rows come both as dictionaries and as Arrow tables"):
        load(orders([{"id": key, "version": "row"}], arrow))  # dlt's columns are not there before the first load
    assert warehouse.datasets() == set()
    load(orders([{"id": key, "version": "row"}]))
    with pytest.raises(dg.Failure, match=r"orders: the key .* come both as dictionaries and as Arrow tables"):
        load(orders(arrow, [{"id": key, "version": "row"}]))
    load(orders([{"id": other, "version": "row"}], arrow))

    assert warehouse.rows("SELECT version FROM orders ORDER BY version") == [("arrow",), ("row",)]


IDS = pa.table({"Order Id": [1, 2, 1, 3, 4, 3, 3], "version": [f"v{n}" for n in range(7)]})
CATEGORIES = pa.table({"Order Id": pa.array(["a", "b", "a"]).dictionary_encode(), "version": ["v0", "v1", "v2"]})


@pytest.mark.parametrize("disposition", ["merge", UPSERT], ids=["delete-insert", "upsert"])
@pytest.mark.parametrize(
    ("pages", "expected"),
    [
        ([IDS[:2], IDS[2:5], IDS[5:]], [(1, "v2"), (2, "v1"), (3, "v6"), (4, "v4")]),
        ([CATEGORIES[:1], CATEGORIES[1:]], [("a", "v2"), ("b", "v1")]),
    ],
    ids=["numbers", "categories"],
)
@pytest.mark.parametrize("rows_per_file", ["1", "1000"])  # of one row, nothing may stay
def test_of_arrow_rows_with_one_key_the_last_stays(
    warehouse: Warehouse,
    monkeypatch: pytest.MonkeyPatch,
    disposition: Any,
    pages: list[pa.Table],
    expected: list[Any],
    rows_per_file: str,
) -> None:
    """Also if the key is in another page. dlt renames its column."""
    monkeypatch.setenv("SOURCES__DATA_WRITER__BUFFER_MAX_ITEMS", rows_per_file)
    monkeypatch.setenv("SOURCES__DATA_WRITER__FILE_MAX_ITEMS", rows_per_file)

    hints: Any = {"primary_key": "Order Id", "write_disposition": disposition}
    result = load(dlt.resource(lambda: iter(pages), name="orders", **hints))

    assert warehouse.rows("SELECT order_id, version FROM orders ORDER BY order_id") == expected
    [materialization] = result.asset_materializations_for_node("assets")
    assert materialization.metadata["rows_loaded"].value == len(expected)


@pytest.mark.parametrize(
    ("hints", "options", "expected"),
    [
        ({"primary_key": "order_id"}, {}, [(1, 2), (2, 1)]),  # dlt finds `orderId` by this name, too
        ({"primary_key": "orderId"}, {}, [(1, 2), (2, 1)]),
        ({"primary_key": "orderId"}, {"write_disposition": "append"}, [(1, 1), (1, 2), (2, 1)]),
        ({"primary_key": "orderId"}, {"primary_key": ["orderId", "version"]}, [(1, 1), (1, 2), (2, 1)]),
    ],
    ids=["spelled otherwise", "as it comes", "appended", "another key"],
)
def test_only_rows_that_replace_each_other_are_left_out(
    warehouse: Warehouse, hints: dict[str, Any], options: dict[str, Any], expected: list[tuple[int, int]]
) -> None:
    rows = [{"orderId": 1, "version": 1}, {"orderId": 2, "version": 1}, {"orderId": 1, "version": 2}]

    load(dlt.resource(rows, name="orders", write_disposition="merge", **hints), **options)

    found = warehouse.rows("SELECT order_id, version FROM orders ORDER BY 1, 2")
    assert found == expected
