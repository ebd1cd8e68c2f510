"""What the catalogue says of a load."""

from dlt.common.schema import Schema
from dlt.common.schema.typing import TColumnSchema, TTableSchema

from runtime.metadata import tables_of


def test_a_resource_has_the_tables_with_columns_and_their_descendants() -> None:
    text: TColumnSchema = {"name": "text", "data_type": "text"}
    never_seen: TColumnSchema = {"name": "never_seen"}  # of which only a hint is known
    tables: list[TTableSchema] = [
        {"name": "orders", "resource": "orders", "columns": {"text": text}},
        {"name": "orders__lines", "parent": "orders", "columns": {"text": text}},
        {"name": "orders__lines__taxes", "parent": "orders__lines", "columns": {"text": text}},
        {"name": "orders__notes", "parent": "orders", "columns": {"never_seen": never_seen}},
        {"name": "customers", "resource": "customers", "columns": {"text": text}},
    ]
    schema = Schema("shop")
    for table in tables:
        schema.update_table(table)

    assert list(tables_of("orders", schema)) == ["orders", "orders__lines", "orders__lines__taxes"]
