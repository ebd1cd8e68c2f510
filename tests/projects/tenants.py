"""Tenants and endpoints: a partition for each pair, and a table for each endpoint."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import dlt
from dagster_dlt import DagsterDltResource, dlt_assets

PAIRS = dg.MultiPartitionsDefinition(
    {
        "tenant": dg.StaticPartitionsDefinition(["acme", "bolt", "cray"]),
        "endpoint": dg.StaticPartitionsDefinition(["invoices", "refunds"]),
    }
)
RUNS = [{"partition_key": pair} for pair in PAIRS.get_partition_keys()]
DATASET = "billing"


@dlt.source(name="billing")
def billing(tenant: str = "", endpoint: str = "") -> Any:
    @dlt.resource(
        table_name=lambda row: row["endpoint"], write_disposition="merge", primary_key=["tenant", "endpoint", "id"]
    )
    def documents() -> Iterator[Any]:
        yield [{"tenant": tenant, "endpoint": endpoint, "id": n, "cents": n * 100} for n in range(50)]

    return documents


def definitions(resource: DagsterDltResource, **folder: Any) -> dg.Definitions:
    @dlt_assets(
        dlt_source=billing(),
        dlt_pipeline=dlt.pipeline("billing", dataset_name=DATASET, destination="postgres", **folder),
        name="billing",
        partitions_def=PAIRS,
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[Any]:
        assert isinstance(context.partition_key, dg.MultiPartitionKey)
        yield from dlt.run(context=context, dlt_source=billing(**context.partition_key.keys_by_dimension))

    return dg.Definitions(assets=[assets], resources={"dlt": resource})
