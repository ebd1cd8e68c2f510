"""Of rows that share a primary key within one load, the last one stays.

An API that is read page by page gives a row twice if it changes meanwhile. Warehouses merge one of the two, and which
one is left to chance.
"""

import base64
import gzip
import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import dlt
from dlt.common import json
from dlt.common.json import custom_pua_decode
from dlt.common.normalizers.naming import NamingConvention
from dlt.common.schema import Schema
from dlt.common.schema.detections import is_iso_timestamp
from dlt.common.schema.typing import C_DLT_ID, TTableSchema
from dlt.common.schema.utils import get_columns_names_with_prop, get_merge_strategy, is_complete_column
from dlt.common.time import ensure_datetime_in_tz
from dlt.extract.resource import DltResource
from dlt.extract.source import DltSource

from runtime.load.cursors import columns_with, disposition_of
from runtime.load.values.columns import ValueRefused
from runtime.load.values.items import table_of
from runtime.load.values.normalizer import coerce

NUMBER = "number of the row"
DIGITS = frozenset("-0123456789")
DECIMAL = re.compile(r"-?\d+\.\d+")
# Of the keys of dictionaries, by the name of the table as the resource gives it, and the columns of the key.
Hashes = dict[tuple[str, tuple[str, ...]], "array[int]"]


class KeyRecorder:
    """Remembers a hash of the key of each dictionary that a resource yields."""

    def __init__(self, resource: DltResource, columns: Sequence[str], hashes: Hashes) -> None:
        self._resource = resource
        self._columns = tuple(columns)
        self._hashes = hashes
        self._of_table: array[int] | None = None  # if all rows go to one
        self._normalize: Callable[[str], str]
        self._has_begun = False

    def __call__(self, item: Any, meta: Any = None) -> Any:
        if type(item) is not dict:
            return item
        if not self._has_begun:
            self._begin(item, meta)
        if (key := rough_key_of(item, self._columns, self._normalize)) is not None:
            hashes = self._of_table
            if hashes is None or meta is not None:
                place = table_of(self._resource, item, meta), self._columns
                hashes = self._hashes.setdefault(place, array("q"))
            hashes.append(hash(key))
        return item

    def _begin(self, item: Any, meta: Any) -> None:
        self._has_begun = True
        self._normalize = dlt.current.source_schema().naming.normalize_identifier
        if callable(name := self._resource.table_name):
            hints = self._resource.compute_table_schema(item, meta)["columns"]
            self._columns = tuple(column for column, hint in hints.items() if hint.get("primary_key"))
        else:
            self._of_table = self._hashes.setdefault((str(name), self._columns), array("q"))


def rough_key_of(item: Any, columns: Sequence[str], normalize: Callable[[str], str]) -> str | None:
    """A text that is the same for keys that may be equal in the warehouse. None if the dictionary has no key."""
    values = values_of(item, columns, normalize)
    return None if None in values else "\0".join([f"{one}" if type(one) is int else _rough(one) for one in values])


def _rough(value: Any) -> str:
    if type(value) is str:
        if value.lower() in ("true", "false"):
            return f"{value.lower() == 'true':d}"
        return _as_text(value) if value[:1] in DIGITS else value
    return f"{value:d}" if type(value) is bool else _as_text(value)


class ExactKey:
    """The key of a row of a table as the warehouse will have it: dlt makes one of 7, "7" and 7.0. None without one."""

    def __init__(self, schema: Schema, table: str, columns: Sequence[str]) -> None:
        self._normalizer, self._naming = schema.data_item_normalizer, schema.naming
        self._columns = columns
        known = schema.tables.get(table, {}).get("columns", {})
        self._types: list[Any] = [known.get(column, {}).get("data_type") for column in columns]

    def __call__(self, item: Any) -> tuple[Any, ...] | None:
        if type(item) is not dict:
            return None
        values = values_of(item, self._columns, self._naming.normalize_identifier)
        return None if None in values else tuple(map(self._coerced, range(len(values)), values))

    def _coerced(self, column: int, value: Any) -> Any:
        value = custom_pua_decode(value)
        kind = self._normalizer.py_type_to_sc_type(type(value))
        # The first value decides on the type of a new column.
        self._types[column] = self._types[column] or is_iso_timestamp(type(value), value) or kind
        try:
            coerced = coerce(self._types[column], kind, value)
        except (ValueError, ArithmeticError):
            return kind, repr(value)  # it goes into a column of its own type
        return coerced if isinstance(coerced, Hashable) else repr(coerced)


def values_of(item: Any, columns: Sequence[str], normalize: Callable[[str], str]) -> list[Any]:
    values = [item.get(column) for column in columns]
    if None in values:  # `orderId` may be what the hint calls `order_id`
        spelled = {normalize(name): value for name, value in item.items() if _is_name(name)}
        values = [spelled.get(normalize(column)) for column in columns]
    return values


def _comparable(values: list[Any]) -> tuple[Any, ...]:
    """Equal for values that become one in the warehouse, of which dictionaries and Arrow have several types."""
    return tuple(_as_text(value) for value in values)


def _as_text(value: Any) -> str:
    value = custom_pua_decode(value)
    if isinstance(value, str) and is_iso_timestamp(str, value):
        with suppress(OverflowError):
            value = ensure_datetime_in_tz(value)
    if isinstance(value, datetime):
        try:
            value = value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
        except OverflowError:  # in UTC, its year would be 0 or 10,000
            return f"{value.isoformat()}"
        return str(value.isoformat()).removesuffix("T00:00:00+00:00")  # as a date
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if is_number or (isinstance(value, str) and DECIMAL.fullmatch(value)):
        return f"{Decimal(str(value)).normalize():f}"
    return base64.b64encode(value).decode() if isinstance(value, bytes) else f"{value}"


def record_keys(source: DltSource) -> Hashes:
    """Records the keys of the resources that merge by a primary key."""
    hashes: Hashes = {}
    for resource in source.selected_resources.values():
        columns = columns_with(resource, "primary_key") if disposition_of(resource) == "merge" else []
        if columns:
            resource.add_map(KeyRecorder(resource, columns, hashes))
        elif not callable(resource.table_name):  # by no key: a run's options, or another resource, may say otherwise
            hashes[str(resource.table_name), ()] = array("q")
    return hashes


def keep_last_rows(pipeline: dlt.Pipeline, hashes: Hashes) -> None:
    """Removes from what a pipeline has extracted all rows but the last of each key, and with them their children.

    A table with a `dedup_sort` column says itself which row stays.

    Raises:
        ValueRefused: rows of a table come as dictionaries and as Arrow tables, and a key is in both.
    """
    for load_id in pipeline.list_extracted_load_packages():
        package = pipeline.get_load_package_info(load_id)
        schema, naming = pipeline.schemas[package.schema.name], package.schema.naming
        tables: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
        for job in sorted(package.jobs["new_jobs"], key=lambda job: Path(job.file_path).stat().st_mtime_ns):
            tables[job.job_file_info.table_name][job.job_file_info.file_format].append(Path(job.file_path))
        for table, files in tables.items():
            columns, rows, arrow = _merge_key(schema, table), files["typed-jsonl"], files["parquet"]
            if rows and arrow:
                _check_kinds(schema, table, columns, rows, arrow)
            if arrow and columns:
                _keep_last_arrow_rows(arrow, columns)
            if rows and columns and not _are_unique(hashes, naming, table, columns):
                _keep_last_rows(rows, schema, table, columns)


def _are_unique(hashes: Hashes, naming: NamingConvention, table: str, columns: Sequence[str]) -> bool:
    """Whether all keys of a table's dictionaries were recorded, by these columns, and none came twice."""
    of_table = {place: found for place, found in hashes.items() if naming.normalize_tables_path(place[0]) == table}
    if not of_table or any({naming.normalize_path(name) for name in key} != set(columns) for _, key in of_table):
        return False
    return len(set[int]().union(*of_table.values())) == sum(map(len, of_table.values()))


def _check_kinds(
    schema: Schema, table: str, columns: Sequence[str], rows: Sequence[Path], arrow: Sequence[Path]
) -> None:
    """Nobody can tell which rows are the last ones, and Arrow tables get dlt's columns only if the table has them."""
    normalize, known = schema.naming.normalize_identifier, schema.tables.get(table, {}).get("columns", {})
    if not any(line for file in rows for line in _lines(file)):  # only a mark that makes the table
        return
    if not is_complete_column(known.get(normalize(C_DLT_ID), {})):
        found = "rows"
    elif columns:
        values = (item for file in rows for line in _lines(file) for item in line)
        keys = {_comparable(key) for item in values if (key := values_of(item, columns, normalize))}
        of_arrow = (row for file in arrow for row in _arrow_keys(file, columns).to_pylist())
        both = next((key for row in of_arrow if _comparable(key := list(row.values())) in keys), None)
        if both is None:
            return
        found = f"the key {', '.join(map(str, both))}"
    else:
        return
    raise ValueRefused(
        f"{table}: {found} come both as dictionaries and as Arrow tables. Yield all rows of the table as one of the "
        "two. Nothing was loaded."
    )


def _merge_key(schema: Schema, table: str) -> list[str]:
    """The columns in which rows with the same values replace each other."""
    found = schema.tables.get(table)
    if not found or found.get("write_disposition") != "merge" or _with_hint(found, "dedup_sort"):
        return []
    strategy = get_merge_strategy(schema.tables, table) or "delete-insert"
    return _with_hint(found, "primary_key") if strategy in ("delete-insert", "upsert") else []


def _with_hint(table: TTableSchema, hint: Any) -> list[str]:
    return get_columns_names_with_prop(table, hint, include_incomplete=True)


def _keep_last_rows(files: Sequence[Path], schema: Schema, table: str, columns: Sequence[str]) -> None:
    key_of = ExactKey(schema, table, columns)
    items = (item for file in files for line in _lines(file) for item in line)
    keys = [key_of(item) for item in items]
    last = {key: number for number, key in enumerate(keys)}
    if len(last) - (None in last) == len(keys) - keys.count(None):
        return
    numbers = count()
    for file in files:
        kept = [[one for one in line if _stays(next(numbers), keys, last)] for line in _lines(file)]
        content = "".join(f"{json.dumps(line)}\n" for line in kept if line).encode()
        file.write_bytes(gzip.compress(content) if _is_compressed(file) else content)


def _keep_last_arrow_rows(files: Sequence[Path], columns: Sequence[str]) -> None:
    """The same for Arrow tables. A row without a key stays."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    keys = [_arrow_keys(file, columns) for file in files]
    try:
        numbered = pa.concat_tables(keys, promote_options="permissive")
        if any(map(pa.types.is_floating, numbered.schema.types)) and len({table.schema for table in keys}) > 1:
            raise pa.ArrowTypeError("whole numbers would be rounded")
    except (pa.ArrowTypeError, pa.ArrowInvalid):  # types with no common one: no key of a file is one of another
        for file in files if len(files) > 1 else ():
            _keep_last_arrow_rows([file], columns)
        return
    numbers = pa.array(range(len(numbered)), pa.int64())
    numbered = numbered.append_column(NUMBER, numbers).drop_null()
    last = numbered.group_by(columns).aggregate([(NUMBER, "max")])[f"{NUMBER}_max"]
    if len(last) == len(numbered):
        return
    superseded = numbered[NUMBER].filter(pc.invert(pc.is_in(numbered[NUMBER], last)))
    start = 0
    for file in files:
        table = pq.read_table(file)
        stays = pc.invert(pc.is_in(numbers.slice(start, len(table)), superseded))
        file.unlink()  # it may be a link to a file of the user's
        pq.write_table(table.filter(stays), file)
        start += len(table)


def _arrow_keys(file: Path, columns: Sequence[str]) -> Any:
    """The columns of the key, with null where the file lacks one, and as JSON what Arrow cannot group by."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(file)
    found = parquet.read([name for name in columns if name in parquet.schema_arrow.names])
    keys = {}
    for name in columns:
        column = found[name] if name in found.column_names else pa.nulls(parquet.metadata.num_rows)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        elif pa.types.is_nested(column.type):
            column = pa.array([one if one is None else json.dumps(one) for one in column.to_pylist()], pa.string())
        keys[name] = column
    return pa.table(keys)


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and bool(key) and not key.isspace()


def _stays(number: int, keys: Sequence[Any], last: Mapping[Any, int]) -> bool:
    return keys[number] is None or last[keys[number]] == number


def _lines(file: Path) -> Iterator[list[Any]]:
    """The lines of a file that dlt has extracted: lists of rows, with types that JSON lacks as marked texts."""
    with gzip.open(file) if _is_compressed(file) else file.open("rb") as lines:
        for line in lines:
            yield json.loadb(line)


def _is_compressed(file: Path) -> bool:
    with file.open("rb") as content:
        return content.read(2) == b"\x1f\x8b"
