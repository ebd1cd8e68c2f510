"""The files in which Arrow tables reach Postgres: CSV, as dlt has it, but Parquet where CSV would change a value.

Of dlt's CSV files, Postgres reads an empty text as NULL, and bytes as text with escapes.
"""

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, NoReturn

import dlt
from dlt.common.schema import Schema
from dlt.common.schema.utils import is_nullable_column

from runtime.load.values.columns import ValueRefused

Fragile = dict[str, dict[str, str]]  # by table and column: what its Arrow tables have that CSV would change

NESTED = "a nested value"
EMPTY_TEXT = "an empty text, which becomes NULL"
BYTES = "bytes, which are read as text"
DICTIONARIES = "yield dictionaries instead of Arrow tables"


def fragile_in(values: Any) -> str | None:
    """What an Arrow array has that a CSV file for Postgres cannot hold."""
    import pyarrow as pa
    import pyarrow.compute as pc

    types = pa.types
    if types.is_nested(values.type):
        return NESTED
    if types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if types.is_string(values.type) or types.is_large_string(values.type):
        return EMPTY_TEXT if pc.any(pc.equal(pc.binary_length(values), 0)).as_py() else None
    if types.is_binary(values.type) or types.is_large_binary(values.type) or types.is_fixed_size_binary(values.type):
        values = values.cast(pa.large_binary())
        if any(pc.any(pc.match_substring(values, mark)).as_py() for mark in ("\\", "\0")):
            return BYTES
        try:
            values.cast(pa.large_string())
        except pa.ArrowInvalid:
            return BYTES
        return BYTES if pc.any(pc.equal(pc.binary_length(values), 0)).as_py() else None
    return None


def keep_fragile(pipeline: dlt.Pipeline, fragile: Fragile) -> None:
    """Has dlt write Parquet for tables whose values CSV would change. Called when all is extracted.

    Raises:
        ValueRefused: there is no such file, or the source or the configuration says CSV.
    """
    if not fragile or not pipeline.destination:
        return
    caps = pipeline.destination.capabilities()
    preferred, own = caps.preferred_loader_file_format, caps.loader_file_format_selector
    tables = set[str]()
    for load_id in pipeline.list_extracted_load_packages():
        schema = pipeline.schemas[pipeline.get_load_package_info(load_id).schema.name]
        for name in fragile.keys() & schema.tables.keys():
            table = schema.tables[name]
            supported = own(preferred, list(caps.supported_loader_file_formats), table_schema=table)[1] if own else ()
            said: str | None = table.get("file_format") or (preferred if preferred in ("csv", "parquet") else None)
            if said == "preferred":
                said = preferred
            for column, found in fragile[name].items():
                if said not in (None, "csv", "parquet"):
                    continue  # rows as SQL: slow, but they hold everything
                if found == NESTED:
                    advice = f"Make it a JSON text in the source, or {DICTIONARIES}"
                    _refuse(name, column, f"{found} in an Arrow table, which cannot be copied into Postgres", advice)
                if (said == "parquet" and "parquet" in supported) or not _is_changed(schema, name, column, found):
                    continue
                if obstacle := _obstacle(table, said, supported):
                    _refuse(name, column, f"{found} if an Arrow table is loaded as CSV", obstacle)
                tables.add(name)
    if tables:
        selector = partial(_without_csv, own, frozenset(tables))
        pipeline.destination.caps_params = {**pipeline.destination.caps_params, "loader_file_format_selector": selector}


def _is_changed(schema: Schema, table: str, column: str, found: str) -> bool:
    """Only in columns that may be NULL, an empty text becomes one."""
    return found != EMPTY_TEXT or is_nullable_column(schema.tables[table]["columns"].get(column, {}))


def _obstacle(table: Any, said: str | None, supported: Collection[str]) -> str | None:
    """Why a table cannot be loaded as Parquet, in the form of what to do."""
    if said == "csv":
        return f"Take the file format csv out of the source or the configuration, or {DICTIONARIES}"
    if "parquet" not in supported:
        return f"Install adbc-driver-postgresql, so that Parquet can be loaded, or {DICTIONARIES}"
    if json := [name for name, column in table["columns"].items() if column.get("data_type") == "json"]:
        return f"Parquet cannot be loaded beside the JSON column {json[0]}: {DICTIONARIES}"
    return None


def _without_csv(
    own: Any, tables: Collection[str], preferred: Any, supported: Sequence[Any], /, *, table_schema: Any
) -> tuple[Any, Sequence[Any]]:
    """dlt then writes Arrow tables as Parquet, and dictionaries as before. A function, for other processes."""
    preferred, supported = own(preferred, supported, table_schema=table_schema)
    is_fragile = table_schema["name"] in tables
    return preferred, [one for one in supported if not (is_fragile and one == "csv")]


def _refuse(table: str, column: str, found: str, advice: str) -> NoReturn:
    raise ValueRefused(f"{table}, column {column}: found {found}. {advice}. Nothing was loaded.")
