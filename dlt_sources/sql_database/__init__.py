"""Tables of a Postgres database, by dlt's own source `sql_database`: types kept, changes merged by primary key.

What is set here, and why:

- **Types arrive as they are**, as Arrow (`adbc.py`), by the reflected types. Numeric is exact: one without a
  precision becomes DECIMAL(38, 9), and a value with more digits fails the load. JSON and arrays are handed over as the
  database writes them, in a JSON column; dlt would parse them into Arrow structs, and 3 would become 3.0. An enum and
  a uuid become text, as does what the warehouse has no type for (interval, inet, money, ranges, a time with a zone).
  An infinite date or time becomes the last or the first that Python knows, `9999-12-31` and `0001-01-01`.
- **Parquet**: in CSV, dlt's default for Arrow into Postgres, an empty string would become null.
- **A change** is a row whose `cursor` column moved, within a run's time window or since the last load. A transaction
  that commits after its moment was read is missed until that window is read again: load the last days once more.
- **A deletion** is a change too: a time in the column `deleted`, which removes the row from the warehouse. Of a row
  that was really deleted nobody tells, so it stays: empty the table in the warehouse and load it anew.
- **An empty table** is made in the warehouse with its first row.

The database is not asked, and no secret is looked up, before a load runs.

Variable: SOURCES__SQL_DATABASE__CREDENTIALS, as `postgresql://user:password@host:5432/database`.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

import adbc_driver_manager
import dlt
import psycopg2
import sqlalchemy as sa
from dlt.extract import DltSource
from dlt.sources.sql_database import sql_database
from sqlalchemy.types import TypeEngine

from dlt_sources.http import PermanentSourceError, TransientSourceError
from dlt_sources.sql_database import adbc

__all__ = ["sql_row", "sql_tables"]

VARIABLE = "SOURCES__SQL_DATABASE__CREDENTIALS"
# What the server says when another try would end alike. The driver has no codes for a connection that never was.
REFUSALS = ("authentication failed", "does not exist", "no pg_hba.conf entry")
# Types that arrive as they are; numbers with digits, arrays and JSON as the database writes them; all others as text.
BINARY = (sa.Boolean, sa.Date, sa.DateTime, sa.Float, sa.Integer, sa.LargeBinary, sa.String, sa.Time)
WRITTEN = (sa.Numeric, sa.ARRAY, sa.JSON)
# A primary key is unique there: no need to look for duplicates, nor to delete and insert, which takes longer. Not with
# rows that are marked as deleted: dlt's upsert would insert those that the warehouse has never had.
UPSERT: Any = {"disposition": "merge", "strategy": "upsert"}
# Arrow has no infinite moment, and the driver would make a wrong one of it.
INFINITE = {
    "'infinity'": "'9999-12-31 23:59:59.999999Z'",
    "'-infinity'": "'0001-01-01 00:00:00Z'",
}


def sql_tables(
    name: str,
    tables: Sequence[str],
    cursor: str | None = None,
    deleted: str | None = None,
    credentials: str | None = None,
    schema: str = "public",
) -> DltSource:
    """`tables` of the database, each merged on its primary key.

    `name` is the source's schema in the warehouse: one per set of tables, as the sets load at the same time. With a
    `cursor`, a timestamptz that moves with every change, only what changed is read; without, whole tables are.
    `deleted` names the column that marks a row as deleted.
    """
    source = sql_database.clone(name=name, section="sql_database")(
        credentials=_engine(credentials),
        schema=schema,
        table_names=list(tables),
        backend="pyarrow",
        backend_kwargs={"connect": partial(_connect, adbc.connect, credentials)},
        table_loader_class=adbc.AdbcTableLoader,
        defer_table_reflect=True,
        detect_precision_hints=None,  # deprecated, and by default not left out
        table_adapter_callback=_demand_primary_key,
        type_adapter_callback=_known_type,
        query_adapter_callback=_as_read,
    )
    for resource in source.resources.values():
        resource.apply_hints(
            write_disposition="merge" if deleted else UPSERT,
            file_format="parquet",
            columns={deleted: {"name": deleted, "hard_delete": True}} if deleted else None,
            incremental=dlt.sources.incremental[datetime](cursor) if cursor else None,
        )
    return source.parallelize()  # the next batch is read while one is written


def sql_row(statement: str, credentials: str | None = None, **parameters: Any) -> tuple[Any, ...]:
    """The one row that a query in the database gives, to check a load against. Parameters stand as `:name`."""
    with _engine(credentials).connect() as connection:
        return tuple(connection.execute(sa.text(statement), parameters).one())


def _engine(credentials: str | None) -> sa.Engine:
    """The database, for reflection and single rows. dlt would resolve the variable when the source is made: a location
    without it could not be loaded."""
    return sa.create_engine(
        "postgresql+psycopg2://", creator=partial(_connect, psycopg2.connect, credentials), poolclass=sa.NullPool
    )


def _connect(driver: Callable[[str], Any], credentials: str | None) -> Any:
    """A connection of either driver to what `credentials`, else SOURCES__SQL_DATABASE__CREDENTIALS, names now."""
    url = _url(credentials)
    try:
        return driver(url.render_as_string(hide_password=False))
    except (psycopg2.OperationalError, adbc_driver_manager.OperationalError) as error:
        said = " ".join(str(error).split())
        kind = PermanentSourceError if any(refusal in said for refusal in REFUSALS) else TransientSourceError
        host = url.query.get("host") or url.host
        message = f"The database {url.database} at {host} cannot be reached, or refuses; check {VARIABLE}: {said}"
    raise kind(message.replace(str(url.password or "***"), "***"))


def _url(given: str | None) -> sa.URL:
    """The URL as libpq wants it. Its parts stay out of messages: what is malformed may be a password."""
    text = str(given or dlt.secrets.get("sources.sql_database.credentials") or "").strip()
    if not text:
        raise PermanentSourceError(f"{VARIABLE} is missing or empty: set it to read from the database.")
    with suppress(sa.exc.ArgumentError, ValueError):
        url = sa.make_url(text)
        if url.get_backend_name() == "postgresql" and url.database:
            return url.set(drivername="postgresql")
    raise PermanentSourceError(f"{VARIABLE} has to look like postgresql://user:password@host:5432/database.")


def _demand_primary_key(table: sa.Table) -> None:
    if not table.primary_key:
        raise PermanentSourceError(f"The table {table.name} has no primary key to merge on: give it one, or leave it.")


def _known_type(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    """The type as dlt's reflection knows it: it has none for floats, and would leave out columns of others."""
    if isinstance(kind, sa.Float):
        return sa.Numeric(asdecimal=False)
    return kind if _is_binary(kind) or isinstance(kind, WRITTEN) else sa.Text()


def _as_read(query: sa.Select[Any], table: sa.Table) -> sa.Select[Any]:
    """Has the database write what only it can write without loss."""
    return query.with_only_columns(*(_without_loss(column).label(column.name) for column in table.columns))


def _without_loss(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    kind = column.type
    if isinstance(kind, sa.Date | sa.DateTime):
        finite: list[Any] = [
            (column == sa.literal_column(never), sa.literal_column(moment)) for never, moment in INFINITE.items()
        ]
        return sa.case(*finite, else_=column)
    if isinstance(kind, sa.ARRAY):
        return sa.cast(sa.func.to_json(column), sa.Text)
    return column if _is_binary(kind) else sa.cast(column, sa.Text)


def _is_binary(kind: TypeEngine[Any]) -> bool:
    return isinstance(kind, BINARY) and not (isinstance(kind, sa.Time) and kind.timezone)
