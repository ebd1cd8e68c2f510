"""Tables of a database, listed in YAML: an asset and a pipeline each."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import dlt
import sqlalchemy as sa
import yaml
from dagster_dlt import DagsterDltResource, DagsterDltTranslator, dlt_assets
from dagster_dlt.translator import DltResourceTranslatorData
from dlt.sources.sql_database import sql_table

TABLES = yaml.safe_load(Path(__file__).with_name("tables.yaml").read_text())
RUNS = [{"asset_selection": [dg.AssetKey(["erp", table["name"]])]} for table in TABLES]
DATASET = "erp"
NUMBERS = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 90)"
COLUMNS = {
    "customers": "n AS id, 'Customer ' || n AS name",
    "items": "n / 3 AS order_id, n % 3 AS line, n * 0.5 AS price, n / 9 AS changed_at",
    "orders": "n AS id, n % 7 AS customer_id, n / 9 AS changed_at",
    "visits": "n AS id, n % 7 AS customer_id",
    "products": "n AS id, 'Product ' || n AS name",
    "countries": "'C' || n AS code",
}


def erp_database() -> sqlite3.Connection:
    """A connection to the database that the tables are in, which stays as it is."""
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    for table, columns in COLUMNS.items():
        connection.execute(f"CREATE TABLE {table} AS {NUMBERS} SELECT {columns} FROM numbers")
    return connection


class ErpTranslator(DagsterDltTranslator):
    def get_asset_spec(self, data: DltResourceTranslatorData) -> dg.AssetSpec:
        return super().get_asset_spec(data).replace_attributes(key=["erp", data.resource.name], deps=[])


@dlt.source(name="erp")
def erp(name: str, key: Any = None, cursor: str | None = None, disposition: Any = "merge") -> Any:
    return sql_table(
        sa.create_engine("sqlite://", creator=erp_database, poolclass=sa.NullPool),
        table=name,
        primary_key=key,
        incremental=dlt.sources.incremental(cursor) if cursor else None,
        write_disposition=disposition,
    )


def assets(table: Any, **folder: Any) -> dg.AssetsDefinition:
    @dlt_assets(
        dlt_source=erp(**table),
        dlt_pipeline=dlt.pipeline(f"erp_{table['name']}", dataset_name=DATASET, destination="postgres", **folder),
        name=f"erp_{table['name']}",
        dagster_dlt_translator=ErpTranslator(),
    )
    def of_table(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[Any]:
        yield from dlt.run(context=context)

    return of_table


def definitions(resource: DagsterDltResource, **folder: Any) -> dg.Definitions:
    return dg.Definitions(assets=[assets(table, **folder) for table in TABLES], resources={"dlt": resource})
