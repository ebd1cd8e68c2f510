"""HubSpot: the CRM's objects, their property histories, owners, pipelines and properties."""

from collections.abc import Iterator

import dagster as dg
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType

from dlt_sources.hubspot import CREATED, hubspot, hubspot_total
from runtime.load.assets import pipeline_of
from runtime.load.checks import primary_key_checks, row_count_result, run_created_at
from runtime.load.retries import CHECK_RETRIES
from runtime.load.settings import LoadConfig
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import count, warehouse_pipeline


# Deleted objects are marked and stay in the warehouse, because reports on past quarters need them.
@dlt_assets(
    dlt_source=hubspot(include_history=True, soft_delete=True),
    dlt_pipeline=warehouse_pipeline("hubspot", "raw_hubspot"),
    name="hubspot",
    dagster_dlt_translator=SourceTranslator(source="hubspot", owners=["team:revenue"], tags={"domain": "sales"}),
    pool="hubspot",
)
def hubspot_assets(
    context: dg.AssetExecutionContext, dlt: DagsterDltResource, config: LoadConfig
) -> Iterator[DltEventType]:
    source = hubspot(include_history=True, soft_delete=True, full_reload=config.full_reload)
    yield from dlt.run(context=context, dlt_source=source)


def rows_match_hubspot(table: str) -> dg.AssetChecksDefinition:
    """A check of a table against the number of objects that HubSpot counts."""

    @dg.asset_check(
        asset=["hubspot", table],
        description="The warehouse has every object that HubSpot counts.",
        retry_policy=CHECK_RETRIES,
    )
    def rows_match_hubspot(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        run_created = run_created_at(context)
        expected = hubspot_total(table, created_before=run_created)
        statement = f"SELECT count(*) FROM {table} WHERE {CREATED[table]} <= %s AND NOT is_deleted"
        return row_count_result("HubSpot", expected, count(pipeline_of(hubspot_assets), statement, run_created) or 0)

    return rows_match_hubspot


histories = dg.AssetSelection.assets(*(["hubspot", f"{kind}_property_history"] for kind in CREATED))
hubspot_hourly = dg.ScheduleDefinition(
    name="hubspot_hourly",
    cron_schedule="22 * * * *",
    target=dg.AssetSelection.groups("hubspot") - histories,
    description="Every hour: loads what changed, without the property histories. Off until you turn it on.",
)

defs = dg.Definitions(
    assets=[hubspot_assets],
    asset_checks=[primary_key_checks(hubspot_assets), *(rows_match_hubspot(table) for table in CREATED)],
    schedules=[hubspot_hourly],
)
