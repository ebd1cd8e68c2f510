"""Normalizes JSON items of the same shape in batches, column by column, where dlt goes from value to value.

The strategy: take a slice of items apart by a `Plan`, which holds dlt's own answers for each key and type. The plan
covers what leaves the schema as it is. The first item that it does not cover, for example one with a new column, goes
to dlt itself together with some items after it; what lies before it is written in batches. If dlt changes the schema,
a new plan is made. So every item reaches the schema and the files in its place: the order of items decides on types.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

from dlt.common.data_writers.writers import ParquetDataWriter
from dlt.common.normalizers.json.helpers import get_nested_row_hash
from dlt.common.normalizers.json.relational import DataItemNormalizer
from dlt.common.normalizers.utils import generate_dlt_ids
from dlt.common.schema.typing import TSchemaUpdate
from dlt.normalize import worker
from dlt.normalize.items_normalizers import JsonLItemsNormalizer

from runtime.accelerate.parquet import ColumnBatch
from runtime.accelerate.plans import ChildTable, Coerce, FallbackToDlt, Flatten, Keep, Nest, Plan, RowPath, Skip
from runtime.load.values.normalizer import DataItemNormalizer as StrictNormalizer

SLICE = 250  # items. More do not save time, and when one is not covered, what was planned after it is thrown away
FIRST_SLICE = 25
MOST_TO_DLT = 1024

Object = dict[str, Any]


class ColumnarNormalizer(JsonLItemsNormalizer):
    """dlt's normalizer for JSON items. Makes the same rows, files and schema."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pace = Pace()

    def _normalize_chunk(
        self, root_table_name: str, items: list[Any], may_have_pua: bool, skip_write: bool
    ) -> TSchemaUpdate:
        update: TSchemaUpdate = {}
        plan: Plan | None = None
        first = 0
        while first < len(items):
            for_dlt = len(items)
            if not may_have_pua and not skip_write and self._is_plannable():
                plan = plan or self._plan(root_table_name)
                some = items[first : first + self._pace.slice]
                covered = self._write_batches(plan, some) if plan else 0
                first += covered
                if covered == len(some):
                    self._pace.speed_up()
                    continue
                for_dlt = self._pace.to_dlt
                self._pace.slow_down()
            learned = super()._normalize_chunk(
                root_table_name, items[first : first + for_dlt], may_have_pua, skip_write
            )
            first += for_dlt
            for table, partial_tables in learned.items():
                update.setdefault(table, []).extend(partial_tables)
            if learned:
                plan = None
        return update

    def _is_plannable(self) -> bool:
        """Whether dlt neither filters rows or columns nor uses another normalizer than its own."""
        filtered = self._filtered_tables or self._filtered_tables_columns or self.schema._compiled_excludes
        normalizer = type(self.schema.data_item_normalizer)
        return not filtered and normalizer in (DataItemNormalizer, StrictNormalizer)

    def _plan(self, root_table_name: str) -> Plan | None:
        try:
            return Plan(self, root_table_name)
        except FallbackToDlt:
            return None

    def _write_batches(self, plan: Plan, items: list[Any]) -> int:
        """Writes the rows of items up to the first that the plan does not cover. Returns how many it covers."""
        batches = Slice(plan, items, self.load_id)
        for table, batch in batches.covered_rows():
            self._write(table, batch)
        return batches.covered

    def _write(self, table: str, batch: ColumnBatch) -> None:
        columns = self._column_schemas.get(table)
        if not columns:
            columns = self._column_schemas[table] = self.schema.get_table_columns(table)
        writer = self.item_storage._get_writer(self.load_id, self.schema.name, table)
        is_parquet = issubclass(self.item_storage.writer_cls, ParquetDataWriter)
        start = 0
        while start < len(batch):  # not beyond the writer's buffer, so that files and row groups end where dlt's do
            end = start + max(1, writer.buffer_max_items - writer._buffered_items_count)
            rows = batch[start:end]
            item = rows if is_parquet else rows.to_rows()
            self.item_storage.write_data_item(self.load_id, self.schema.name, table, item, columns)
            start = end
        self._report_progress(table, len(batch))


@dataclass(slots=True)
class Pace:
    """How many items are planned at a time, and how many dlt takes if one of them is not covered.

    Where items need dlt again and again, dlt soon takes nearly all of them, and little is planned in vain.
    """

    slice: int = FIRST_SLICE
    to_dlt: int = 1

    def speed_up(self) -> None:
        if self.slice == SLICE:
            self.to_dlt = max(1, self.to_dlt // 4)
        self.slice = min(SLICE, self.slice * 2)

    def slow_down(self) -> None:
        self.slice = FIRST_SLICE
        self.to_dlt = min(MOST_TO_DLT, self.to_dlt * 4)


@dataclass(slots=True)
class TableRows:
    """Rows of one table, by columns."""

    table: str
    items: Sequence[int]  # by row, the number of the item that it comes from
    ids: Sequence[str]  # by row
    root_ids: Sequence[str]  # by row; none if dlt does not pass them on to child tables
    columns: dict[str, Sequence[Any]]

    def put(self, column: str, values: Sequence[Any], rows: Sequence[int]) -> None:
        """Stores values in a column, at these rows."""
        if len(values) == len(self.items):
            self.columns[column] = values
            return
        stored: Any = self.columns.setdefault(column, [None] * len(self.items))
        for row, value in zip(rows, values, strict=True):
            stored[row] = value


class Slice:
    """Items that are taken apart together, and how many of them the plan covers."""

    def __init__(self, plan: Plan, items: list[Any], load_id: str) -> None:
        self.covered = len(items)
        self._plan = plan
        self._dlt: Any = plan.relational
        self._tables: list[TableRows] = []
        if not all(type(item) is dict for item in items):
            self.covered = next(number for number, item in enumerate(items) if type(item) is not dict)
            items = items[: self.covered]
        if not items:
            return
        ids = generate_dlt_ids(len(items))
        columns: dict[str, Sequence[Any]] = {
            self._dlt.c_dlt_load_id: [load_id] * len(items),
            self._dlt.c_dlt_id: ids,
        }
        root_ids = ids if plan.passes_root_id else []
        self._add_rows(plan.root, items, TableRows(plan.root.table, range(len(items)), ids, root_ids, columns))

    def covered_rows(self) -> Iterator[tuple[str, ColumnBatch]]:
        """The rows of the covered items, by table."""
        for rows in self._tables:
            if count := bisect_left(rows.items, self.covered):
                yield rows.table, ColumnBatch(len(rows.items), rows.columns)[:count]

    def _leave_to_dlt(self, rows: TableRows, row: int) -> None:
        """The item of this row, and all after it, are not covered."""
        self.covered = min(self.covered, rows.items[row])

    def _add_rows(self, path: RowPath, objects: Sequence[Object], rows: TableRows) -> None:
        self._tables.append(rows)
        self._fill(path, objects, range(len(objects)), rows)

    def _fill(self, path: RowPath, objects: Sequence[Object], at: Sequence[int], rows: TableRows) -> None:
        """Stores what is in the objects at a path. Each belongs to the row `at` its place."""
        for key, values, at_key in _by_key(objects, at):
            for some, at_some in _by_type(values, at_key):
                self._store(path, key, some, at_some, rows)

    def _store(self, path: RowPath, key: str, values: Sequence[Any], at: Sequence[int], rows: TableRows) -> None:
        """Stores values of one key and one type."""
        try:
            plan = self._plan.column_plan(path, key, values[0])
        except Exception:  # what dlt cannot do with the value, dlt is to say, after the items before it
            self._leave_to_dlt(rows, at[0])
            return
        match plan:
            case Keep(column):
                rows.put(column, values, at)
            case Coerce(column, coerce):
                coerced = _until_error(coerce, values)
                if len(coerced) < len(values):  # dlt puts what does not fit into a column of its own
                    self._leave_to_dlt(rows, at[len(coerced)])
                rows.put(column, coerced, at[: len(coerced)])
            case Flatten(inner):
                self._fill(inner, values, at, rows)
            case Nest(child):
                self._add_children(child, values, at, rows)
            case Skip():
                pass

    def _add_children(
        self, child: ChildTable, lists: Sequence[list[Any]], at: Sequence[int], parents: TableRows
    ) -> None:
        """Makes rows of the elements of lists."""
        lengths = list(map(len, lists))
        if not any(lengths):
            return
        try:
            path = self._plan.child_rows(child)
        except Exception:
            self._leave_to_dlt(parents, next(row for row, length in zip(at, lengths, strict=True) if length))
            return
        parent_rows = _repeated(at, lengths)
        elements = list(chain.from_iterable(lists))
        items = [parents.items[row] for row in parent_rows]
        parent_ids = [parents.ids[row] for row in parent_rows]
        root_ids = [parents.root_ids[row] for row in parent_rows] if parents.root_ids else []
        places = list(chain.from_iterable(map(range, lengths)))
        ids = list(map(get_nested_row_hash, parent_ids, repeat(path.table), places))
        dlt = self._dlt
        columns: dict[str, Sequence[Any]] = {
            dlt.c_dlt_parent_id: parent_ids,
            dlt.c_dlt_list_idx: places,
            dlt.c_dlt_id: ids,
        }
        if root_ids:
            columns[dlt.c_dlt_root_id] = root_ids
        rows = TableRows(path.table, items, ids, root_ids, columns)
        for row, element in enumerate(elements):
            if type(element) is list:  # dlt makes a table in between
                self._leave_to_dlt(rows, row)
                break
        self._add_rows(path, [one if type(one) is dict else {dlt.c_value: one} for one in elements], rows)


Values = tuple[Sequence[Any], Sequence[int]]


def _by_key(objects: Sequence[Object], at: Sequence[int]) -> Iterator[tuple[str, Sequence[Any], Sequence[int]]]:
    """The values under each key, and the rows of the objects that have it."""
    if len(set(map(tuple, objects))) == 1:
        columns = zip(*map(dict.values, objects), strict=True)
        yield from ((key, values, at) for key, values in zip(objects[0], columns, strict=True))
        return
    found: dict[str, tuple[list[Any], list[int]]] = {}
    for one, row in zip(objects, at, strict=True):
        for key, value in one.items():
            values, rows = found.get(key) or found.setdefault(key, ([], []))
            values.append(value)
            rows.append(row)
    for key, (values, rows) in found.items():
        yield key, values, rows


def _by_type(values: Sequence[Any], at: Sequence[int]) -> Iterable[tuple[Sequence[Any], Sequence[int]]]:
    """The values of each type, and their rows."""
    types = set(map(type, values))
    if len(types) == 1:
        return [(values, at)]
    found: Mapping[type, tuple[list[Any], list[int]]] = {one: ([], []) for one in types}
    for value, row in zip(values, at, strict=True):
        of_type, rows = found[type(value)]
        of_type.append(value)
        rows.append(row)
    return found.values()


def _until_error(function: Callable[[Any], Any], values: Sequence[Any]) -> list[Any]:
    """The results up to the first value that the function raises on."""
    results = []
    with suppress(Exception):
        for value in values:
            results.append(function(value))
    return results


def _repeated(values: Sequence[Any], times: Sequence[int]) -> list[Any]:
    return list(chain.from_iterable(map(repeat, values, times)))


def install() -> None:
    setattr(worker, "JsonLItemsNormalizer", ColumnarNormalizer)  # noqa: B010  # dlt has no setting for it
