"""Orders by day, and a dbt project that reads them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import dlt
from dagster_dbt import DagsterDbtTranslator, DagsterDbtTranslatorSettings, DbtCliResource, DbtProject, dbt_assets
from dagster_dlt import DagsterDltResource, dlt_assets

DAYS = dg.DailyPartitionsDefinition(start_date="2026-01-01", end_date="2026-01-07")
RUNS = [
    {"asset_selection": [dg.AssetKey("dlt_shop_orders")], "partition_key": day} for day in DAYS.get_partition_keys()
]
THEN = [{"asset_selection": [dg.AssetKey("orders_per_day")]}]
DATASET = "shop"
DBT = str(Path(sys.executable).with_name("dbt"))


@dlt.source(name="shop")
def shop(start: datetime | None = None) -> Any:
    @dlt.resource(write_disposition="merge", primary_key="id")
    def orders() -> Iterator[Any]:
        assert start
        for hour in range(24):
            placed_at = start + timedelta(hours=hour)
            yield {"id": f"{placed_at:%d-%H}", "placed_at": placed_at, "lines": [{"pieces": 1}, {"pieces": hour}]}

    return orders


def definitions(resource: DagsterDltResource, **folder: Any) -> dg.Definitions:
    project = DbtProject(Path(__file__).parent, target_path=os.environ["DBT_TARGET_PATH"])
    if not project.manifest_path.exists():
        subprocess.run([DBT, "parse", "--quiet"], cwd=project.project_dir, check=True)

    @dlt_assets(
        dlt_source=shop(),
        dlt_pipeline=dlt.pipeline("shop", dataset_name=DATASET, destination="postgres", **folder),
        name="shop",
        partitions_def=DAYS,
    )
    def loads(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[Any]:
        yield from dlt.run(context=context, dlt_source=shop(context.partition_time_window.start))

    one_key = DagsterDbtTranslatorSettings(enable_duplicate_source_asset_keys=True)  # orders, and their lines

    @dbt_assets(
        manifest=project.manifest_path, project=project, dagster_dbt_translator=DagsterDbtTranslator(settings=one_key)
    )
    def models(context: dg.AssetExecutionContext, dbt: DbtCliResource) -> Iterator[Any]:
        yield from dbt.cli(["build"], context=context).stream()

    resources = {"dlt": resource, "dbt": DbtCliResource(project, dbt_executable=DBT)}
    return dg.Definitions(assets=[loads, models], resources=resources)
