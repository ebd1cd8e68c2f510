"""The file formats: how each becomes rows, and when a file is broken."""

import csv
import json as stdlib_json
import re
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


def check_keys(rows: list[dict[str, Any]], first: int, reserved: Collection[str]) -> set[str]:
    """The columns of JSON objects. Raises if two keys with different values become one column or one child table."""
    naming, columns = dlt.current.source_schema().naming, set[str]()
    fine: set[tuple[str, ...]] = set()  # keys of flat rows
    for number, row in enumerate(rows, start=first):
        is_flat = not any(type(value) in (dict, list) for value in row.values())
        if not (is_flat and tuple(row) in fine):
            for key in row:
                if _normalized(key, naming) in reserved:
                    raise BrokenFile(f"row {number}: the key {key!r} is the name of a column that this source adds")
            columns |= _check_object(row, naming, number)
        if is_flat and None not in row.values():
            fine.add(tuple(row))
    return columns


def _check_object(one: dict[str, Any], naming: NamingConvention, number: int) -> set[str]:
    found: dict[tuple[str, bool], tuple[str, Any]] = {}
    for path, value in _leaves(one):
        if value is None or value == []:
            continue
        name = naming.shorten_fragments(*(_normalized(key, naming) for key in path))
        other, known = found.setdefault((name, type(value) is list), (".".join(path), value))
        if known is not value and (type(known), known) != (type(value), value):
            raise BrokenFile(f"row {number}: the keys {other!r} and {'.'.join(path)!r} both become {name}")
        for item in value if type(value) is list else ():
            if type(item) is dict:
                _check_object(item, naming, number)
    return {name for name, is_list in found if not is_list}


def _normalized(key: str, naming: NamingConvention) -> str:
    return naming.normalize_identifier(key) if key and not key.isspace() else DataItemNormalizer.EMPTY_KEY_IDENTIFIER


def _leaves(one: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in one.items():
        if type(value) is dict:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def table_columns(table: str) -> Mapping[str, Any]:
    """The columns that a table has, by name."""
    schema = dlt.current.source_schema()
    return schema.tables.get(schema.naming.normalize_table_identifier(table), {"columns": {}})["columns"]


def check_width(columns: Collection[str]) -> None:
    """Raises if a table has more columns than Postgres can store."""
    if len(columns) > POSTGRES_COLUMNS:
        raise BrokenFile(f"the table would have {len(columns)} columns, but Postgres stores {POSTGRES_COLUMNS} at most")


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
    """Raises for nanoseconds, which dlt's files do not have, and for what Postgres cannot store."""
    for field, values in zip(batch.schema, batch.columns, strict=True):
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
            try:
                values.cast(pa.timestamp("us", field.type.tz))
            except pa.ArrowInvalid as error:
                raise BrokenFile(f"the column {field.name} has nanoseconds, dlt stores microseconds") from error
        is_text = pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
        if for_postgres and is_text and pa.compute.any(pa.compute.match_substring(values, "\0")).as_py():
            raise BrokenFile(f"the column {field.name} has a NUL character, which Postgres cannot store")
