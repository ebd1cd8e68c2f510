"""dlt's normalizer, in a third of its time: items that are alike are taken apart by what was learned of the first.

dlt asks of each value anew which table and column it belongs to, of what type that is, and how it becomes one. Here the
answers are dlt's too, but kept, by the value's place and type. What they do not cover, such as a new column, another
type or a filter, makes the item unusual: dlt itself takes that apart, with all that its schema may learn from it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from dlt.common.normalizers.json.helpers import get_nested_row_hash
from dlt.common.normalizers.json.relational import DataItemNormalizer
from dlt.common.normalizers.utils import generate_dlt_id
from dlt.common.schema.exceptions import CannotCoerceNullException
from dlt.common.schema.typing import TSchemaUpdate, TTableSchemaColumns
from dlt.common.time import normalize_timezone
from dlt.normalize import worker
from dlt.normalize.items_normalizers import JsonLItemsNormalizer

Row = dict[str, Any]


class UnusualItem(Exception):
    """An item that takes dlt itself."""


# What a value becomes: that of a column, as it is or of another type; columns of the same row, if it is a dict; rows of
# a child table, if it is a list; nothing, if it is null. And how: the column's name, a function or another Place.
VALUE, COERCED, FIELDS, ROWS, NOTHING = range(5)
Becomes = tuple[type, int, Any, Any]


@dataclass(slots=True)
class Place:
    """A dict in the items: a row of a table, or with a `path` a part of one. Levels are dlt's: how deep it may nest."""

    table: str
    columns: TTableSchemaColumns
    origin: tuple[str, ...]  # of the table: its name, and the lists on the way to it
    row_level: int
    level: int
    names: dict[str, Any]  # of the row's columns and lists, and the keys that they come from
    path: tuple[str, ...] = ()
    usual: dict[str, Becomes] = field(default_factory=dict)  # by key: what the first value was that was not null
    others: dict[tuple[str, type], Becomes] = field(default_factory=dict)


class LearningNormalizer(JsonLItemsNormalizer):
    """Fast with what it knows. Makes the same rows, and the same schema, as dlt's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._roots: dict[str, Place] = {}

    def _normalize_chunk(
        self, root_table_name: str, items: list[Any], may_have_pua: bool, skip_write: bool
    ) -> TSchemaUpdate:
        by_dlt = partial(super()._normalize_chunk, root_table_name, may_have_pua=may_have_pua, skip_write=skip_write)
        is_filtered = self._filtered_tables or self._filtered_tables_columns or self.schema._compiled_excludes
        if (
            may_have_pua
            or skip_write
            or is_filtered
            or type(self.schema.data_item_normalizer) is not DataItemNormalizer
        ):
            return by_dlt(items)
        update: TSchemaUpdate = {}
        rows: dict[str, list[Row]] = {}
        for item in items:
            try:
                made = self._rows_of(root_table_name, item)
            except UnusualItem:
                self._write(rows)
                for table, partials in by_dlt([item]).items():
                    update.setdefault(table, []).extend(partials)
                    self._roots.clear()  # what was learned held for the schema as it was
            else:
                for table, row in made:
                    rows.setdefault(table, []).append(row)
        self._write(rows)
        return update

    def _write(self, rows: dict[str, list[Row]]) -> None:
        for table, some in rows.items():
            self.item_storage.write_data_item(
                self.load_id, self.schema.name, table, some, self.schema.get_table_columns(table)
            )
            self._report_progress(table, len(some))
        rows.clear()

    def _rows_of(self, root_table_name: str, item: Any) -> list[tuple[str, Row]]:
        """An item's rows, and the table of each."""
        if not isinstance(item, dict):
            raise UnusualItem
        root = self._roots.get(root_table_name) or self._learn_root(root_table_name)
        normalizer: Any = self.schema.data_item_normalizer
        row_id = generate_dlt_id()
        row: Row = {normalizer.c_dlt_load_id: self.load_id, normalizer.c_dlt_id: row_id}
        made = [(root.table, row)]
        inherited = {normalizer.c_dlt_root_id: row_id} if self._passes_root_id(root.table) else {}
        self._fill(root, item, row, made, inherited)
        return made

    def _fill(self, place: Place, item: dict[str, Any], row: Row, made: list[tuple[str, Row]], inherited: Row) -> None:
        """Puts a dict into a row, and makes the rows of the lists in it."""
        usual, lists = place.usual, []
        for key, value in item.items():
            known = usual.get(key)
            if known is None or known[0] is not type(value):
                known = place.others.get((key, type(value))) or self._learn(place, key, value)
            _, becomes, name, how = known
            if becomes == VALUE:
                row[name] = value
            elif becomes == COERCED:
                try:
                    row[name] = how(value)
                except (ValueError, SyntaxError):
                    raise UnusualItem from None  # dlt puts it into a column of its own
            elif becomes == FIELDS:
                self._fill(how, value, row, made, inherited)
            elif becomes == ROWS:
                lists.append((how, value))
        if not lists:
            return
        normalizer: Any = self.schema.data_item_normalizer
        c_id, c_parent, c_index = normalizer.c_dlt_id, normalizer.c_dlt_parent_id, normalizer.c_dlt_list_idx
        for child, elements in lists:
            table = child.table
            for index, element in enumerate(elements):
                row_id = get_nested_row_hash(row[c_id], table, index)
                child_row = {c_parent: row[c_id], c_index: index, c_id: row_id, **inherited}
                made.append((table, child_row))
                if type(element) is list:
                    raise UnusualItem
                fields_of = element if type(element) is dict else {normalizer.c_value: element}
                self._fill(child, fields_of, child_row, made, inherited)

    def _passes_root_id(self, table: str) -> bool:
        normalizer: Any = self.schema.data_item_normalizer
        return bool(normalizer._get_propagation_mapping and normalizer._get_propagation_mapping(table, True))

    def _learn_root(self, name: str) -> Place:
        normalizer: Any = self.schema.data_item_normalizer
        table = normalizer._normalize_table_identifier(name)
        if table not in self.schema.tables or normalizer._get_root_row_id_type(table) in ("key_hash", "row_hash"):
            raise UnusualItem
        given = {normalizer.c_dlt_load_id, normalizer.c_dlt_id}
        passed = normalizer._get_propagation_mapping and normalizer._get_propagation_mapping(table, True)
        if passed and passed != {normalizer.c_dlt_id: normalizer.c_dlt_root_id}:
            raise UnusualItem
        level = normalizer._get_table_nesting_level(table, normalizer.max_nesting)
        self._roots[name] = place = self._place(table, (table,), level, given)
        return place

    def _place(self, table: str, origin: tuple[str, ...], level: int, given: set[str]) -> Place:
        """A place where rows of a table are, who have the columns `given` from elsewhere."""
        columns = self.schema.get_table_columns(table) if table in self.schema.tables else {}
        if not given <= set(columns):
            raise UnusualItem  # its first rows are dlt's, whose schema learns of them
        return Place(table, columns, origin, level, level, dict.fromkeys(given))

    def _learn(self, place: Place, key: str, value: Any) -> Becomes:
        """What values of this key and type become, by what dlt would say to each."""
        normalizer: Any = self.schema.data_item_normalizer
        identifier = normalizer._normalize_identifier(key) if key and not key.isspace() else "_empty"
        name = normalizer._shorten_fragments(*place.path, identifier) if place.path else identifier
        kind = type(value)
        if kind in (dict, list) and not normalizer._is_nested_type(place.table, name, place.level):
            field = self._learn_dict(place, identifier) if kind is dict else self._learn_list(place, key)
        else:
            self._claim(place, name, key)
            field = self._learn_value(place, name, value)
        place.others[key, kind] = field
        if value is not None:
            place.usual.setdefault(key, field)
        return field

    def _claim(self, place: Place, name: str, key: str) -> None:
        """Of two keys for one name, dlt knows which comes last."""
        if place.names.setdefault(name, (place.path, key)) != (place.path, key):
            raise UnusualItem

    def _learn_dict(self, place: Place, identifier: str) -> Becomes:
        path = (*place.path, identifier)
        part = Place(place.table, place.columns, place.origin, place.row_level, place.level - 1, place.names, path)
        return dict, FIELDS, None, part

    def _learn_list(self, place: Place, key: str) -> Becomes:
        normalizer: Any = self.schema.data_item_normalizer
        origin = (*place.origin, *place.path, normalizer._normalize_table_identifier(key))
        table = normalizer._shorten_fragments(*origin)
        self._claim(place, f"list {table}", key)
        mapping = normalizer._get_propagation_mapping
        if not normalizer._should_be_nested(table) or (mapping and mapping(table, False)):
            raise UnusualItem
        given = {normalizer.c_dlt_id, normalizer.c_dlt_parent_id, normalizer.c_dlt_list_idx}
        if self._passes_root_id(place.origin[0]):
            given.add(normalizer.c_dlt_root_id)
        return list, ROWS, None, self._place(table, origin, place.row_level - 1, given)

    def _learn_value(self, place: Place, name: str, value: Any) -> Becomes:
        if value is None:
            try:
                self._coerce_null_value(self.schema.tables[place.table]["columns"], place.table, name)
            except CannotCoerceNullException:
                raise UnusualItem from None
            return type(None), NOTHING, None, None
        column = place.columns.get(name)
        have, want = self._type_map.get(type(value)), (column or {}).get("data_type")
        if not column or not have or not want:
            raise UnusualItem
        if have == want != "timestamp":
            return type(value), VALUE, name, None
        if not self._can_coerce_type(want, have):
            raise UnusualItem
        coerce = partial(self._coerce_type, want, have)
        if want == "timestamp":
            zone = column.get("timezone", True) if self._timezone_override is None else self._timezone_override
            return type(value), COERCED, name, _to_timestamp(coerce, bool(zone))
        return type(value), COERCED, name, coerce


def _to_timestamp(coerce: Callable[[Any], datetime], has_zone: bool) -> Callable[[Any], datetime]:
    """dlt's way from a value to a timestamp, with a short cut for what most APIs send: 2026-01-31T12:00:00Z."""

    def timestamp(value: Any) -> datetime:
        if has_zone and type(value) is str and len(value) == 20 and value[10] == "T" and value[19] == "Z":
            try:
                return datetime.fromisoformat(value)
            except ValueError:
                pass
        return normalize_timezone(coerce(value), has_zone)

    return timestamp


setattr(worker, "JsonLItemsNormalizer", LearningNormalizer)  # noqa: B010  # dlt has no other way to name one
