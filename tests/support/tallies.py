"""Tallies of shops, a partition each: goods are merged, sales appended. TALLIES_FORMAT makes them Delta or Iceberg."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import dagster as dg
import dlt
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType

from runtime.load.resource import IsolatedDltResource
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import warehouse_pipeline

SHOPS = ["a", "b", "c", "d", "e", "f"]
GOODS = 20
DATASET = "raw_tallies"


@dlt.source(name="tallies", section="tallies")
def tallies(shop: str = "a") -> Any:
    """What a shop has, and what it has sold."""
    form: Any = os.environ.get("TALLIES_FORMAT")
    merge: Any = {"disposition": "merge", "strategy": "upsert" if form else "delete-insert"}

    @dlt.resource(name="goods", write_disposition=merge, primary_key=["shop", "id"], table_format=form)
    def read_goods() -> Iterator[Any]:
        yield [{"shop": shop, "id": id, "labels": [f"{shop}{id}", "new"]} for id in range(GOODS)]

    @dlt.resource(name="sales", write_disposition="append", table_format=form)
    def read_sales() -> Iterator[Any]:
        yield [{"shop": shop, "id": id} for id in range(GOODS)]

    return read_goods, read_sales


def load(shop: str, pipeline: dlt.Pipeline | None = None) -> bool:
    """Loads a shop."""

    @dlt_assets(
        dlt_source=tallies(),
        dlt_pipeline=pipeline or warehouse_pipeline("tallies", DATASET),
        name="tallies",
        dagster_dlt_translator=SourceTranslator(source="tallies"),
        partitions_def=dg.StaticPartitionsDefinition(SHOPS),
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        yield from dlt.run(context=context, dlt_source=tallies(context.partition_key))

    return dg.materialize([assets], partition_key=shop, resources={"dlt": IsolatedDltResource()}).success


def load_at_once() -> None:
    """Loads all shops, each in a process of its own."""
    with ProcessPoolExecutor(len(SHOPS), mp_context=get_context("spawn")) as pool:
        assert list(pool.map(load, SHOPS)) == [True] * len(SHOPS)
