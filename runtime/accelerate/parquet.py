"""Parquet files from whole columns: dlt's writer makes them from rows only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlt.common import json
from dlt.common.data_writers.writers import ParquetDataWriter


@dataclass(frozen=True)
class ColumnBatch:
    """Rows of a table by columns, each with a value per row. A column that is missing is null."""

    size: int
    columns: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, rows: slice) -> "ColumnBatch":
        size = len(range(self.size)[rows])
        if size == self.size:
            return self
        return ColumnBatch(size, {name: values[rows] for name, values in self.columns.items()})

    @property
    def shape(self) -> tuple[int]:
        """Tells dlt to count rows, as in a data frame."""
        return (self.size,)

    def column(self, name: str) -> Sequence[Any]:
        return self.columns.get(name) or [None] * self.size

    def to_rows(self) -> list[dict[str, Any]]:
        """The rows, each without its nulls."""
        rows = zip(*self.columns.values(), strict=True)
        return [
            {name: value for name, value in zip(self.columns, row, strict=True) if value is not None} for row in rows
        ]


def _write_data(self: Any, items: Sequence[Any]) -> None:
    """As dlt's method, for rows and batches."""
    import pyarrow

    if not any(isinstance(item, ColumnBatch) for item in items):
        return _dlt_write_data(self, items)
    columns = {name: _column(items, name) for name in self.schema.names}
    for name in self.nested_indices:
        columns[name] = [one if one is None or isinstance(one, str) else json.dumps(one) for one in columns[name]]
    table = pyarrow.Table.from_arrays(list(columns.values()), schema=self.schema)
    self.items_count += len(table)
    self.writer.write_table(table, row_group_size=self.parquet_format.row_group_size)


def _column(items: Sequence[Any], name: str) -> list[Any]:
    values: list[Any] = []
    for item in items:
        if isinstance(item, ColumnBatch):
            values.extend(item.column(name))
        else:
            values.append(item.get(name))
    return values


_dlt_write_data = ParquetDataWriter.write_data


def install() -> None:
    ParquetDataWriter.write_data = _write_data  # type: ignore[method-assign]
