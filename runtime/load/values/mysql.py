"""MySQL and MariaDB: texts and bytes of any length, compared as they are, or a refusal where values would be changed.

dlt's columns for texts end at 64 KB and compare as the server is set up to: usually 'a', 'A' and 'á' are one key there,
and a merge keeps one of its rows. Without the strict mode, the server cuts what does not fit, and reports success.
"""

from collections.abc import Sequence
from typing import Any

from dlt.common.schema import Schema
from dlt.destinations.impl.sqlalchemy.dialect import MysqlDialectCapabilities, register_dialect_capabilities
from dlt.destinations.impl.sqlalchemy.sqlalchemy_job_client import SqlalchemyJobClient
from dlt.destinations.impl.sqlalchemy.type_mapper import MysqlVariantTypeMapper
from dlt.destinations.job_client_impl import SqlJobClientBase
from sqlalchemy.dialects.mysql import LONGBLOB, LONGTEXT, VARCHAR

from runtime.load.values.columns import ValueRefused

DIALECTS = ("mysql", "mariadb")


class TypeMapper(MysqlVariantTypeMapper):
    """dlt's types of columns, but for texts and bytes."""

    def db_type_from_text_type(self, column: Any, table: Any) -> Any:
        """The longest text, or one with a length. In this collation, two texts differ unless only by spaces at the end.

        Collations for those, too, depend on the server, and dlt makes some of its tables before it has connected.
        """
        text: Any = super().db_type_from_text_type(column, table)
        length = text.length
        exact = {"charset": "utf8mb4", "collation": "utf8mb4_bin"}
        return VARCHAR(length, **exact) if length else LONGTEXT(**exact)

    def db_type_from_binary_type(self, column: Any, table: Any) -> Any:
        """The longest, if no length is declared."""
        return super().db_type_from_binary_type(column, table) if column.get("precision") else LONGBLOB()


class Capabilities(MysqlDialectCapabilities):
    """As dlt's, with our types."""

    def type_mapper_class(self) -> Any:
        """The types of columns."""
        return TypeMapper


def register() -> None:
    """Has dlt make its columns in MySQL and MariaDB with our types."""
    for dialect in DIALECTS:
        register_dialect_capabilities(dialect, Capabilities)


def check_server(client: SqlJobClientBase, schema: Schema, tables: Sequence[str]) -> None:
    """Raises ValueRefused if the server would cut values, or merge keys that differ. Called before the load.

    Does nothing for databases other than MySQL and MariaDB.
    """
    if not isinstance(client, SqlalchemyJobClient) or client.sql_client.dialect_name not in DIALECTS:
        return
    [(mode,)] = client.sql_client.execute_sql("SELECT @@sql_mode") or [("",)]
    if "STRICT_" not in mode:
        raise ValueRefused(
            f"The server cuts values that do not fit into their columns, because its sql_mode {mode!r} is not strict. "
            "Add STRICT_ALL_TABLES to it. Nothing was loaded."
        )
    found = client.sql_client.execute_sql(
        "SELECT table_name, column_name, collation_name FROM information_schema.columns WHERE table_schema = %s",
        client.sql_client.dataset_name,
    )
    for table, name, collation in found or ():
        column: Any = schema.tables[table]["columns"].get(name, {}) if table in tables else {}
        is_key = column.get("primary_key") or column.get("merge_key")
        if is_key and collation and not collation.endswith("_bin"):
            raise ValueRefused(
                f"{table}, column {name}: in its collation {collation}, keys such as 'a' and 'A' are equal, and a "
                f"merge would lose rows. ALTER TABLE {table} CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin. "
                "Nothing was loaded."
            )
