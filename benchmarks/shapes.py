"""Other shapes from Postgres into the warehouse: wide tables, many at once, long texts, and one that changed a little.

As in `databases.py`: whole processes, and what they have loaded is compared value by value.
`python -m benchmarks.shapes CONTENDER WAREHOUSE SHAPE` is one measurement.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from statistics import median
from typing import Any, NamedTuple

from benchmarks.databases import ALIKE, FORK, LIMIT
from benchmarks.isolation import empty
from benchmarks.measure import Measured, as_a_fork, measure, postgres, spread, table, take_turns

DLT = "dlt"
NAMES = {
    LIMIT: "limit: ADBC into DuckDB, COPY into Postgres",
    FORK: "**this deployment**, as its server starts a run",
    DLT: "dlt, backend pyarrow, parquet",
}


class Shape(NamedTuple):
    title: str
    tables: int
    columns: int
    rows: int
    changes: bool = False  # what is measured is a second load, of the rows that have changed
    repeat: int = 1  # of each text

    def names(self) -> list[str]:
        return [f"table_{number}" for number in range(self.tables)]


SHAPES = {
    "wide": Shape("{rows:,} rows x 100 columns", 1, 100, 100_000),
    "many": Shape("50 tables of {rows:,} rows x 12 columns", 50, 12, 20_000),
    "changes": Shape("1 % changed of {rows:,} rows x 12 columns", 1, 12, 1_000_000, changes=True),
    "text": Shape("{rows:,} rows with a text of 10 kB, 1 GB", 1, 4, 100_000, repeat=500),
}
# In turn: what fills a column, and its values in a text that both databases write alike.
FILLED = (
    ("id * {n}::bigint", "CAST({name} AS text)"),
    ("repeat('text {n} of ' || id || '. ', {repeat})", "md5({name})"),
    ("id * 0.25::double precision", "CAST(CAST({name} AS numeric(20, 2)) AS text)"),
    ("timestamptz '2026-01-01 00:00:00+00' + id * interval '{n} s'", "CAST({name} AS text)"),
)


def run(rounds: int = 5, scale: float = 1) -> str:
    """The table, in Markdown. `scale` is for fewer rows."""
    lines = []
    for key, shape in SHAPES.items():
        rows = int(shape.rows * scale)
        with postgres() as source:
            with closing(_connect(source)) as connection:
                _fill(connection.cursor(), shape, rows)
            for warehouse in ("duckdb", "postgres"):
                results = take_turns(
                    {name: partial(_load_into_empty, name, warehouse, source, key) for name in NAMES}, rounds
                )
                limit = median(one.seconds for one in results[LIMIT])
                for name, found in results.items():
                    seconds = [one.seconds for one in found]
                    title = shape.title.format(rows=rows)
                    ratio = f"{limit / median(seconds):.2f}"
                    lines.append([f"{title} → {warehouse}", NAMES[name], spread(seconds), ratio])
    return table(["from Postgres", "by", "seconds", "of the limit"], lines)


def _fill(cursor: Any, shape: Shape, rows: int) -> None:
    filled = [FILLED[n % 4][0].format(n=n, repeat=shape.repeat) + f" AS column_{n}" for n in range(shape.columns - 2)]
    # Not the same for all: dlt reads the rows of the newest moment once more.
    changed = "timestamptz '2020-01-01 00:00:00+00' + id * interval '1 s' AS changed_at"
    for name in shape.names():
        columns = ", ".join(["id::bigint", *filled, changed])
        cursor.execute(f"CREATE TABLE {name} AS SELECT {columns} FROM generate_series(1, {rows}) AS id")
        cursor.execute(f"ALTER TABLE {name} ADD PRIMARY KEY (id)")
    cursor.execute("VACUUM ANALYZE")


def _load_into_empty(name: str, warehouse: str, source: str, key: str) -> Measured:
    shape = SHAPES[key]
    with empty(warehouse) as environment, closing(_connect(source)) as connection:
        cursor = connection.cursor()
        environment |= {"BENCHMARK_SOURCE": source, "SOURCES__SQL_DATABASE__CREDENTIALS": source}
        once = partial(
            measure, "benchmarks.shapes", name, warehouse, key, environment=environment, says_seconds=name == FORK
        )
        done = once()
        if shape.changes:
            cursor.execute(
                "UPDATE table_0 SET changed_at = clock_timestamp(), column_1 = 'changed at ' || clock_timestamp() "
                "WHERE id % 100 = 0"
            )
            done = once()
        target = environment[f"DESTINATION__{warehouse.upper()}__CREDENTIALS"]
        with closing(_open(target, warehouse)) as loaded:
            found, expected = _digests(loaded.cursor(), shape, "raw"), _digests(cursor, shape, "public")
        assert found == expected, f"{name} has not loaded what is there: {found} instead of {expected}"
        return done


def _digests(cursor: Any, shape: Shape, schema: str) -> list[dict[str, Any]]:
    """Of each table, its number of rows, its types and a digest of each column."""
    cursor.execute("SET TimeZone = 'UTC'")
    texts = {f"column_{n}": FILLED[n % 4][1].format(name=f"column_{n}") for n in range(shape.columns - 2)}
    texts["changed_at"] = "CAST(changed_at AS text)"
    digests = ", ".join(f"md5(string_agg({text}, ',' ORDER BY id))" for text in texts.values())
    found = []
    for name in shape.names():
        cursor.execute(
            "SELECT column_name, lower(data_type) FROM information_schema.columns "
            f"WHERE table_schema = '{schema}' AND table_name = '{name}'"
        )
        kinds = {column: ALIKE.get(kind, kind) for column, kind in cursor.fetchall() if column in texts}
        cursor.execute(f"SELECT count(*), {digests} FROM {schema}.{name}")
        found.append(dict(zip(["rows", *texts], cursor.fetchone(), strict=True)) | {"kinds": kinds})
    return found


def _connect(url: str) -> Any:
    import psycopg2

    connection = psycopg2.connect(url)
    connection.autocommit = True
    return connection


def _open(target: str, warehouse: str) -> Any:
    if warehouse == "postgres":
        return _connect(target)
    import duckdb

    connection = duckdb.connect(target)
    connection.execute("SET enable_progress_bar = false")
    return connection


def load(name: str, warehouse: str, key: str) -> None:
    """One measurement, in a process of its own."""
    shape = SHAPES[key]
    if name == LIMIT:
        (_adbc_into_duckdb if warehouse == "duckdb" else _copy_into_postgres)(shape)
    elif name == FORK:
        as_a_fork(partial(_ours, shape))
    else:
        _dlt(shape, warehouse)


def _ours(shape: Shape) -> None:
    import dagster as dg
    from dagster_dlt import DagsterDltResource, dlt_assets
    from dagster_dlt.dlt_event_iterator import DltEventType

    from dlt_sources.sql_database import sql_tables
    from runtime.load.resource import IsolatedDltResource
    from runtime.load.translator import SourceTranslator
    from runtime.load.warehouse import warehouse_pipeline

    @dlt_assets(
        dlt_source=sql_tables("sql_database", shape.names(), cursor="changed_at" if shape.changes else None),
        dlt_pipeline=warehouse_pipeline("sql_database", "raw"),
        dagster_dlt_translator=SourceTranslator(source="sql_database"),
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        yield from dlt.run(context=context)

    assert dg.materialize([assets], resources={"dlt": IsolatedDltResource()}).success


def _dlt(shape: Shape, warehouse: str) -> None:
    import dlt
    from dlt.sources.sql_database import sql_database

    url = os.environ["BENCHMARK_SOURCE"].replace("postgresql://", "postgresql+psycopg2://")
    source = sql_database(url, table_names=shape.names(), backend="pyarrow", chunk_size=50_000)
    for resource in source.resources.values():
        resource.apply_hints(
            write_disposition="merge", incremental=dlt.sources.incremental("changed_at") if shape.changes else None
        )
    dlt.pipeline("shapes", destination=warehouse, dataset_name="raw").run(source, loader_file_format="parquet")


def _adbc_into_duckdb(shape: Shape) -> None:
    import adbc_driver_postgresql.dbapi
    import duckdb

    with (
        adbc_driver_postgresql.dbapi.connect(os.environ["BENCHMARK_SOURCE"]) as source,
        source.cursor() as cursor,
        duckdb.connect(os.environ["DESTINATION__DUCKDB__CREDENTIALS"]) as target,
    ):
        target.execute("SET preserve_insertion_order = false")  # as ours has it
        target.execute("CREATE SCHEMA IF NOT EXISTS raw")
        for name in shape.names():
            known = f"SELECT * FROM information_schema.tables WHERE table_name = '{name}'"
            again = bool(target.execute(known).fetchall())
            newest = target.execute(f"SELECT max(changed_at) FROM raw.{name}").fetchall() if again else [(None,)]
            cursor.execute(_read(name, newest[0][0]))
            target.register("rows", cursor.fetch_record_batch())
            if again:
                target.execute("CREATE TEMP TABLE changes AS SELECT * FROM rows")
                target.execute(f"DELETE FROM raw.{name} WHERE id IN (SELECT id FROM changes)")
                target.execute(f"INSERT INTO raw.{name} SELECT * FROM changes")
            else:
                target.execute(f"CREATE TABLE raw.{name} AS SELECT * FROM rows")


def _copy_into_postgres(shape: Shape) -> None:
    import threading

    with (
        closing(_connect(os.environ["BENCHMARK_SOURCE"])) as source,
        closing(_connect(os.environ["DESTINATION__POSTGRES__CREDENTIALS"])) as target,
        source.cursor() as reader,
        target.cursor() as writer,
    ):
        writer.execute("CREATE SCHEMA IF NOT EXISTS raw")
        kinds = ("bigint", "text", "double precision", "timestamptz")
        columns = ", ".join(f"column_{n} {kinds[n % 4]}" for n in range(shape.columns - 2))
        for name in shape.names():
            writer.execute(f"SELECT to_regclass('raw.{name}')")
            again = writer.fetchone() != (None,)
            into, since = f"raw.{name}", None
            if again:
                writer.execute(f"SELECT max(changed_at) FROM raw.{name}")
                into, [since] = "changes", writer.fetchone()
                writer.execute(f"CREATE TEMP TABLE changes (LIKE raw.{name})")
            else:
                writer.execute(f"CREATE TABLE {into} (id bigint, {columns}, changed_at timestamptz)")
            reading, writing = os.pipe()

            def send(query: str, writing: int) -> None:
                with os.fdopen(writing, "wb") as pipe:
                    reader.copy_expert(f"COPY ({query}) TO STDOUT (FORMAT binary)", pipe)

            sender = threading.Thread(target=send, args=(_read(name, since), writing))
            sender.start()
            with os.fdopen(reading, "rb") as pipe:
                writer.copy_expert(f"COPY {into} FROM STDIN (FORMAT binary)", pipe, 1024 * 1024)
            sender.join()
            if again:
                writer.execute(f"DELETE FROM raw.{name} WHERE id IN (SELECT id FROM changes)")
                writer.execute(f"INSERT INTO raw.{name} SELECT * FROM changes")


def _read(name: str, since: Any) -> str:
    return f"SELECT * FROM {name}" + (f" WHERE changed_at > '{since.isoformat()}'" if since else "")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        load(*sys.argv[1:])
    else:
        print(run())
