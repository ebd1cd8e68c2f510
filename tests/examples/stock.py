"""Stock by store: each load replaces the rows of its partition, and only those. Variable: SOURCES__STOCK__FOLDER."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import dlt
from dagster_dlt import DagsterDltResource, dlt_assets
from dlt.common import json

from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import warehouse_pipeline

stores = dg.StaticPartitionsDefinition(["bern", "bonn", "brno", "lyon", "oslo", "rome"])


@dlt.source(section="stock")
def stock_source(store: str = "") -> Any:
    @dlt.resource(
        name="shelves",
        write_disposition="merge",
        merge_key="store",
        columns={"replaced": {"data_type": "bool", "hard_delete": True}},
    )
    def read_shelves() -> Iterator[Any]:
        """Shelves of the stores with the items on each, as of the last load of the store."""
        yield {"store": store, "replaced": True}  # deletes what the store has, and is not stored itself
        for shelf in json.loads(Path(dlt.config["sources.stock.folder"], f"{store}.json").read_text()):
            yield shelf | {"store": store}

    return read_shelves


@dlt_assets(
    dlt_source=stock_source(),
    dlt_pipeline=warehouse_pipeline("stock", "raw_stock"),
    name="stock",
    dagster_dlt_translator=SourceTranslator(source="stock"),
    partitions_def=stores,
)
def stock_assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[Any]:
    yield from dlt.run(context=context, dlt_source=stock_source(context.partition_key))


defs = dg.Definitions(assets=[stock_assets])
