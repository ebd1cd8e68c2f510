"""A factory: the assets of each report, with a partition for each month and a translator as older guides have it."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import dlt
from dagster_dlt import DagsterDltResource, DagsterDltTranslator, dlt_assets

MONTHS = dg.MonthlyPartitionsDefinition(start_date="2026-01-01", end_date="2026-07-01")
RUNS = [{"partition_key": month} for month in MONTHS.get_partition_keys()]
DATASET = "bank"


class BankTranslator(DagsterDltTranslator):
    def get_asset_key(self, resource: Any) -> dg.AssetKey:
        return dg.AssetKey(["bank", resource.name])

    def get_deps_asset_keys(self, resource: Any) -> Iterable[dg.AssetKey]:
        return [dg.AssetKey("bank_export")]

    def get_group_name(self, resource: Any) -> str:
        return "finance"


@dlt.source(name="bank")
def bank(report: str, start: datetime | None = None, end: datetime | None = None) -> Any:
    def rows() -> Iterator[Any]:
        day = start
        while day and end and day < end:
            yield {"id": f"{day:%Y-%m-%d}", "booked_at": day, "report": report, "lines": [{"cents": day.day}] * 2}
            day += timedelta(days=1)

    return dlt.resource(rows, name=report, write_disposition="merge", primary_key="id")


def assets(report: str, **folder: Any) -> dg.AssetsDefinition:
    @dlt_assets(
        dlt_source=bank(report),
        dlt_pipeline=dlt.pipeline(f"bank_{report}", dataset_name=DATASET, destination="postgres", **folder),
        name=f"bank_{report}",
        dagster_dlt_translator=BankTranslator(),
        partitions_def=MONTHS,
    )
    def of_report(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[Any]:
        window = context.partition_time_window
        yield from dlt.run(context=context, dlt_source=bank(report, window.start, window.end))

    return of_report


def definitions(resource: DagsterDltResource, **folder: Any) -> dg.Definitions:
    reports = [assets(report, **folder) for report in ("payments", "fees")]
    return dg.Definitions(assets=reports, resources={"dlt": resource})
