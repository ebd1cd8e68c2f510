"""dlt's normalizer, in a fraction of its time: items that are alike are taken apart together, column by column.

dlt asks of each value anew which table and column it belongs to, of what type that is, and how it becomes one. Here the
answers are dlt's too, but kept, by the place and type of values. What they do not cover, such as a new column, another
type or a filter, makes an item unusual: dlt itself takes that apart, with all that its schema may learn from it.

Unusual items come first, where dlt keeps to their order. That shows in one case: where an item has a list `a__b` and
another a JSON column of that name, from `b` in `a`, an empty list before it becomes `[]` in that column, not nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import chain, repeat
from typing import Any

from dlt.common.data_writers.writers import ParquetDataWriter
from dlt.common.normalizers.json.helpers import get_nested_row_hash
from dlt.common.normalizers.json.relational import DataItemNormalizer
from dlt.common.normalizers.utils import generate_dlt_ids
from dlt.common.schema.exceptions import CannotCoerceNullException
from dlt.common.schema.typing import TPartialTableSchema, TSchemaUpdate, TTableSchemaColumns
from dlt.common.time import normalize_timezone
from dlt.normalize import worker
from dlt.normalize.items_normalizers import JsonLItemsNormalizer

from runtime.accelerate.parquet import ColumnBatch

Item = dict[str, Any]


class FallbackToDlt(Exception):
    """An item that takes dlt itself."""


# What values become: a column, as they are or of another type; columns of the same rows, if they are dicts; rows of a
# child table, if they are lists; nothing, if they are null. And how: a name, a function, a RowPath, a ChildTable.
VALUE, COERCED, FIELDS, ROWS, NOTHING = range(5)
ColumnPlan = tuple[int, str, Any]

TOGETHER = 250  # items: with all of a file's 5,000, normalizing 10,000 issues takes 1.1 times as long


@dataclass(slots=True, eq=False)
class RowPath:
    """Where dicts are in the items: the rows of a table, or with a `path` parts of them. Levels are dlt's limit."""

    table: str
    columns: TTableSchemaColumns
    origin: tuple[str, ...]  # of the table: its name, and the lists on the way to it
    row_level: int
    level: int
    names: dict[str, Any]  # of the row's columns and lists, and the keys that they come from
    path: tuple[str, ...] = ()
    known: dict[tuple[str, type], ColumnPlan] = field(default_factory=dict)  # by key, and type of value


@dataclass(slots=True, eq=False)
class ChildTable:
    """Lists at a place, of which the elements are rows of a child table."""

    place: RowPath
    key: str
    rows: RowPath | None = None  # known once there are any


@dataclass(slots=True)
class Batch:
    """Rows of one table that are made together."""

    items: Sequence[int]  # by row: which item it comes from
    unusual: set[int]  # items
    columns: dict[str, Sequence[Any]]
    lists: dict[ChildTable, Sequence[Any]] = field(default_factory=dict)

    def put(self, into: dict[Any, Sequence[Any]], name: Any, values: Sequence[Any], at: Sequence[int] | None) -> None:
        """Makes values a column, or puts them into one at the rows `at`."""
        if at is None:
            into[name] = values
            return
        column: Any = into.setdefault(name, [None] * len(self.items))
        for row, value in zip(at, values, strict=True):
            column[row] = value

    def refuse(self, at: Iterable[int] | None) -> None:
        """The items of the rows `at`, or of all, are unusual."""
        self.unusual.update(self.items if at is None else (self.items[row] for row in at))


class ColumnarNormalizer(JsonLItemsNormalizer):
    """Fast with what it knows. Makes the same rows, and the same schema, as dlt's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._roots: dict[str, RowPath] = {}

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
        for first in range(0, len(items), TOGETHER):
            for table, partials in self._take(root_table_name, items[first : first + TOGETHER], by_dlt):
                update.setdefault(table, []).extend(partials)
        return update

    def _take(
        self, root_table_name: str, items: list[Any], by_dlt: Callable[[list[Any]], TSchemaUpdate]
    ) -> Iterator[tuple[str, list[TPartialTableSchema]]]:
        """Writes the rows of items, of unusual ones first: what the schema learns of some makes others usual."""
        number = 1
        while items:
            batches, unusual = self._batches(root_table_name, items)
            if not unusual:
                for table, batch in batches:
                    self._write(table, ColumnBatch(len(batch.items), batch.columns))
                return
            order = sorted(unusual)
            learned = by_dlt([items[n] for n in order[:number]])
            if not learned:  # then there is nothing to learn of the others either
                learned = by_dlt([items[n] for n in order[number:]])
                number = len(order)
            if learned:
                self._roots.clear()  # what was known held for the schema as it was
                yield from learned.items()
            taken = set(order[:number])
            items = [item for n, item in enumerate(items) if n not in taken]
            number *= 2

    def _write(self, table: str, rows: ColumnBatch) -> None:
        is_parquet = issubclass(self.item_storage.writer_cls, ParquetDataWriter)
        columns = self.schema.get_table_columns(table)
        self.item_storage.write_data_item(
            self.load_id, self.schema.name, table, rows if is_parquet else rows.to_rows(), columns
        )
        self._report_progress(table, len(rows))

    def _batches(self, root_table_name: str, items: list[Any]) -> tuple[list[tuple[str, Batch]], set[int]]:
        """The rows of items and their tables, and which of the items are unusual: then the rows are not whole."""
        unusual = {n for n, item in enumerate(items) if not isinstance(item, dict)}
        if unusual:
            return [], unusual
        try:
            root = self._roots.get(root_table_name) or self._learn_root(root_table_name)
        except FallbackToDlt:
            return [], set(range(len(items)))
        normalizer: Any = self.schema.data_item_normalizer
        ids = generate_dlt_ids(len(items))
        given: dict[str, Sequence[Any]] = {
            normalizer.c_dlt_load_id: [self.load_id] * len(items),
            normalizer.c_dlt_id: ids,
        }
        batch = Batch(range(len(items)), unusual, given)
        return list(self._descend(root, items, batch, ids if self._passes_root_id(root.table) else [])), unusual

    def _descend(
        self, place: RowPath, dicts: Sequence[Item], batch: Batch, root_ids: Sequence[str]
    ) -> Iterator[tuple[str, Batch]]:
        """Fills a batch with the rows of dicts, and makes those of the lists in them."""
        self._fill(place, dicts, None, batch)
        yield place.table, batch
        normalizer: Any = self.schema.data_item_normalizer
        for nested, lists in batch.lists.items():
            lengths = [len(one or ()) for one in lists]
            if not any(lengths):
                continue
            try:
                child = nested.rows or self._learn_list(nested)
            except FallbackToDlt:
                batch.refuse(row for row, length in enumerate(lengths) if length)
                continue
            elements = [element for one in lists for element in one or ()]
            items = _repeated(batch.items, lengths)
            batch.unusual.update(item for item, element in zip(items, elements, strict=True) if type(element) is list)
            parents = _repeated(batch.columns[normalizer.c_dlt_id], lengths)
            indexes = list(chain.from_iterable(map(range, lengths)))
            given: dict[str, Sequence[Any]] = {
                normalizer.c_dlt_parent_id: parents,
                normalizer.c_dlt_list_idx: indexes,
                normalizer.c_dlt_id: list(map(get_nested_row_hash, parents, repeat(child.table), indexes)),
            }
            if roots := _repeated(root_ids, lengths):
                given[normalizer.c_dlt_root_id] = roots
            rows = [one if type(one) is dict else {normalizer.c_value: one} for one in elements]
            yield from self._descend(child, rows, Batch(items, batch.unusual, given), roots)

    def _fill(self, place: RowPath, dicts: Sequence[Item], at: Sequence[int] | None, batch: Batch) -> None:
        """Puts dicts into the rows `at` of a batch, or into all."""
        groups: list[tuple[Sequence[Item], Sequence[int] | None]] = [(dicts, at)]
        if len(set(map(tuple, dicts))) > 1:
            by_keys: dict[tuple[str, ...], list[tuple[Item, int]]] = {}
            for one, row in zip(dicts, at or range(len(dicts)), strict=True):
                by_keys.setdefault(tuple(one), []).append((one, row))
            groups = [_unzipped(pairs) for pairs in by_keys.values()]
        for alike, where in groups:
            for key, values in zip(alike[0], zip(*map(dict.values, alike), strict=True), strict=True):
                kinds = set(map(type, values))
                if len(kinds) == 1:
                    self._put(place, key, values, where, batch)
                    continue
                for kind in kinds:
                    some = zip(values, where or range(len(values)), strict=True)
                    self._put(place, key, *_unzipped(pair for pair in some if type(pair[0]) is kind), batch)

    def _put(self, place: RowPath, key: str, values: Sequence[Any], at: Sequence[int] | None, batch: Batch) -> None:
        """Puts values of one key and type where they belong."""
        try:
            becomes, name, how = place.known.get((key, type(values[0]))) or self._learn(place, key, values[0])
        except FallbackToDlt:
            batch.refuse(at)
            return
        if becomes == VALUE:
            batch.put(batch.columns, name, values, at)
        elif becomes == COERCED:
            try:
                batch.put(batch.columns, name, how(values), at)
            except (ValueError, SyntaxError):  # of some, which dlt puts into a column of their own
                batch.refuse(
                    row for row, value in zip(at or range(len(values)), values, strict=True) if _fails(how, value)
                )
        elif becomes == FIELDS:
            self._fill(how, values, at, batch)
        elif becomes == ROWS:
            batch.put(batch.lists, how, values, at)

    def _passes_root_id(self, table: str) -> bool:
        normalizer: Any = self.schema.data_item_normalizer
        return bool(normalizer._get_propagation_mapping and normalizer._get_propagation_mapping(table, True))

    def _learn_root(self, name: str) -> RowPath:
        normalizer: Any = self.schema.data_item_normalizer
        table = normalizer._normalize_table_identifier(name)
        if table not in self.schema.tables or normalizer._get_root_row_id_type(table) in ("key_hash", "row_hash"):
            raise FallbackToDlt
        given = {normalizer.c_dlt_load_id, normalizer.c_dlt_id}
        passed = normalizer._get_propagation_mapping and normalizer._get_propagation_mapping(table, True)
        if passed and passed != {normalizer.c_dlt_id: normalizer.c_dlt_root_id}:
            raise FallbackToDlt
        level = normalizer._get_table_nesting_level(table, normalizer.max_nesting)
        self._roots[name] = place = self._place(table, (table,), level, given)
        return place

    def _place(self, table: str, origin: tuple[str, ...], level: int, given: set[str]) -> RowPath:
        """A place where rows of a table are, who have the columns `given` from elsewhere."""
        columns = self.schema.get_table_columns(table) if table in self.schema.tables else {}
        if not given <= set(columns):
            raise FallbackToDlt  # its first rows are dlt's, whose schema learns of them
        return RowPath(table, columns, origin, level, level, dict.fromkeys(given))

    def _learn(self, place: RowPath, key: str, value: Any) -> ColumnPlan:
        """What values of this key and type become, by what dlt would say to each."""
        normalizer: Any = self.schema.data_item_normalizer
        identifier = normalizer._normalize_identifier(key) if key and not key.isspace() else "_empty"
        name = normalizer._shorten_fragments(*place.path, identifier) if place.path else identifier
        kind = type(value)
        if kind not in (dict, list) or normalizer._is_nested_type(place.table, name, place.level):
            self._claim(place, name, key)
            learned = self._learn_value(place, name, value)
        elif kind is dict:
            path = (*place.path, identifier)
            part = RowPath(
                place.table, place.columns, place.origin, place.row_level, place.level - 1, place.names, path
            )
            learned = FIELDS, name, part
        else:
            learned = ROWS, name, ChildTable(place, key)
        place.known[key, kind] = learned
        return learned

    def _claim(self, place: RowPath, name: str, key: str) -> None:
        """Of two keys for one name, dlt knows which comes last."""
        if place.names.setdefault(name, (place.path, key)) != (place.path, key):
            raise FallbackToDlt

    def _learn_list(self, nested: ChildTable) -> RowPath:
        """The place of the rows in a list that is not empty."""
        normalizer: Any = self.schema.data_item_normalizer
        place, key = nested.place, nested.key
        origin = (*place.origin, *place.path, normalizer._normalize_table_identifier(key))
        table = normalizer._shorten_fragments(*origin)
        self._claim(place, f"list {table}", key)
        mapping = normalizer._get_propagation_mapping
        if not normalizer._should_be_nested(table) or (mapping and mapping(table, False)):
            raise FallbackToDlt
        given = {normalizer.c_dlt_id, normalizer.c_dlt_parent_id, normalizer.c_dlt_list_idx}
        if self._passes_root_id(place.origin[0]):
            given.add(normalizer.c_dlt_root_id)
        nested.rows = self._place(table, origin, place.row_level - 1, given)
        return nested.rows

    def _learn_value(self, place: RowPath, name: str, value: Any) -> ColumnPlan:
        if value is None:
            try:
                self._coerce_null_value(self.schema.tables[place.table]["columns"], place.table, name)
            except CannotCoerceNullException:
                raise FallbackToDlt from None
            return NOTHING, name, None
        column = place.columns.get(name)
        have, want = self._type_map.get(type(value)), (column or {}).get("data_type")
        if not column or not have or not want:
            raise FallbackToDlt
        if have == want != "timestamp":
            return VALUE, name, None
        if not self._can_coerce_type(want, have):
            raise FallbackToDlt
        coerce = partial(self._coerce_type, want, have)
        if want != "timestamp":
            return COERCED, name, lambda values: list(map(coerce, values))
        zone = column.get("timezone", True) if self._timezone_override is None else self._timezone_override
        return COERCED, name, partial(_timestamps, coerce, bool(zone))


def _timestamps(coerce: Callable[[Any], datetime], has_zone: bool, values: Sequence[Any]) -> list[datetime]:
    """dlt's way from values to timestamps, with a short cut for what most APIs send: 2026-01-31T12:00:00Z."""
    if has_zone and type(values[0]) is str and all(value[4::3] == "--T::Z" for value in values):
        try:
            return list(map(datetime.fromisoformat, values))
        except ValueError:
            pass
    return [normalize_timezone(coerce(value), has_zone) for value in values]


def _repeated(values: Iterable[Any], times: Iterable[int]) -> list[Any]:
    return list(chain.from_iterable(map(repeat, values, times)))


def _unzipped(pairs: Iterable[tuple[Any, int]]) -> tuple[Sequence[Any], Sequence[int]]:
    values, at = zip(*pairs, strict=True)
    return values, at


def _fails(coerce: Callable[[Sequence[Any]], Any], value: Any) -> bool:
    try:
        coerce([value])
    except (ValueError, SyntaxError):
        return True
    return False


def install() -> None:
    setattr(worker, "JsonLItemsNormalizer", ColumnarNormalizer)  # noqa: B010  # dlt has no setting for it
