"""Tables of a Postgres database, by dlt's own source `sql_database`: types kept, changes merged by primary key.

- **Types** are those of the database, read as Arrow (`adbc.py`). Numeric is exact: without a precision it becomes
  DECIMAL(38, 9), and a value with more digits fails the load. JSON and arrays become JSON columns with the text that
  the database writes; dlt would parse them into Arrow structs, and 3 would become 3.0. Enum and uuid become text, as do
  types that the warehouse does not have (interval, inet, money, ranges, time with time zone). Infinite dates and times
  become the last or the first that Python supports, `9999-12-31` and `0001-01-01`.
- **Files** are Parquet: in CSV, dlt's default for Arrow into Postgres, an empty string would become null.
- **Changes** are rows whose `cursor` column moved, within a run's time window or since the last load. A transaction
  that commits after its time was read is missed until that window is read again: reload the last days regularly. Rows
  without a time in `cursor` are read with every load.
- **Deletions** are changes too: a time in the column `deleted` removes the row from the warehouse. A row that is
  deleted in the database itself stays: empty the table in the warehouse and load it again.
- **An empty table** is created in the warehouse with its first row.
- **Comments** on columns become the descriptions of the warehouse's columns.

Creating the source needs neither the database nor a secret.

Variables: SOURCES__SQL_DATABASE__CREDENTIALS, as `postgresql://user:password@host:5432/database`; for hashed columns
SOURCES__SQL_DATABASE__HASH_SALT.
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
from dlt.sources.sql_database.schema_types import default_table_adapter
from sqlalchemy.types import TypeEngine

from dlt_sources import settings
from dlt_sources.errors import PermanentSourceError, TransientSourceError
from dlt_sources.personal_data import protect
from dlt_sources.sql_database import adbc

__all__ = ["sql_row", "sql_tables"]

VARIABLE = settings.variable("sql_database", "credentials")
# The server's messages for errors that a retry would not solve: a failed connection has no error code in the driver.
PERMANENT = ("authentication failed", "does not exist", "no pg_hba.conf entry")
# Types that are read in binary form, and types that are read as the text that the database writes. All others become
# text columns.
BINARY = (sa.Boolean, sa.Date, sa.DateTime, sa.Float, sa.Integer, sa.LargeBinary, sa.String, sa.Time)
AS_TEXT = (sa.Numeric, sa.ARRAY, sa.JSON)
# Faster than delete and insert, and needs no search for duplicates: a primary key is unique in the database. Not for
# tables with a column for deletions: dlt's upsert would insert deleted rows that the warehouse has never had.
UPSERT: Any = {"disposition": "merge", "strategy": "upsert"}
# Arrow has no infinite times; the driver would convert them to wrong ones.
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
    key: Sequence[str] = (),
    left_out: Sequence[str] = (),
    hashed: Sequence[str] = (),
) -> DltSource:
    """`tables` of the database, each merged on its primary key or on the columns `key`.

    `name` is the name of dlt's schema: one per set of tables, so that the sets can be loaded at the same time. With a
    `cursor`, a timestamptz that moves with every change, only changed rows are read, else whole tables. `deleted` is
    the column that marks a row as deleted. Columns that are `left_out` are not read, others are loaded `hashed`
    (`dlt_sources/personal_data.py`). All of these options hold for each of the tables.
    """
    source = sql_database.clone(name=name, section="sql_database")(
        credentials=_engine(credentials),
        schema=schema,
        table_names=list(tables),
        backend="pyarrow",
        backend_kwargs={"connect": partial(_connect, adbc.connect, credentials)},
        table_loader_class=adbc.AdbcTableLoader,
        defer_table_reflect=True,
        detect_precision_hints=None,  # deprecated: its default would log a warning
        table_adapter_callback=partial(_prepare, key=key, left_out=left_out, hashed=hashed),
        type_adapter_callback=_known_type,
        query_adapter_callback=_lossless_query,
    )
    for resource in source.resources.values():
        resource.apply_hints(
            write_disposition="merge" if deleted else UPSERT,
            file_format="parquet",
            columns={deleted: {"name": deleted, "hard_delete": True}} if deleted else None,
            incremental=dlt.sources.incremental[datetime](cursor, on_cursor_value_missing="include")
            if cursor
            else None,
        )
        protect(resource, "sql_database", hashed)
    return source.parallelize()  # reads the next batch while one is written


def sql_row(statement: str, credentials: str | None = None, **parameters: Any) -> tuple[Any, ...]:
    """The only row of a query in the database, to check a load. Parameters are written as `:name`."""
    with _engine(credentials).connect() as connection:
        return tuple(connection.execute(sa.text(statement), parameters).one())


def _engine(credentials: str | None) -> sa.Engine:
    """The database, for reflection and single rows. The variable is read on connecting; dlt would read it when the
    source is created, and a location without it could not be loaded."""
    return sa.create_engine(
        "postgresql+psycopg2://", creator=partial(_connect, psycopg2.connect, credentials), poolclass=sa.NullPool
    )


def _connect(driver: Callable[[str], Any], credentials: str | None) -> Any:
    """A connection of either driver to the database of `credentials`, else SOURCES__SQL_DATABASE__CREDENTIALS."""
    url = _url(credentials)
    try:
        return driver(url.render_as_string(hide_password=False))
    except (psycopg2.OperationalError, adbc_driver_manager.OperationalError) as error:
        said = " ".join(str(error).split())
        kind = PermanentSourceError if any(text in said for text in PERMANENT) else TransientSourceError
        host = url.query.get("host") or url.host
        message = f"Cannot connect to the database {url.database} at {host}; check {VARIABLE}: {said}"
    raise kind(message.replace(str(url.password or "***"), "***"))


def _url(given: str | None) -> sa.URL:
    """The URL in libpq's form. Messages show no part of it: a malformed URL may have its password anywhere."""
    text = settings.require("sql_database", "credentials", "to read from the database", given, secret=True)
    with suppress(sa.exc.ArgumentError, ValueError):
        url = sa.make_url(text)
        if url.get_backend_name() == "postgresql" and url.database:
            return url.set(drivername="postgresql")
    raise PermanentSourceError(f"{VARIABLE} must look like postgresql://user:password@host:5432/database.")


def _prepare(table: sa.Table, key: Sequence[str], left_out: Sequence[str], hashed: Sequence[str]) -> sa.Table:
    """A checked copy of a reflected table, which dlt keeps, and its columns described by the database's comments."""
    if unknown := [name for name in (*key, *left_out, *hashed) if name not in table.columns]:
        raise PermanentSourceError(f"The table {table.name} has no column {', '.join(unknown)}: correct the name.")
    table = table.to_metadata(sa.MetaData())
    default_table_adapter(table, None, list(left_out))
    for name in hashed:
        table.columns[name].type = sa.Text()
    if key:
        table.append_constraint(sa.PrimaryKeyConstraint(*key))
    if not table.primary_key:
        raise PermanentSourceError(
            f"The table {table.name} has no primary key to merge on: add one, name its columns as `key`, or remove "
            "the table from the source."
        )
    described: dict[str, Any] = {
        column.name: {"name": column.name, "description": column.comment} for column in table.columns if column.comment
    }
    if described:
        dlt.current.resource().apply_hints(columns=described)
    return table


def _known_type(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    """A type that dlt's reflection knows: it has none for floats, and leaves out columns of unknown types."""
    if isinstance(kind, sa.Float):
        return sa.Numeric(asdecimal=False)
    return kind if _is_binary(kind) or isinstance(kind, AS_TEXT) else sa.Text()


def _lossless_query(query: sa.Select[Any], table: sa.Table) -> sa.Select[Any]:
    """A query in which the database writes what the driver would read with a loss."""
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
