"""The warehouse that a test of the runtime loads into."""

from dataclasses import dataclass
from typing import Any

from runtime.load.warehouse import warehouse_pipeline


@dataclass
class Warehouse:
    """The warehouse that WAREHOUSE names, for one test."""

    name: str
    credentials: str

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """The result of a query in the dataset `raw_colours`."""
        with warehouse_pipeline("reader", "raw_colours").sql_client() as client:
            return [tuple(row) for row in client.execute_sql(sql) or ()]

    def datasets(self) -> set[str]:
        """The names of all datasets that loads have created."""
        sql = "SELECT schema_name FROM information_schema.schemata WHERE schema_name LIKE 'raw%'"
        return {name for (name,) in self.rows(sql)}
