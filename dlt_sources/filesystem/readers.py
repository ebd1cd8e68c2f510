"""The file formats: how each becomes rows, and when a file is broken."""

import csv
import json as stdlib_json
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from decimal import Decimal
from typing import IO, Any, TypeAlias

import dlt
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet
from dlt.common import json
from dlt.common.arithmetics import DEFAULT_NUMERIC_PRECISION, DEFAULT_NUMERIC_SCALE
from dlt.common.libs.pyarrow import UnsupportedArrowTypeException, py_arrow_to_table_schema_columns
from dlt.common.normalizers.json.relational import DataItemNormalizer
from dlt.common.normalizers.naming import NamingConvention

Rows: TypeAlias = pa.RecordBatch | list[dict[str, Any]]
Columns: TypeAlias = defaultdict[str, set[str]]  # the names of the columns, by table

ROWS_AT_A_TIME = 10_000
ROW_BYTES = 32 * 1024 * 1024  # maximum of a CSV row: pyarrow reads in blocks, and a row must fit into one
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MANY_DIGITS = re.compile(rb"\d[\d.]{16}")  # what a double may not hold
NUL = {"csv": re.compile(rb"\0"), "jsonl": re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")}
POSTGRES_COLUMNS = 1_590  # its limit of 1,600, and the columns that dlt and this source add
csv.field_size_limit(ROW_BYTES)  # for the whole process; Python's default of 131,072 is too small for long texts


class BrokenFile(Exception):
    """A file that is not of the format in its name. The message begins with the line number, if there is one."""


def read_csv(file: IO[bytes]) -> Iterator[Rows]:
    """Batches of unconverted text, as CSV has no types. An empty field is null, a quoted empty one is empty text.

    It takes two readers: Python's reports the line of an error, and pyarrow distinguishes quoted empty fields.
    """
    header = _checked_header(file)
    file.seek(0)
    if header:
        yield from pa.csv.open_csv(
            file,
            pa.csv.ReadOptions(block_size=ROW_BYTES, use_threads=False),
            pa.csv.ParseOptions(newlines_in_values=True),
            pa.csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )


def _checked_header(file: IO[bytes]) -> list[str]:
    """The column names of a file whose rows are all complete; an empty list if it has no rows."""
    reader = csv.reader(_lines_of_text(file), strict=True)
    header: list[str] | None = None
    begins, rows = 1, 0
    try:
        for row in reader:
            if row and header is None:
                header = row
            elif row and header and len(row) != len(header):
                raise BrokenFile(f"line {begins}: {len(row)} fields, but the header has {len(header)}")
            else:
                rows += bool(row)
            begins = reader.line_num + 1
    except csv.Error as error:
        raise BrokenFile(f"line {begins}: {error}") from error
    if header is None:
        raise BrokenFile("line 1: the file is empty; a CSV file must begin with its column names")
    if "" in header or len({*header}) < len(header):
        raise BrokenFile(f"line 1: column names must be unique and not empty, unlike {', '.join(map(repr, header))}")
    return header if rows else []


def _lines_of_text(file: IO[bytes]) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        try:
            yield (line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line).decode()
        except UnicodeDecodeError as error:
            raise BrokenFile(f"line {number}: not UTF-8 ({error.reason} at byte {error.start})") from error


def read_jsonl(file: IO[bytes]) -> Iterator[Rows]:
    """Lists of the objects in the lines; blank lines are skipped."""
    rows = []
    for number, line in enumerate(file, start=1):
        text = (line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line).strip()
        if not text:
            continue
        try:
            row = _exact(text.decode()) if MANY_DIGITS.search(text) else json.loadb(text)
        except ValueError as error:
            raise BrokenFile(f"line {number}: not JSON ({error})") from error
        except Inexact as error:
            raise BrokenFile(f"line {number}: the number {error} has more digits than a decimal column") from error
        if not isinstance(row, dict):
            raise BrokenFile(f"line {number}: expected an object, found a {type(row).__name__}")
        rows.append(row)
        if len(rows) == ROWS_AT_A_TIME:
            yield rows
            rows = []
    if rows:
        yield rows


class Inexact(Exception):
    """A number that no column holds exactly."""


def _exact(text: str) -> Any:
    """The JSON value with exact numbers. dlt's parser makes the nearest double of those with many digits."""
    return stdlib_json.loads(text, parse_int=_exact_integer, parse_float=_exact_number, parse_constant=_no_number)


def _exact_integer(digits: str) -> int | Decimal:
    if len(digits.lstrip("-")) > DEFAULT_NUMERIC_PRECISION - DEFAULT_NUMERIC_SCALE:
        raise Inexact(digits)
    number = int(digits)
    return number if -(2**63) <= number < 2**63 else Decimal(number)  # which dlt can store


def _exact_number(digits: str) -> float | Decimal:
    exact, double = Decimal(digits), float(digits)
    if Decimal(repr(double)) == exact:
        return double
    beyond = -int(exact.as_tuple().exponent) - DEFAULT_NUMERIC_SCALE  # how many places
    has_places = beyond > 0 and any(exact.as_tuple().digits[-beyond:])
    if has_places or exact.adjusted() >= DEFAULT_NUMERIC_PRECISION - DEFAULT_NUMERIC_SCALE:
        raise Inexact(digits)
    return exact


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def read_parquet(file: IO[bytes]) -> Iterator[Rows]:
    """Batches with the types of the file, but every column nullable, as the next file may lack it."""
    try:
        parquet = pa.parquet.ParquetFile(file)
        schema = pa.schema([field.with_nullable(True) for field in parquet.schema_arrow])
        for batch in parquet.iter_batches(ROWS_AT_A_TIME):
            yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)
    except (pa.ArrowException, OSError) as error:
        raise BrokenFile(f"not Parquet, or incomplete ({error})") from error


READERS: Mapping[str, Callable[[IO[bytes]], Iterator[Rows]]] = {
    "csv": read_csv,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
}


class SameTypes:
    """Gives the Arrow batches of all files of a load the types of the first one: dlt writes them into one file.

    Of types with the same values, it takes the one that dlt gives to a column that a file lacks. `known` are the
    columns that the table has already. They have a type that may be wider than that of the first file.
    """

    def __init__(self, known: Collection[str]) -> None:
        self._known, self._naming = set(known), dlt.current.source_schema().naming
        self._types: dict[str, tuple[pa.DataType, str]] = {}

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Raises BrokenFile if a value would be changed."""
        arrays, fields = list(batch.columns), list(batch.schema)
        for number, field in enumerate(fields):
            wanted, path = self._types.get(field.name, (_plain(field.type), ""))
            if wanted == field.type or pa.types.is_null(field.type):
                continue
            if (made := _as(wanted, arrays[number])) is not None:
                arrays[number], fields[number] = made, field.with_type(wanted)
            elif path and _normalized(field.name, self._naming) not in self._known:
                raise BrokenFile(
                    f"the column {field.name} is {field.type} here but {wanted} in {path}, which is loaded now. "
                    "The next load tries this file again"
                )
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))

    def remember(self, schema: pa.Schema, path: str) -> None:
        """The types of a file that is loaded."""
        for field in schema:
            if not pa.types.is_null(field.type):
                self._types.setdefault(field.name, (field.type, path))


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type for which dlt has a name."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_floating(kind):
        return pa.float64()
    if pa.types.is_large_string(kind):
        return pa.string()
    return pa.binary() if pa.types.is_large_binary(kind) else kind


def _as(wanted: pa.DataType, values: pa.Array) -> pa.Array | None:
    """The values in a type of the same kind; None if there is none, or one would be changed."""
    types = pa.types
    kinds: list[Callable[[pa.DataType], bool]] = [
        types.is_integer,
        types.is_floating,
        types.is_decimal,
        types.is_time,
        lambda kind: types.is_string(kind) or types.is_large_string(kind),
        lambda kind: types.is_binary(kind) or types.is_large_binary(kind),
    ]
    if types.is_dictionary(values.type):
        values = values.dictionary_decode()
    found = values.type
    is_moment = all(map(types.is_timestamp, (found, wanted))) and bool(found.tz) == bool(wanted.tz)
    if not (is_moment or any(kind(found) and kind(wanted) for kind in kinds)):
        return None
    try:
        made = values.cast(wanted)
        return made if made.cast(found).equals(values) else None
    except pa.ArrowInvalid:
        return None


class KeyCheck:
    """Finds the columns that JSON objects become in a table and its child tables, as dlt takes objects apart."""

    def __init__(self, table: str, reserved: Collection[str]) -> None:
        resource = dlt.current.source().resources[table]
        self._schema = dlt.current.source_schema()
        self._table = self._schema.naming.normalize_table_identifier(table)
        self._reserved = reserved
        self._declared = resource.compute_table_schema()["columns"]
        levels = resource.max_table_nesting, dlt.current.source().max_table_nesting
        self._levels = next((level for level in levels if level is not None), 1000)  # dlt's default
        self._fine = set[tuple[str, ...]]()  # keys of flat rows

    def __call__(self, rows: list[dict[str, Any]], first: int, columns: Columns) -> None:
        """Adds to `columns`. Raises if two keys with different values become one column or one child table."""
        for number, row in enumerate(rows, start=first):
            is_flat = not any(type(value) in (dict, list) for value in row.values())
            if is_flat and tuple(row) in self._fine:
                continue
            for key in row:
                if _normalized(key, self._schema.naming) in self._reserved:
                    raise BrokenFile(f"row {number}: the key {key!r} is the name of a column that this source adds")
            self._check(row, (self._table,), self._levels, number, columns)
            if is_flat and None not in row.values():
                self._fine.add(tuple(row))

    def _check(self, one: dict[str, Any], table: tuple[str, ...], level: int, number: int, columns: Columns) -> None:
        naming = self._schema.naming
        found: dict[tuple[str, bool], tuple[str, Any]] = {}
        for path, value, is_list in self._leaves(one, naming.shorten_fragments(*table), level):
            if value is None or (is_list and not value):
                continue
            names = [_normalized(key, naming) for key in path]
            name = naming.shorten_fragments(*names)
            other, known = found.setdefault((name, is_list), (".".join(path), value))
            if known is not value and (type(known), known) != (type(value), value):
                raise BrokenFile(f"row {number}: the keys {other!r} and {'.'.join(path)!r} both become {name}")
            if not is_list:
                columns[naming.shorten_fragments(*table)].add(name)
            for item in value if is_list else ():
                if type(item) is dict:
                    self._check(item, (*table, *names), level - 1, number, columns)
                elif type(item) is list:  # dlt makes a table for the outer list, too
                    self._check({"list": item}, (*table, *names), level - 2, number, columns)

    def _leaves(
        self, one: dict[str, Any], table: str, level: int, path: tuple[str, ...] = ()
    ) -> Iterator[tuple[tuple[str, ...], Any, bool]]:
        """The values of an object: their keys, and whether they become a child table."""
        for key, value in one.items():
            is_nested = type(value) in (dict, list) and not self._is_json(table, (*path, key), level)
            if is_nested and type(value) is dict:
                yield from self._leaves(value, table, level - 1, (*path, key))
            else:
                yield (*path, key), value, is_nested

    def _is_json(self, table: str, path: tuple[str, ...], level: int) -> bool:
        """Whether an object or a list is stored as it is, in a column."""
        if level <= 0:
            return True
        name = self._schema.naming.shorten_fragments(*(_normalized(key, self._schema.naming) for key in path))
        known: Any = self._schema.tables.get(table, {}).get("columns", {}).get(name, {})
        declared: Any = self._declared.get(name, {}) if table == self._table else {}
        return bool({**known, **declared}.get("data_type") == "json")


def _normalized(key: str, naming: NamingConvention) -> str:
    return naming.normalize_identifier(key) if key and not key.isspace() else DataItemNormalizer.EMPTY_KEY_IDENTIFIER


def table_columns(table: str) -> Mapping[str, Any]:
    """The columns that a table has, by name."""
    schema = dlt.current.source_schema()
    return schema.tables.get(schema.naming.normalize_table_identifier(table), {"columns": {}})["columns"]


def known_columns(table: str) -> Columns:
    """The names of the columns that a table and its child tables have."""
    schema = dlt.current.source_schema()
    root, columns = schema.naming.normalize_table_identifier(table), Columns(set)
    for name, found in schema.tables.items():
        if name == root or name.startswith(f"{root}__"):
            columns[name] = set(found["columns"])
    return columns


def check_width(columns: Columns) -> None:
    """Raises if a table or child table has more columns than Postgres can store."""
    for table, names in columns.items():
        if len(names) > POSTGRES_COLUMNS:
            most = f"but Postgres stores {POSTGRES_COLUMNS} at most"
            raise BrokenFile(f"the table {table} would have {len(names)} columns, {most}")


def check_columns(given: pa.Schema, table: str, reserved: Collection[str]) -> set[str]:
    """The columns of a file. Raises if one has not the type of the table's column, or two would share a name."""
    schema, known = dlt.current.source_schema(), table_columns(table)
    names = {name: name for name in reserved}
    try:
        columns = py_arrow_to_table_schema_columns(given)
    except UnsupportedArrowTypeException as error:
        raise BrokenFile(f"the type {error.arrow_type} of column {error.field_name} is not supported") from error
    for name, column in columns.items():
        normalized = schema.naming.normalize_identifier(name)
        if normalized in names:
            raise BrokenFile(f"the columns {names[normalized]} and {name} would both become {normalized}")
        names[normalized] = name
        old, new = known.get(normalized, {}).get("data_type"), column.get("data_type")
        if old and new and old != new and (old, new) != ("decimal", "bigint"):
            raise BrokenFile(f"the column {name} is {new} here but {old} in the table")
    return names.keys() - set(reserved)


def check_nul(file: IO[bytes], file_format: str) -> None:
    """Raises for a NUL character in a text, which Postgres cannot store. For a Parquet file, `check_values` does."""
    if nul := NUL.get(file_format):
        for number, line in enumerate(file, start=1):
            if nul.search(line):
                raise BrokenFile(f"line {number}: a NUL character, which Postgres cannot store")
        file.seek(0)


def check_values(batch: pa.RecordBatch, for_postgres: bool) -> None:
    """Raises for nanoseconds, which dlt's files do not have, and for what Postgres or DuckDB cannot store."""
    types = pa.types
    for field, values in zip(batch.schema, batch.columns, strict=True):
        kind = field.type
        if (types.is_timestamp(kind) or types.is_time64(kind)) and kind.unit == "ns":
            try:
                values.cast(pa.timestamp("us", kind.tz) if types.is_timestamp(kind) else pa.time64("us"))
            except pa.ArrowInvalid as error:
                raise BrokenFile(f"the column {field.name} has nanoseconds, dlt stores microseconds") from error
        if types.is_decimal(kind) and kind.precision > DEFAULT_NUMERIC_PRECISION:
            raise BrokenFile(f"the column {field.name} is {kind}: more than {DEFAULT_NUMERIC_PRECISION} digits")
        unknown = types.is_nested(kind) or (types.is_decimal(kind) and kind.bit_width < 128)
        if for_postgres and unknown:
            raise BrokenFile(f"the column {field.name} is {kind}, which cannot be copied into Postgres")
        is_text = types.is_string(kind) or types.is_large_string(kind)
        if for_postgres and is_text and pa.compute.any(pa.compute.match_substring(values, "\0")).as_py():
            raise BrokenFile(f"the column {field.name} has a NUL character, which Postgres cannot store")
