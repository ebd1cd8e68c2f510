"""One op that loads several tables, a `dlt.run` for each, with a partition for each region."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import dlt
from dagster_dlt import DagsterDltResource, DagsterDltTranslator
from dagster_dlt.translator import DltResourceTranslatorData

REGIONS = ["africa", "america", "antarctica", "asia", "europe", "oceania"]
RUNS = [{"partition_key": region} for region in REGIONS]
TABLES = {"accounts": 40, "contacts": 90}
DATASET = "crm"


class CrmTranslator(DagsterDltTranslator):
    def get_asset_spec(self, data: DltResourceTranslatorData) -> dg.AssetSpec:
        return super().get_asset_spec(data).replace_attributes(key=["crm", data.resource.name], deps=[])


@dlt.source(name="crm")
def crm(region: str) -> Any:
    def rows(number: int) -> Iterator[Any]:
        yield [{"region": region, "id": n, "tags": [f"{region}-{n % 3}"]} for n in range(number)]

    for table, number in TABLES.items():
        yield dlt.resource(rows, name=table, write_disposition="merge", primary_key=["region", "id"])(number)


def definitions(resource: DagsterDltResource, **folder: Any) -> dg.Definitions:
    @dg.multi_asset(
        specs=[dg.AssetSpec(["crm", table]) for table in TABLES],
        name="crm",
        partitions_def=dg.StaticPartitionsDefinition(REGIONS),
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[Any]:
        for table in TABLES:
            yield from dlt.run(
                context=context,
                dlt_source=crm(context.partition_key).with_resources(table),
                dlt_pipeline=pipeline(**folder),
                dagster_dlt_translator=CrmTranslator(),
            )

    return dg.Definitions(assets=[assets], resources={"dlt": resource})


def pipeline(**folder: Any) -> Any:
    return dlt.pipeline("crm", dataset_name=DATASET, destination="postgres", **folder)
