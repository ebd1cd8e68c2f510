"""Writes whole columns into Parquet files, where dlt writes rows."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from dlt.common import json
from dlt.common.data_writers.writers import ParquetDataWriter

if TYPE_CHECKING:
    import pyarrow

Row = dict[str, Any]


@dataclass(frozen=True)
class ColumnBatch:
    """Rows of a table by its columns, each with a value per row. Where a column is missing, it is null."""

    size: int
    values: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return self.size

    @property
    def shape(self) -> tuple[int]:
        """By this, dlt knows that it is to count rows, as in a data frame."""
        return (self.size,)

    @classmethod
    def of(cls, rows: Sequence[Row], names: Sequence[str]) -> "ColumnBatch":
        return cls(len(rows), {name: [row.get(name) for row in rows] for name in names})

    def to_rows(self) -> list[Row]:
        """Each without its nulls."""
        by_row = zip(*self.values.values(), strict=True)
        return [
            {name: value for name, value in zip(self.values, row, strict=True) if value is not None} for row in by_row
        ]

    def to_table(self, schema: "pyarrow.Schema", as_json: Collection[str]) -> "pyarrow.Table":
        import pyarrow

        columns: list[Any] = []
        for field in schema:
            values = self.values.get(field.name)
            if values is not None and field.name in as_json:
                values = [one if one is None or isinstance(one, str) else json.dumps(one) for one in values]
            columns.append(
                pyarrow.nulls(self.size, field.type) if values is None else pyarrow.array(values, field.type)
            )
        return pyarrow.Table.from_arrays(columns, schema=schema)


def _write_data(self: Any, items: Sequence[Any]) -> None:
    """Rows as dlt does, and columns, which it does not know."""
    import pyarrow

    if not any(isinstance(item, ColumnBatch) for item in items):
        return _dlt_write_data(self, items)
    tables = []
    for kind, group in groupby(items, type):
        some: list[Any] = list(group)
        if kind is not ColumnBatch:
            some = [ColumnBatch.of(some, self.schema.names)]
        tables += [columns.to_table(self.schema, self.nested_indices) for columns in some]
    table = pyarrow.concat_tables(tables)
    self.writer.write_table(table, row_group_size=self.parquet_format.row_group_size)
    self.items_count += len(table)


_dlt_write_data = ParquetDataWriter.write_data


def install() -> None:
    ParquetDataWriter.write_data = _write_data  # type: ignore[method-assign]
