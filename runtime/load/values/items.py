"""Items are checked as they are extracted: numbers, texts and Arrow types that no column could hold as they are."""

import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Any, NoReturn

import dlt
from dlt.common.json import custom_pua_encode
from dlt.common.libs import is_pandas_frame
from dlt.common.schema import Schema
from dlt.common.wei import Wei
from dlt.extract.hints import HintsMeta
from dlt.extract.items import TableNameMeta
from dlt.extract.resource import DltResource
from dlt.extract.source import DltSource

from runtime.load.values.columns import ValueRefused, as_column, fit, type_of
from runtime.load.values.formats import Fragile, fragile_in
from runtime.load.values.normalizer import LARGEST, SMALLEST, type_of_decimal

ELEMENT = "[]"  # in the path to a value: an element of a list, which is a row of a child table
FRACTION = re.compile(r"\d[.,](\d+)")  # of a second, in a text
SOUND_TYPES = frozenset({bool, type(None), datetime, date})
# What dlt writes for bytes, with a blank in place of none: it reads its mark alone as a text.
NO_BYTES = f"{custom_pua_encode(b'')} "


def check_values(source: DltSource, pipeline: dlt.Pipeline) -> Fragile:
    """Has each item of the selected resources checked as it is extracted.

    In dictionaries, whole numbers beyond 64 bits become decimals, which dlt can store. Arrow tables get the types of
    the table's columns where that changes no value. What CSV files for Postgres cannot hold is noted in the result.

    Raises (while extracting):
        ValueRefused: a number that no decimal column holds exactly, NaN or infinity, or a NUL in a text for Postgres.
    """
    is_postgres = pipeline.destination.destination_type.endswith("postgres")
    fragile: Fragile = {}
    for resource in source.selected_resources.values():
        resource.add_map(ItemCheck(resource, is_postgres, fragile))
    return fragile


def are_sound(values: Iterable[Any], nul: str | None) -> bool:
    """Whether no value needs a closer look. In a hurry: this is called for every item."""
    for value in values:
        kind = type(value)
        if kind is str:
            if nul and nul in value:
                return False
        elif kind is int:
            if not SMALLEST <= value <= LARGEST:
                return False
        elif kind is dict:
            if not are_sound(value.values(), nul):
                return False
        elif kind is list:
            if not are_sound(value, nul):
                return False
        elif kind is float:
            if value - value != 0:  # NaN or infinity
                return False
        elif kind is bytes:
            if not value:
                return False
        elif kind is time:
            if value.tzinfo:
                return False
        elif kind not in SOUND_TYPES:
            return False
    return True


def table_of(resource: DltResource, item: Any, meta: Any) -> str:
    """The name of the table that an item goes to, as the resource gives it."""
    name: Any = resource.table_name
    if isinstance(meta, TableNameMeta):
        name = meta.table_name
    elif isinstance(meta, HintsMeta) and meta.create_table_variant:
        name = meta.hints["table_name"]
    elif callable(name):
        name = name(item)
    return str(name)


def _has_nul(values: Any) -> bool:
    """Whether a text in an Arrow array has a NUL character, or one in the values that it holds."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind, types = values.type, pa.types
    if isinstance(values, pa.ChunkedArray):
        return any(map(_has_nul, values.chunks))
    if types.is_string(kind) or types.is_large_string(kind):
        return bool(pc.any(pc.match_substring(values, "\0")).as_py())
    if types.is_string_view(kind):
        return _has_nul(values.cast(pa.large_string()))
    if types.is_dictionary(kind):
        return _has_nul(values.dictionary) and _has_nul(values.dictionary_decode())
    if types.is_run_end_encoded(kind):
        return _has_nul(values.values)
    if types.is_struct(kind):
        return any(map(_has_nul, values.flatten()))
    if types.is_map(kind):
        return _has_nul(values.keys) or _has_nul(values.items)
    if types.is_nested(kind):  # lists of any kind
        return _has_nul(values.flatten())
    return isinstance(values, pa.ExtensionArray) and _has_nul(values.storage)


class ItemCheck:
    """Checks the items of one resource. Called with each item; returns it, or a copy with what was replaced."""

    def __init__(self, resource: DltResource, is_postgres: bool, fragile: Fragile) -> None:
        self._resource, self._fragile = resource, fragile
        self._nul = "\0" if is_postgres else None
        self._table: str  # of the item that is looked at

    def __call__(self, item: Any, meta: Any = None) -> Any:
        if type(item) is dict and not self._narrow_columns and are_sound(item.values(), self._nul):
            return item
        self._table = dlt.current.source_schema().naming.normalize_tables_path(table_of(self._resource, item, meta))
        if type(item) in (dict, str, int, float, list, Decimal):
            return self._check(item, ())
        if is_pandas_frame(item):
            from dlt.common.libs.pandas import pandas_to_arrow

            item = pandas_to_arrow(item)
        if not (hasattr(item, "schema") and hasattr(item, "from_arrays")):  # no table or batch of Arrow
            return item
        schema = dlt.current.source_schema()
        for name, values in zip(item.schema.names, item.columns, strict=True) if self._nul else ():
            if _has_nul(values):
                self._refuse_nul((name,))
            table, column = self._place((name,))
            if column not in self._fragile.get(table, {}) and (found := fragile_in(values)):
                self._fragile.setdefault(table, {})[column] = found
        return fit(item, self._table, schema, self._declared_columns(schema))

    @cached_property
    def _narrow_columns(self) -> Mapping[tuple[str, str], Mapping[str, Any]]:
        """By table and name, the columns of decimals and times that have a precision of their own."""
        schema = dlt.current.source_schema()
        tables = {name: table["columns"] for name, table in schema.tables.items()}
        if not callable(self._resource.table_name):
            root = schema.naming.normalize_tables_path(str(self._resource.table_name))
            tables = {name: columns for name, columns in tables.items() if name == root or name.startswith(f"{root}__")}
            tables[root] = {**tables.get(root, {}), **self._declared_columns(schema)}
        return {
            (table, name): column
            for table, columns in tables.items()
            for name, column in columns.items()
            if column.get("data_type") in ("decimal", "timestamp", "time") and column.get("precision") is not None
        }

    def _check(self, value: Any, path: tuple[Any, ...]) -> Any:
        match value:
            case dict():
                return {key: self._check(one, (*path, key)) for key, one in value.items()}
            case list():
                return [self._check(one, (*path, ELEMENT)) for one in value]
            case str() if self._nul and self._nul in value:
                self._refuse_nul(path)
            case b"":
                return NO_BYTES
            case time() if value.tzinfo:
                self._refuse(path, f"the time {value}, whose offset no column holds", "Yield a time in UTC, or a text")
            case int() if not SMALLEST <= value <= LARGEST:
                return self._check(Decimal(value), path)
            case float() if not math.isfinite(value):
                self._refuse(path, f"{value}, which JSON cannot hold", "Yield None instead, or an Arrow table")
            case Decimal() if not isinstance(value, Wei):
                self._check_decimal(value, path)
            case str() | float() | datetime() | time() if column := self._narrow_columns.get(self._place(path)):
                self._check_places(value, column, path)
        return value

    def _check_places(self, value: Any, column: Mapping[str, Any], path: tuple[Any, ...]) -> None:
        """Of what dlt coerces to the type of its column, or the warehouse to its precision."""
        if column["data_type"] == "decimal":
            with suppress(InvalidOperation):  # no number: dlt makes a column for texts
                if (number := Decimal(str(value))).is_finite():
                    self._check_decimal(number, path)
            return
        fraction = FRACTION.search(value.isoformat() if isinstance(value, datetime | time) else str(value))
        if fraction and len(fraction[1].rstrip("0")) > column["precision"]:
            self._refuse(path, f"{value}, which its column cannot hold", "Declare a higher precision, or yield a text")

    def _check_decimal(self, value: Decimal, path: tuple[Any, ...]) -> None:
        if not value.is_finite():
            self._refuse(path, f"the decimal {value}", "Yield None instead")
        schema = dlt.current.source_schema()
        table, name = self._place(path)
        known: Any = schema.tables.get(table, {}).get("columns", {})
        declared = {} if ELEMENT in path else self._declared_columns(schema).get(name, {})
        column = {**known.get(name, {}), **declared}
        kind = column.get("data_type")
        own = type_of(column if kind == "decimal" else {"data_type": "decimal"})
        if kind in ("text", "wei") or own.holds(needed := type_of_decimal(value)):
            return
        wide = as_column(own.widened(needed) or own)
        is_said = declared or self._resource.schema_contract or schema.settings.get("schema_contract")
        is_known = ELEMENT not in path or (table in schema.tables and not self._resource.nested_hints)
        if kind in (None, "decimal") and is_known and not is_said and type_of(wide).holds(needed):
            partial: Any = {"name": table, "columns": {name: {"name": name, **wide}}}
            schema.update_table(partial)
            return
        self._refuse(path, f"the number {value}, which its column cannot hold", "Declare more digits, or yield a text")

    def _place(self, path: tuple[Any, ...]) -> tuple[str, str]:
        """The table and the column that a value will be stored in."""
        schema = dlt.current.source_schema()
        naming = schema.naming
        table, column = [self._table], list[str]()
        for key in path:
            if key is ELEMENT:
                table, column = [*table, *column], []
            else:
                column.append(naming.normalize_identifier(str(key)))
        return naming.shorten_fragments(*table), naming.shorten_fragments(*(column or ["value"]))

    def _declared_columns(self, schema: Schema) -> Mapping[str, Any]:
        declared = self._resource.columns
        if not isinstance(declared, Mapping):
            return {}
        return {schema.naming.normalize_path(name): column for name, column in declared.items()}

    def _refuse_nul(self, path: tuple[Any, ...]) -> NoReturn:
        self._refuse(path, "a text with a NUL character, which Postgres cannot store", "Remove it")

    def _refuse(self, path: tuple[Any, ...], value: str, advice: str) -> NoReturn:
        table, column = self._place(path)
        raise ValueRefused(f"{table}, column {column}: found {value}. {advice}. Nothing was loaded.")
