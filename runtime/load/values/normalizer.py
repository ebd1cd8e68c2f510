"""No value becomes another on its way into the warehouse: it is kept beside its column, or refused by name.

dlt coerces a value to the type of its column, also where that cannot be undone: "007" becomes 7, "no" becomes false.
Here such a value goes where dlt puts what it cannot coerce, into a column `<column>__v_<type>`. Of two keys of an
object that become one column, dlt keeps the last; here the load is refused. docs/how-a-load-runs.md has the list.
"""

import base64
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import dlt
from dlt.common import json
from dlt.common.configuration.providers import ConfigProvider
from dlt.common.data_types.type_helpers import coerce_value
from dlt.common.data_types.typing import TDataType
from dlt.common.normalizers.json import relational
from dlt.common.schema import Schema
from dlt.common.schema.detections import is_iso_timestamp
from dlt.common.storages.load_package import PackageStorage
from dlt.common.time import ensure_datetime_in_tz
from dlt.common.typing import VARIANT_FIELD_FORMAT

from runtime.load.providers import asked_first
from runtime.load.values.columns import ColumnType, ValueRefused, type_of

SMALLEST, LARGEST = -(2**63), 2**63 - 1  # of a bigint
BEYOND_MICROSECONDS = re.compile(r"[.,]\d{6}0*[1-9]")
MICROSECONDS = "2026-01-31T12:00:00.123456"
OFFSET = re.compile(r"[+-]\d\d:?\d\d$")
DAY_SECONDS = 86_400
VARIANT = f"__{VARIANT_FIELD_FORMAT.partition('%')[0]}"  # between the names of a column and a type


# ---- values of another type than their column ----


def _is_bigint(value: Any, number: int) -> bool:
    return SMALLEST <= number <= LARGEST


def _is_text_of_bigint(value: str, number: int) -> bool:
    return str(number) == value and SMALLEST <= number <= LARGEST


def _is_text_of_double(value: str, number: float) -> bool:
    if not math.isfinite(number):
        return False
    return repr(number) == value or (value.lstrip("-").isdigit() and str(int(value)) == value and int(value) == number)


def _is_text_of_decimal(value: str, number: Decimal) -> bool:
    return number.is_finite() and fits(number) and f"{number:f}" == value


def _is_text_of_timestamp(value: str, moment: Any) -> bool:
    return len(value) >= len("20260131") and not BEYOND_MICROSECONDS.search(value)


def _is_day(value: Any, day: Any) -> bool:
    moment = ensure_datetime_in_tz(value)
    return moment == moment.replace(day.year, day.month, day.day, 0, 0, 0, 0)


def _is_text_of_day(value: str, day: Any) -> bool:
    return len(value) >= len("20260131") and _is_day(value, day) and not BEYOND_MICROSECONDS.search(value)


def _is_binary(value: str, content: bytes) -> bool:
    return value in (base64.b64encode(content).decode(), f"0x{content.hex()}")


# By the type of the column and that of the value: whether the value can be told from what dlt has made of it.
# Where no function stands it always can, as with anything that becomes text.
CAN_BE_UNDONE: Mapping[tuple[TDataType, TDataType], Callable[[Any, Any], bool]] = {
    ("bigint", "text"): _is_text_of_bigint,
    ("bigint", "double"): _is_bigint,
    ("bigint", "decimal"): _is_bigint,
    ("bigint", "wei"): _is_bigint,
    ("double", "text"): _is_text_of_double,
    ("double", "bigint"): lambda value, number: int(number) == value,
    ("double", "decimal"): lambda value, number: Decimal(repr(number)) == value,
    ("double", "wei"): lambda value, number: Decimal(repr(number)) == value,
    ("decimal", "text"): _is_text_of_decimal,
    ("decimal", "double"): lambda value, number: number.is_finite() and fits(number),
    ("wei", "text"): lambda value, number: (
        number.is_finite() and abs(number.adjusted()) < 80 and f"{number:f}" == value
    ),
    ("bool", "text"): lambda value, flag: value.lower() == str(flag).lower(),
    ("bool", "bigint"): lambda value, flag: value in (0, 1),
    ("bool", "double"): lambda value, flag: value in (0, 1),
    ("bool", "decimal"): lambda value, flag: value in (0, 1),
    ("bool", "wei"): lambda value, flag: value in (0, 1),
    ("timestamp", "text"): _is_text_of_timestamp,
    ("timestamp", "double"): lambda value, moment: moment.timestamp() == value,
    ("date", "text"): _is_text_of_day,
    ("date", "timestamp"): _is_day,
    ("date", "bigint"): lambda value, day: value % DAY_SECONDS == 0,
    ("date", "double"): lambda value, day: value % DAY_SECONDS == 0,
    ("time", "text"): lambda value, _: not (BEYOND_MICROSECONDS.search(value) or OFFSET.search(value)),
    ("binary", "text"): _is_binary,
}


def fits(number: Decimal) -> bool:
    """Whether the column that dlt makes for decimals holds a finite number exactly."""
    return type_of({"data_type": "decimal"}).holds(type_of_decimal(number))


def type_of_decimal(number: Decimal) -> ColumnType:
    """The least type that holds a finite number."""
    _, digits, exponent = number.as_tuple()
    places = max(0, -int(exponent)) if number else 0
    while places and digits[-1] == 0:
        digits, places = digits[:-1], places - 1
    return ColumnType("number", 10 ** min(max(0, number.adjusted() + 1), 100), places)


def coerce(to_type: TDataType, from_type: TDataType, value: Any) -> Any:
    """As dlt coerces a value. Raises ValueError also where that cannot be undone."""
    coerced = coerce_value(to_type, from_type, value)
    can_be_undone = CAN_BE_UNDONE.get((to_type, from_type))
    if can_be_undone and not can_be_undone(value, coerced):
        raise ValueError(value)
    return coerced


# ---- keys that become one column ----

Row = dict[str, Any]
Lists = dict[tuple[str, ...], Sequence[Any]]


@dataclass(frozen=True)
class NoTimestamp:
    """A text that a timestamp would cut. dlt would take it for one again in the column that it makes for texts."""

    text: str


class DataItemNormalizer(relational.DataItemNormalizer):
    """dlt's normalizer, which neither changes values nor drops them. dlt finds it in a module by this name."""

    def py_type_to_sc_type(self, t: type[Any]) -> TDataType:
        return "text" if t is NoTimestamp else super().py_type_to_sc_type(t)

    def coerce_type(self, to_type: TDataType, from_type: TDataType, value: Any) -> Any:
        """Raises ValueError also where a coercion cannot be undone. dlt then makes a column of the value's own type."""
        return value.text if type(value) is NoTimestamp else coerce(to_type, from_type, value)

    def _flatten(self, table: str, dict_row: Row, _r_lvl: int) -> tuple[Row, Lists]:
        """Raises ValueRefused if two keys with different values become one column or child table."""
        row, lists = super()._flatten(table, dict_row, _r_lvl)
        for name in [name for name, value in row.items() if type(value) is str and len(value) > len(MICROSECONDS)]:
            if BEYOND_MICROSECONDS.search(row[name]) and self._becomes_timestamp(table, name, row[name]):
                variant = self.naming.shorten_fragments(name, VARIANT_FIELD_FORMAT % "text")
                if row.get(variant) is not None:
                    raise _variant_is_taken(table, name, row[name], "timestamp", variant)
                row[variant] = NoTimestamp(row.pop(name))
        for name in [name for name in row if VARIANT in name]:
            self._check_variant(table, row, name)
        arrived = len(row) + len(lists)
        if arrived < _count_keys(dict_row, set()):  # or objects are stored as JSON
            meet = arrived < _count_keys(dict_row, {id(value) for value in row.values() if type(value) is dict})
        else:
            meet = len(lists) > 1 and len({self._shorten_fragments(*path) for path in lists}) < len(lists)
        return _keep_what_is_not_empty(self, table, dict_row, _r_lvl) if meet else (row, lists)

    def _check_variant(self, table: str, row: Row, name: str) -> None:
        """Raises ValueRefused if dlt would put the value of another column into this one, over its own value."""
        column = name.rpartition(VARIANT)[0]
        known: Any = self.schema.tables.get(table, {}).get("columns", {}).get(column, {})
        value = row.get(column)
        if value is None or row[name] is None or not (data_type := known.get("data_type")):
            return
        kind = self.py_type_to_sc_type(type(value))
        try:
            coerce(data_type, kind, value)
        except (ValueError, ArithmeticError):
            if self.naming.shorten_fragments(column, VARIANT_FIELD_FORMAT % kind) == name:
                raise _variant_is_taken(table, column, value, data_type, name) from None

    def _becomes_timestamp(self, table: str, column: str, value: str) -> bool:
        known: Any = self.schema.tables.get(table, {}).get("columns", {}).get(column, {})
        return known.get("data_type") == "timestamp" or (not known and is_iso_timestamp(str, value) is not None)


def _variant_is_taken(table: str, column: str, value: Any, data_type: str, variant: str) -> ValueRefused:
    return ValueRefused(
        f"{table}: {value!r} is no {data_type} for the column {column}, and {variant}, where it would go, has a value "
        "of its own. Rename or drop one in the source. Nothing was loaded."
    )


@contextmanager
def strict_values(pipeline: dlt.Pipeline) -> Iterator[None]:
    """Within it, a pipeline normalizes with this module's `DataItemNormalizer`.

    dlt stores the module's name with the schema. It is set back before the schema reaches the warehouse: whoever
    reads it there does not need this module.
    """
    with asked_first(StrictValues(pipeline)):
        yield
    for schema in list(pipeline.schemas.values()):
        if _set_back(schema):
            pipeline.schemas.save_schema(schema)
    for load_id in pipeline.list_normalized_load_packages():
        package = pipeline.get_load_package_info(load_id)
        if _set_back(package.schema):
            file = Path(package.package_path) / PackageStorage.SCHEMA_FILE_NAME
            file.write_text(json.dumps(package.schema.to_dict()), encoding="utf-8")


class StrictValues(ConfigProvider):
    """Configures the normalizer of schemas that have dlt's own. What else they have configured stays."""

    name = "strict values"
    supports_secrets = True
    supports_sections = True

    def __init__(self, pipeline: dlt.Pipeline) -> None:
        self._pipeline = pipeline

    def get_value(self, key: str, hint: type[Any], pipeline_name: str | None, *sections: str) -> tuple[Any, str]:
        if key == "json_normalizer" and len(sections) > 1 and sections[1] in self._pipeline.schemas:
            settings = self._pipeline.schemas[sections[1]].to_dict()["normalizers"]["json"]
            if settings["module"] == relational.__name__:
                return {**settings, "module": __name__}, key
        return None, key


def _set_back(schema: Schema) -> bool:
    settings = schema._normalizers_config["json"]
    if settings["module"] != __name__:
        return False
    settings["module"] = relational.__name__
    return True


def _count_keys(one: Row, kept: set[int]) -> int:
    """The keys of an object that hold values, including those of objects in it that are not kept as they are."""
    inner = [value for value in one.values() if type(value) is dict]
    return len(one) + sum(_count_keys(value, kept) - 1 for value in inner if id(value) not in kept)


def _keep_what_is_not_empty(normalizer: DataItemNormalizer, table: str, one: Row, level: int) -> tuple[Row, Lists]:
    """Of keys that become one column or child table, the value that is not empty."""
    row: Row = {}
    lists: Lists = {}
    sources: dict[tuple[bool, str], str] = {}
    for keys, path, value, is_list in _leaves(normalizer, table, one, level):
        name, key = normalizer._shorten_fragments(*path), ".".join(keys)
        place: Any = lists if is_list else row
        old = next((old for old in lists if normalizer._shorten_fragments(*old) == name), path) if is_list else name
        known = place.get(old)
        if _is_empty(known):
            place.pop(old, None)
            place[path if is_list else name] = value
            sources[is_list, name] = key
        elif not _is_empty(value) and (type(value), value) != (type(known), known):
            raise ValueRefused(
                f"{table}: the keys {sources[is_list, name]!r} and {key!r} of one object both become the "
                f"{f'table {table}__' if is_list else 'column '}{name}, which can hold only one of them. "
                "Rename or drop one in the source. Nothing was loaded."
            )
    return row, lists


def _leaves(
    normalizer: DataItemNormalizer,
    table: str,
    one: Row,
    level: int,
    path: tuple[str, ...] = (),
    keys: tuple[str, ...] = (),
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], Any, bool]]:
    """The values of an object as dlt takes it apart: keys, identifiers, value, and whether it becomes a child table."""
    for key, value in one.items():
        name = normalizer._normalize_identifier(key) if key and not key.isspace() else normalizer.EMPTY_KEY_IDENTIFIER
        column = normalizer._shorten_fragments(*path, name) if path else name
        is_taken_apart = type(value) in (dict, list) and not normalizer._is_nested_type(table, column, level)
        if not is_taken_apart:
            yield (*keys, key), (*path, name), value, False
        elif type(value) is dict:
            yield from _leaves(normalizer, table, value, level - 1, (*path, name), (*keys, key))
        else:
            yield (*keys, key), (*path, normalizer._normalize_table_identifier(key)), value, True


def _is_empty(value: Any) -> bool:
    return value is None or value == [] or value == {}
