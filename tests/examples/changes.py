"""Change data capture: what is inserted, updated and deleted in the shop's database, by logical replication.

Needs dlt's verified source: `cd dlt_sources/verified && ../../.venv/bin/dlt init pg_replication duckdb`.
Variables: SOURCES__SHOP_CHANGES__CREDENTIALS and SOURCES__SHOP_CHANGES__SLOT_NAME, a name of this environment alone.
"""

import inspect
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import dagster as dg
import dlt
import psycopg2
from dagster_dlt import DagsterDltResource, dlt_assets
from dlt.sources.credentials import ConnectionStringCredentials
from dlt.sources.sql_database import sql_table
from dlt_sources.verified.pg_replication import replication_resource  # type: ignore[import-untyped, unused-ignore]
from dlt_sources.verified.pg_replication.helpers import (  # type: ignore[import-untyped, unused-ignore]
    advance_slot,
    init_replication,
)
from pydantic import Field

from dlt_sources import settings
from dlt_sources.errors import PermanentSourceError, TransientSourceError
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import warehouse_pipeline

SOURCE, SCHEMA = "shop_changes", "public"
TABLES = ("orders", "customers")
BATCH = 20_000  # rows in memory. For each batch, Postgres decodes what waits in the slot from the beginning
AGAIN = "Materialize the asset with reload: true, which makes the slot anew and loads the tables again."

# Tables of which changes would be missing or left over, or whose updates Postgres would refuse once they are published.
UNFIT = """
SELECT wanted, CASE
  WHEN t.oid IS NULL THEN 'does not exist'
  WHEN t.relkind <> 'r' THEN 'is no plain table, and its changes would come under another name'
  WHEN t.relreplident <> 'd' THEN 'needs REPLICA IDENTITY DEFAULT'
  WHEN NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = t.oid AND i.indisprimary) THEN 'has no primary key'
  WHEN EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attgenerated <> '')
    THEN 'has a generated column, which changes do not contain'
  WHEN EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
      AND NOT a.atttypid = ANY(%s::regtype[]))
    THEN 'has a column of a type that changes bring in another form or not at all: real, interval, an array, an enum'
  WHEN EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attname IN ('lsn', 'deleted_ts'))
    THEN 'has a column lsn or deleted_ts, which the source overwrites'
END
FROM unnest(%s) wanted LEFT JOIN pg_class t ON t.relname = wanted AND t.relnamespace = %s::regnamespace"""
# The types that come as changes just as they are read.
TYPES = [
    *("bool", "int2", "int4", "int8", "float8", "numeric", "text", "varchar", "bpchar", "bytea", "uuid"),
    *("date", "time", "timestamp", "timestamptz", "json", "jsonb"),
]
UNPUBLISHED = """
SELECT wanted FROM unnest(%s) wanted WHERE NOT EXISTS (
  SELECT FROM pg_publication_tables WHERE pubname = %s AND schemaname = %s AND tablename = wanted)"""
SLOT = """
SELECT confirmed_flush_lsn - '0/0', wal_status, active_pid
FROM pg_replication_slots WHERE slot_name = %s AND database = current_database()"""
KEPT = """
SELECT pg_current_wal_lsn() - '0/0', pg_current_wal_lsn() - restart_lsn, safe_wal_size
FROM pg_replication_slots WHERE slot_name = %s"""
WRITTEN = "SELECT pg_current_wal_insert_lsn() - '0/0'"
FLUSHED = "SELECT pg_current_wal_flush_lsn() - '0/0' >= %s"
PEEK = "pg_logical_slot_peek_binary_changes(%s, {upto}, {changes}, 'proto_version', '1', 'publication_names', %s)"
# How long the oldest waiting transaction has been committed. `B` begins one: its end (8 bytes), its time in µs.
WAITING = f"""
SELECT extract(epoch FROM now() - '2000-01-01 00:00:00Z')
  - ('x' || encode(substring(data FROM 10 FOR 8), 'hex'))::bit(64)::bigint / 1e6
FROM {PEEK.format(upto="NULL", changes="1")} WHERE get_byte(data, 0) = ascii('B') LIMIT 1"""
# What the source passes over: `T` is a TRUNCATE, `U…K` a changed key, `…O` the old row of a REPLICA IDENTITY FULL.
IGNORED = f"""
SELECT count(*) FILTER (WHERE get_byte(data, 0) = ascii('T')), count(*) FILTER (WHERE get_byte(data, 0) <> ascii('T'))
FROM {PEEK.format(upto="%s::pg_lsn", changes="NULL")}
WHERE get_byte(data, 0) = ascii('T') OR get_byte(data, 0) = ascii('U') AND get_byte(data, 5) = ascii('K')
  OR get_byte(data, 0) IN (ascii('U'), ascii('D')) AND get_byte(data, 5) = ascii('O')"""


class Options(dg.Config):
    reload: bool = Field(
        default=False, description="Drop the tables and the slot, make it anew, read the tables again."
    )


class Database:
    """The database whose changes are loaded, and the slot that keeps them for this environment."""

    def __init__(self) -> None:
        self.url = settings.require(SOURCE, "credentials", "to read the shop's changes", secret=True)
        self.slot = settings.require(SOURCE, "slot_name", "to a name that no other environment has: shop_production")
        self.credentials = ConnectionStringCredentials(self.url)

    def rows(self, sql: str, *parameters: Any) -> Sequence[tuple[Any, ...]]:
        connection = psycopg2.connect(self.url)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(sql, parameters)
                return list(cursor.fetchall())
        finally:
            connection.close()

    def prepare(self, is_first: bool, reset: bool) -> None:
        """Checks the tables. Before the first load, makes the publication and the slot, if there are none yet."""
        tables = list(TABLES)
        if unfit := [f"{table} {problem}" for table, problem in self.rows(UNFIT, TYPES, tables, SCHEMA) if problem]:
            raise PermanentSourceError(
                f"Cannot load the changes: {'; '.join(unfit)}. Change it or remove it from TABLES."
            )
        if is_first:
            init_replication(
                slot_name=self.slot,
                pub_name=self.slot,
                schema_name=SCHEMA,
                table_names=tables,
                credentials=self.credentials,
                publish="insert, update, delete, truncate",
                reset=reset,
            )
        if missing := [table for (table,) in self.rows(UNPUBLISHED, tables, self.slot, SCHEMA)]:
            raise PermanentSourceError(f"{', '.join(missing)} is not in the publication {self.slot}. {AGAIN}")

    def written(self) -> int:
        """A position before which every change is in the slot by now; 0 if Postgres has not flushed it to disk yet."""
        [(end,)] = self.rows(WRITTEN)  # between two records: one that is cut by it would be skipped
        for _ in range(20):
            if self.rows(FLUSHED, end) == [(True,)]:
                return int(end)
            time.sleep(0.1)
        return 0

    def check_slot(self, loaded: int | None) -> int:
        """The position of the slot. Raises if it lacks changes after `loaded`, or if somebody else reads it."""
        for _ in range(20):  # Postgres frees it a moment after its reader has left
            [(position, status, reader)] = self.rows(SLOT, self.slot) or [(0, "gone", None)]
            if not reader:
                break
            time.sleep(0.5)
        else:
            raise TransientSourceError(
                f"The slot {self.slot} is being read by the process {reader} of Postgres. It has one reader at a time, "
                "and each environment needs a slot of its own. If nobody needs that process, end it: "
                f"SELECT pg_terminate_backend({reader})."
            )
        if status == "gone":
            raise PermanentSourceError(
                f"The slot {self.slot} is gone, and the changes since the last load with it. {AGAIN}"
            )
        if status == "lost":
            raise PermanentSourceError(
                f"The slot {self.slot} fell behind max_slot_wal_keep_size, and Postgres removed its changes. {AGAIN}"
            )
        if loaded is not None and position > loaded:
            raise PermanentSourceError(
                f"The slot {self.slot} has moved on without this warehouse: it was made anew, or another environment "
                f"reads it. Changes may be missing. {AGAIN}"
            )
        return int(position)

    def check_ignored(self, upto: int) -> None:
        """Raises if the source has passed over any of the changes up to a position."""
        self.check_slot(None)
        [(truncated, moved)] = self.rows(IGNORED, self.slot, f"{upto >> 32:X}/{upto & 0xFFFFFFFF:X}", self.slot)
        if truncated or moved:
            raise PermanentSourceError(
                f"The changes contain {truncated} TRUNCATE and {moved} changes of a primary key or with REPLICA "
                f"IDENTITY FULL, which would leave old rows in the warehouse. Nothing was loaded. {AGAIN}"
            )

    def lag(self, loaded: int) -> dict[str, Any]:
        """How far the warehouse is behind, and how much Postgres keeps for it."""
        advance_slot(loaded, self.slot, self.credentials)
        [(written, kept, left)] = self.rows(KEPT, self.slot)
        waiting = self.rows(WAITING, self.slot, self.slot)
        figures = {
            "lag/bytes": int(written) - loaded,
            "lag/seconds": round(float(waiting[0][0]), 1) if waiting else 0.0,
            "lag/bytes kept by Postgres": int(kept),
            "lag/bytes left before changes are lost": left,  # None without max_slot_wal_keep_size
        }
        return {name: value for name, value in figures.items() if value is not None}


@dlt.source(name=SOURCE, section=SOURCE)
def shop_changes(reset: bool = False) -> Any:
    @dlt.resource(name="changes", write_disposition="merge")
    def changes() -> Iterator[Any]:
        """The shop's tables, brought up to date by each change: one table each, all of them in one load."""
        database, state = Database(), dlt.current.resource_state()
        loaded = state.get("last_commit_lsn")  # the source keeps it, and moves the slot there with the next load
        database.prepare(loaded is None, reset)
        position = database.check_slot(loaded)
        if loaded is not None:
            dlt.current.resource_metrics().update(database.lag(loaded))
        else:
            # Read after the slot was made: a row that changes meanwhile is among the changes, which win by their lsn.
            for table in TABLES:
                yield from snapshot(database, table)
        written = database.written()
        with explained():
            yield from inspect.unwrap(replication_resource)(
                database.slot, database.slot, database.credentials, target_batch_size=BATCH
            )
        # Without changes in these tables the source leaves the slot where it is, and Postgres keeps all that it writes.
        state["last_commit_lsn"] = max(state.get("last_commit_lsn") or 0, position, written)
        database.check_ignored(state["last_commit_lsn"])

    return changes


def snapshot(database: Database, table: str) -> Iterator[Any]:
    """All rows of a table, as changes that are older than every other."""
    rows = sql_table(database.credentials, table, schema=SCHEMA, reflection_level="full_with_precision")
    columns: Any = rows.compute_table_schema()["columns"]
    columns["lsn"] = {"name": "lsn", "data_type": "bigint", "nullable": True, "dedup_sort": "desc"}
    hints = dlt.mark.make_hints(table_name=table, write_disposition="merge", columns=columns)
    yield dlt.mark.with_hints([], hints, create_table_variant=True)
    iterator = iter(rows)
    while chunk := [row | {"lsn": 0} for row in islice(iterator, BATCH)]:
        yield dlt.mark.with_table_name(chunk, table)


@contextmanager
def explained() -> Iterator[None]:
    """The source cannot read an update that leaves a long value as it is, because Postgres does not send the value."""
    try:
        yield
    except ValueError as error:
        if "not 'u'" not in str(error):
            raise
        raise PermanentSourceError(
            "A row was updated whose long text or json did not change: Postgres leaves such a value out, and the "
            "source cannot read on. Move the column to another table; or remove the table from TABLES, load it by a "
            "cursor (sql_tables), and materialize this asset with reload: true."
        ) from error


pipeline = warehouse_pipeline(SOURCE, f"raw_{SOURCE}")


@dlt_assets(
    dlt_source=shop_changes(),
    dlt_pipeline=pipeline,
    name=SOURCE,
    dagster_dlt_translator=SourceTranslator(source=SOURCE),
    pool=SOURCE,  # a slot has one reader
)
def shop_changes_assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource, config: Options) -> Iterator[Any]:
    refresh = "drop_resources" if config.reload else None
    for event in dlt.run(context=context, dlt_source=shop_changes(config.reload), refresh=refresh):
        yield event._replace(metadata=dict[str, Any](event.metadata or {}) | lag_of(pipeline))


def lag_of(loaded: dlt.Pipeline) -> dict[str, Any]:
    """What the last load has measured."""
    info = loaded.last_trace.last_extract_info if loaded.last_trace else None
    packages = info.metrics.values() if info else ()
    found = [metrics["resource_metrics"].get("changes") for package in packages for metrics in package]
    return {name: figure for one in found if one for name, figure in one.custom_metrics.items()}


@dg.schedule(cron_schedule="*/10 * * * *", target=[shop_changes_assets], description="Off until you turn it on.")
def shop_changes_often() -> dg.RunRequest:
    return dg.RunRequest()


defs = dg.Definitions(assets=[shop_changes_assets], schedules=[shop_changes_often])
