"""Where the values of items go: dlt's answers, asked for once per key and type instead of once per value.

For every value, dlt's normalizer finds out which table and column it belongs to, whether it is flattened or becomes
rows, and whether its type fits the column. A `Plan` puts these questions to dlt's own functions and keeps the answers,
which hold as long as the schema does not change. It raises `FallbackToDlt` where no answer holds for every value.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any

from dlt.common.data_types.typing import TDataType
from dlt.common.schema.typing import TTableSchemaColumns
from dlt.common.schema.utils import is_complete_column, is_nullable_column
from dlt.common.time import normalize_timezone
from dlt.normalize.items_normalizers import JsonLItemsNormalizer

Keys = tuple[str, ...]


class FallbackToDlt(Exception):
    """A value that dlt has to normalize itself."""


@dataclass(frozen=True, slots=True)
class Keep:
    """The values go into a column as they are."""

    column: str


@dataclass(frozen=True, slots=True)
class Coerce:
    """The values go into a column of another type."""

    column: str
    coerce: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Flatten:
    """The values are objects whose keys become columns of the same row."""

    path: "RowPath"


@dataclass(frozen=True, slots=True)
class Nest:
    """The values are lists whose elements become rows of a child table."""

    child: "ChildTable"


@dataclass(frozen=True, slots=True)
class Skip:
    """The values are null, and dlt stores nothing."""


ColumnPlan = Keep | Coerce | Flatten | Nest | Skip


@dataclass(eq=False, slots=True)
class RowPath:
    """A path in the items that leads to the rows of a table, or to an object within its rows.

    `nesting` counts down as in dlt: at zero, objects and lists are stored as JSON.
    """

    table: str
    table_path: tuple[str, ...]  # the identifiers that dlt makes the table's name of
    columns: TTableSchemaColumns
    row_nesting: int
    nesting: int
    keys: Keys  # from the item to here, as they come
    prefix: tuple[str, ...] = ()  # the identifiers from the row to here
    plans: dict[tuple[str, type], ColumnPlan] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class ChildTable:
    """The table for the elements of a list. It may not exist as long as all lists are empty."""

    table_path: tuple[str, ...]
    nesting: int
    keys: Keys
    rows: RowPath | None = None


class Plan:
    """What becomes of the items of a root table, as long as the schema stays as it is."""

    def __init__(self, items_normalizer: JsonLItemsNormalizer, root_table_name: str) -> None:
        self._items_normalizer = items_normalizer
        self._schema = items_normalizer.schema
        self.relational: Any = self._schema.data_item_normalizer
        self._sources: dict[tuple[str, str], Keys] = {}
        self.root = self._plan_root(root_table_name)

    def column_plan(self, path: RowPath, key: str, value: Any) -> ColumnPlan:
        """What becomes of the values under this key that have the type of `value`."""
        known = path.plans.get((key, type(value)))
        if known is None:
            known = path.plans[key, type(value)] = self._plan_column(path, key, value)
        return known

    def child_rows(self, child: ChildTable) -> RowPath:
        """The rows of a child table."""
        if child.rows is None:
            child.rows = self._plan_child(child)
        return child.rows

    def _plan_root(self, name: str) -> RowPath:
        dlt = self.relational
        table_path = (dlt._normalize_table_identifier(name),)
        table = dlt._shorten_fragments(*table_path)
        if dlt._get_root_row_id_type(table) != "random":  # dlt makes ids of rows from their content
            raise FallbackToDlt
        propagated = self._propagated(table, is_root=True)
        if propagated and propagated != {dlt.c_dlt_id: dlt.c_dlt_root_id}:
            raise FallbackToDlt
        self.passes_root_id = bool(propagated)
        nesting = dlt._get_table_nesting_level(table, dlt.max_nesting)
        return self._plan_rows(table_path, (), nesting, {dlt.c_dlt_load_id: "text", dlt.c_dlt_id: "text"})

    def _plan_child(self, child: ChildTable) -> RowPath:
        dlt = self.relational
        table = dlt._shorten_fragments(*child.table_path)
        if not dlt._should_be_nested(table) or self._propagated(table, is_root=False):
            raise FallbackToDlt
        added: dict[str, TDataType] = {
            dlt.c_dlt_id: "text",
            dlt.c_dlt_parent_id: "text",
            dlt.c_dlt_list_idx: "bigint",
        }
        if self.passes_root_id:
            added[dlt.c_dlt_root_id] = "text"
        return self._plan_rows(child.table_path, child.keys, child.nesting, added)

    def _propagated(self, table: str, is_root: bool) -> Mapping[str, str]:
        """The columns whose values dlt copies into the rows below a row of this table, and their names there."""
        mapping = self.relational._get_propagation_mapping
        return mapping(table, is_root) if mapping else {}

    def _plan_rows(
        self, table_path: tuple[str, ...], keys: Keys, nesting: int, added: Mapping[str, TDataType]
    ) -> RowPath:
        """The rows of a table to which dlt adds columns. If the schema lacks them, dlt takes the first rows."""
        table = self.relational._shorten_fragments(*table_path)
        columns = self._schema.get_table_columns(table) if table in self._schema.tables else {}
        for column, data_type in added.items():
            if columns.get(column, {}).get("data_type") != data_type:
                raise FallbackToDlt
            self._only_from(table, column, ())
        return RowPath(table, table_path, columns, nesting, nesting, keys)

    def _plan_column(self, path: RowPath, key: str, value: Any) -> ColumnPlan:
        dlt = self.relational
        identifier = dlt._normalize_identifier(key) if key and not key.isspace() else dlt.EMPTY_KEY_IDENTIFIER
        prefix, keys = (*path.prefix, identifier), (*path.keys, key)
        column = dlt._shorten_fragments(*prefix) if path.prefix else identifier
        if type(value) in (dict, list) and not dlt._is_nested_type(path.table, column, path.nesting):
            if type(value) is dict:
                return Flatten(replace(path, keys=keys, prefix=prefix, nesting=path.nesting - 1, plans={}))
            table_path = (*path.table_path, *path.prefix, dlt._normalize_table_identifier(key))
            self._only_from(dlt._shorten_fragments(*table_path), "", keys)
            return Nest(ChildTable(table_path, path.row_nesting - 1, keys))
        self._only_from(path.table, column, keys)
        return self._plan_null(path, column) if value is None else self._plan_value(path, column, value)

    def _only_from(self, table: str, column: str, keys: Keys) -> None:
        """Makes sure that nothing else in the items becomes this column, or this table if `column` is empty.

        Of two keys with one name, such as `orderId` and `order_id`, dlt stores the one that it meets last.
        """
        if self._sources.setdefault((table, column), keys) != keys:
            raise FallbackToDlt

    def _plan_null(self, path: RowPath, column: str) -> ColumnPlan:
        """dlt refuses a null in some columns, and takes note of columns that have had nothing else."""
        hints = path.columns.get(column, {})
        if is_complete_column(hints):
            storable = is_nullable_column(hints)
        else:
            storable = column in self._items_normalizer.null_only_columns.get(path.table, ())
        if not storable:
            raise FallbackToDlt
        return Skip()

    def _plan_value(self, path: RowPath, column: str, value: Any) -> ColumnPlan:
        """As dlt's `_coerce_row` does it for a column that the schema has."""
        normalizer = self._items_normalizer
        hints: Any = path.columns.get(column, {})
        value_type, column_type = normalizer._type_map.get(type(value)), hints.get("data_type")
        if not value_type or not column_type or not normalizer._can_coerce_type(column_type, value_type):
            raise FallbackToDlt
        coerce = partial(normalizer._coerce_type, column_type, value_type)
        if column_type == "timestamp":
            override = normalizer._timezone_override
            with_zone = hints.get("timezone", True) if override is None else override
            return Coerce(column, partial(_to_timestamp, coerce, with_zone))
        return Keep(column) if value_type == column_type else Coerce(column, coerce)


def _to_timestamp(coerce: Callable[[Any], datetime], with_zone: bool, value: Any) -> datetime:
    """What dlt makes of a value, with a shortcut for what most APIs send, `2026-01-31T12:00:00Z`."""
    if type(value) is str and len(value) == 20 and value[4::3] == "--T::Z":
        try:
            return normalize_timezone(datetime.fromisoformat(value), with_zone)
        except ValueError:  # no such day or time
            pass
    return normalize_timezone(coerce(value), with_zone)
