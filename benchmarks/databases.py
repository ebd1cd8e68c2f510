"""A table of 12 columns from Postgres into the warehouse: ours, dlt's own ways, and what the machine can do.

Whole processes, each into an empty warehouse; afterwards the rows there are compared with those in the source, value
by value. `python -m benchmarks.databases CONTENDER WAREHOUSE` is one measurement.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any

from benchmarks.measure import QUIET, Measured, as_a_fork, measure, postgres, spread, table, take_turns

LIMIT, OURS, FORK, PLAIN = "limit", "ours", "fork", "plain"
# By warehouse, as the table names them. All but the limit merge on the primary key.
CONTENDERS = {
    "duckdb": {
        LIMIT: "limit: ADBC straight into DuckDB",
        OURS: "**this deployment**, a Dagster run and all",
        FORK: "**this deployment**, as its server starts a run",
        PLAIN: "**this deployment**, likewise, but `RUNTIME__ACCELERATE=false`",
        "pyarrow": "dlt, backend pyarrow, parquet",
        "defaults": "dlt, its defaults",
    },
    "postgres": {
        LIMIT: "limit: binary COPY, piped",
        OURS: "**this deployment**, a Dagster run and all",
        FORK: "**this deployment**, as its server starts a run",
        PLAIN: "**this deployment**, likewise, but `RUNTIME__ACCELERATE=false`",
        "pyarrow": "dlt, backend pyarrow, parquet",
        "pyarrow-csv": "dlt, backend pyarrow, its own format (csv)",
    },
}
SOURCE = """
CREATE TABLE orders AS SELECT
    id::bigint,
    (id % 1000)::int AS customer_id,
    'order ' || id AS title,
    md5(id::text) AS reference,
    CASE WHEN id % 3 = 0 THEN NULL ELSE 'note on ' || id END AS note,
    (id * 1.01)::numeric(14, 2) AS total,
    id * 0.25::double precision AS weight, -- whose sum is exact, in whatever order,
    id % 2 = 0 AS paid,
    date '2026-01-01' + (id % 365)::int AS due_on,
    timestamptz '2026-01-01 00:00:00+00' + id * interval '1 s' AS created_at,
    timestamptz '2026-01-01 00:00:00+00' + id * interval '2 s' AS updated_at,
    jsonb_build_object('n', id) AS attributes
FROM generate_series(1, {rows}) AS id;
ALTER TABLE orders ADD PRIMARY KEY (id)
"""
BINARY = "id, customer_id, title, reference, note, weight, paid, due_on, created_at, updated_at"
# The values of each column, as both databases cast them, whatever their type has become.
VALUES = {
    "id": "CAST(id AS bigint)",
    "customer_id": "CAST(customer_id AS bigint)",
    "title": "title",
    "reference": "reference",
    "note": "note",
    "total": "CAST(total AS numeric(14, 2))",
    "weight": "CAST(weight AS numeric(14, 2))",
    "paid": "CAST(paid AS boolean)",
    "due_on": "CAST(due_on AS date)",
    "created_at": "CAST(created_at AS timestamptz)",
    "updated_at": "CAST(updated_at AS timestamptz)",
    "attributes": "CAST(attributes AS json) ->> 'n'",
}
# Types that hold the same.
ALIKE = {
    "character varying": "text",
    "decimal": "numeric",
    "double": "double precision",
    "hugeint": "bigint",
    "integer": "bigint",
    "json": "jsonb",
    "varchar": "text",
}

Columns = dict[str, tuple[str, Any]]


def run(rows: int = 1_000_000, rounds: int = 5) -> str:
    """The table, in Markdown."""
    lines = []
    with postgres() as source:
        expected = make_source(source, rows)
        for warehouse, contenders in CONTENDERS.items():
            names = {name: text for name, text in contenders.items() if name != "defaults" or rows <= 100_000}
            results = take_turns(
                {name: partial(load_into_empty, name, warehouse, source, expected) for name in names}, rounds
            )
            limit = sorted(one.seconds for one in results[LIMIT])[rounds // 2]
            for name, text in names.items():
                seconds = [one.seconds for one in results[name]]
                ratio = limit / sorted(seconds)[rounds // 2]
                lines.append([f"Postgres → {warehouse}", text, spread(seconds), f"{ratio:.2f}"])
    return table([f"{rows:,} rows", "by", "seconds", "of the limit"], lines)


def make_source(source: str, rows: int) -> Columns:
    """Makes the table in the server at the URL `source`. What is in it, by column."""
    _execute(source, SOURCE.format(rows=rows))
    _execute(source, "VACUUM ANALYZE orders")
    return columns_in_postgres(source, "public")


def load_into_empty(name: str, warehouse: str, source: str, expected: Columns) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        environment = QUIET | {
            "BENCHMARK_SOURCE": source,
            "SOURCES__SQL_DATABASE__CREDENTIALS": source,
            "WAREHOUSE": warehouse,
            "DLT_DATA_DIR": f"{folder}/dlt",
        }
        if name == PLAIN:
            environment["RUNTIME__ACCELERATE"] = "false"
        run = partial(
            measure,
            "benchmarks.databases",
            name,
            warehouse,
            environment=environment,
            says_seconds=name in (FORK, PLAIN),
        )
        if warehouse == "duckdb":
            file = f"{folder}/warehouse.duckdb"
            environment["DESTINATION__DUCKDB__CREDENTIALS"] = file
            done = run()
            found = columns_in_duckdb(file, "raw")
        else:
            with postgres() as target:
                environment["DESTINATION__POSTGRES__CREDENTIALS"] = target
                done = run()
                found = columns_in_postgres(target, "raw")
        assert not (wrong := changed(expected, found)), f"{name} has not loaded what is there: {wrong}"
        return done


def load(name: str, warehouse: str) -> None:
    """One measurement, in a process of its own."""
    if name == LIMIT:
        (_adbc_into_duckdb if warehouse == "duckdb" else _copy_into_postgres)()
    elif name == OURS:
        _ours()
    elif name in (FORK, PLAIN):
        as_a_fork(_ours)
    else:
        _dlt(name, warehouse)


def _ours() -> None:
    import dagster as dg
    from dagster_dlt import DagsterDltResource, dlt_assets
    from dagster_dlt.dlt_event_iterator import DltEventType

    from dlt_sources.sql_database import sql_tables
    from runtime.load.resource import IsolatedDltResource
    from runtime.load.translator import SourceTranslator
    from runtime.load.warehouse import warehouse_pipeline

    @dlt_assets(
        dlt_source=sql_tables("sql_database", ["orders"]),
        dlt_pipeline=warehouse_pipeline("sql_database", "raw"),
        dagster_dlt_translator=SourceTranslator(source="sql_database"),
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        yield from dlt.run(context=context)

    assert dg.materialize([assets], resources={"dlt": IsolatedDltResource()}).success


def _dlt(backend: str, warehouse: str) -> None:
    import dlt
    from dlt.sources.sql_database import sql_database

    of_source: dict[str, Any] = {} if backend == "defaults" else {"backend": "pyarrow", "chunk_size": 50_000}
    of_run: dict[str, Any] = {"loader_file_format": "parquet"} if backend == "pyarrow" else {}
    url = os.environ["BENCHMARK_SOURCE"].replace("postgresql://", "postgresql+psycopg2://")
    source = sql_database(url, table_names=["orders"], **of_source)
    source.orders.apply_hints(write_disposition="merge")
    pipeline = dlt.pipeline("orders", destination=warehouse, dataset_name="raw")
    pipeline.run(source, **of_run)


def _adbc_into_duckdb() -> None:
    import adbc_driver_postgresql.dbapi
    import duckdb

    with (
        adbc_driver_postgresql.dbapi.connect(os.environ["BENCHMARK_SOURCE"]) as source,
        source.cursor() as cursor,
        duckdb.connect(os.environ["DESTINATION__DUCKDB__CREDENTIALS"]) as target,
    ):
        target.execute("SET preserve_insertion_order = false")  # as ours has it
        cursor.execute(f"SELECT {BINARY}, total::text, attributes::text FROM orders")
        target.register("rows", cursor.fetch_record_batch())
        target.execute(
            f"CREATE SCHEMA raw; CREATE TABLE raw.orders AS SELECT {BINARY}, "
            "CAST(total AS DECIMAL(14, 2)) AS total, CAST(attributes AS JSON) AS attributes FROM rows"
        )


def _copy_into_postgres() -> None:
    import threading

    import psycopg2

    columns = (
        "id bigint, customer_id int, title text, reference text, note text, total numeric(14, 2), "
        "weight double precision, paid boolean, due_on date, created_at timestamptz, updated_at timestamptz, "
        "attributes jsonb"
    )
    reading, writing = os.pipe()
    source = psycopg2.connect(os.environ["BENCHMARK_SOURCE"])
    target = psycopg2.connect(os.environ["DESTINATION__POSTGRES__CREDENTIALS"])

    def send() -> None:
        with os.fdopen(writing, "wb") as pipe, source.cursor() as cursor:
            cursor.copy_expert("COPY orders TO STDOUT (FORMAT binary)", pipe)

    sender = threading.Thread(target=send)
    sender.start()
    with os.fdopen(reading, "rb") as pipe, target, target.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA raw; CREATE TABLE raw.orders ({columns})")
        cursor.copy_expert("COPY raw.orders FROM STDIN (FORMAT binary)", pipe, 1024 * 1024)
    sender.join()


def _execute(url: str, sql: str) -> None:
    import psycopg2

    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(sql)


def columns_in_postgres(url: str, schema: str) -> Columns:
    import psycopg2

    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        return _columns(cursor, schema)


def columns_in_duckdb(file: str, schema: str) -> Columns:
    import duckdb

    with duckdb.connect(file, read_only=True) as connection:
        connection.execute("SET enable_progress_bar = false")
        return _columns(connection, schema)


def _columns(cursor: Any, schema: str) -> Columns:
    """By column of the table, its type and digests of its values in order; and how many rows there are."""
    cursor.execute("SET TimeZone = 'UTC'")
    cursor.execute(
        "SELECT column_name, lower(data_type) FROM information_schema.columns "
        f"WHERE table_schema = '{schema}' AND table_name = 'orders'"
    )
    kinds = {column: kind.partition("(")[0] for column, kind in cursor.fetchall()}
    texts = [f"coalesce(CAST({value} AS text), 'NULL')" for value in VALUES.values()]
    digests = ", ".join(f"md5(string_agg({text}, ',' ORDER BY id))" for text in texts)
    # A digest of 100,000 rows each: of all at once, the text would be too long for ten million.
    cursor.execute(f"SELECT count(*), {digests} FROM {schema}.orders GROUP BY id - id % 100000 ORDER BY min(id)")
    counts, *values = zip(*cursor.fetchall(), strict=True)
    columns = zip(VALUES, values, strict=True)
    return {"rows": (f"{sum(counts):,}", "")} | {
        name: (ALIKE.get(kinds[name], kinds[name]), one) for name, one in columns
    }


def changed(expected: Columns, found: Columns) -> str:
    """In words, the columns whose type or values are not those of the source."""
    changes: dict[str, list[str]] = {}
    for column, (kind, values) in expected.items():
        found_kind, found_values = found[column]
        if found_kind != kind:
            changes.setdefault(f"{kind} → {found_kind}", []).append(column)
        if found_values != values:
            changes.setdefault("other values", []).append(column)
    return "; ".join(f"{', '.join(columns)}: {change}" for change, columns in changes.items())


if __name__ == "__main__":
    if len(sys.argv) == 3:
        load(*sys.argv[1:])
    else:
        print(run())
