"""dlt's table loader over ADBC: Postgres sends rows by binary COPY, which become Arrow without Python objects.

Of dlt's own backends, `pyarrow` creates a Python object for each value, and `connectorx` drops the time zone of a
timestamptz. `benchmarks/README.md` compares them.
"""

from collections.abc import Callable, Iterator
from functools import cache
from threading import Lock
from typing import Any

import adbc_driver_postgresql.dbapi
import pyarrow as pa
from adbc_driver_manager.dbapi import Connection
from dlt.common.configuration.container import Container
from dlt.common.destination import DestinationCapabilitiesContext
from dlt.common.libs.pyarrow import dlt_column_to_arrow_field
from dlt.sources.sql_database import BaseTableLoader
from sqlalchemy.dialects import postgresql

_connecting = Lock()


def connect(url: str) -> Connection:
    """A connection that shares the types of the first one: asking a server for all its types takes long."""
    with _connecting:
        return _first_connection(url).adbc_clone()


@cache
def _first_connection(url: str) -> Connection:
    # It stays open, so it must not keep a transaction.
    first: Connection = adbc_driver_postgresql.dbapi.connect(url, autocommit=True)
    return first


class AdbcTableLoader(BaseTableLoader):
    """Yields one Arrow table per batch, with columns of the types that dlt has reflected."""

    def load_rows(self, backend_kwargs: dict[str, Any] | None = None) -> Iterator[pa.Table]:
        """`backend_kwargs["connect"]` opens a connection to the database."""
        connect: Callable[[], Connection] = (backend_kwargs or {})["connect"]
        # COPY takes no parameters. The driver's own parameter style would double each % in a column's name.
        dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
        query = str(self.make_query().compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
        with connect() as connection, connection.cursor() as cursor:
            cursor.execute(query)
            for batch in cursor.fetch_record_batch():  # of 16 MiB
                if batch.num_rows:
                    yield self._typed(pa.Table.from_batches([batch]))

    def _typed(self, table: pa.Table) -> pa.Table:
        caps = Container().get(DestinationCapabilitiesContext) or DestinationCapabilitiesContext.generic_capabilities()
        fields = [dlt_column_to_arrow_field(self.columns[name], caps, "UTC") for name in table.column_names]
        columns = []
        for column, field in zip(table.columns, fields, strict=True):
            try:
                columns.append(column.cast(field.type))
            except pa.ArrowInvalid as error:
                raise ValueError(f"field `{field.name}` of {self.table.name}: {error}") from error
        return pa.table(columns, schema=pa.schema(fields))
