"""HubSpot: the CRM's objects, their property histories, owners, pipelines and properties."""

from collections.abc import Iterator

import dagster as dg
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType

from dlt_sources.hubspot import CREATED, hubspot, hubspot_total
from runtime.load.checks import primary_key_checks, row_count_check
from runtime.load.settings import LoadConfig
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import warehouse_pipeline


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
    yield from dlt.run(context=context, dlt_source=source, **config.arguments)


def row_count(table: str) -> dg.AssetChecksDefinition:
    """A check of a table against the number of rows that HubSpot counts."""
    return row_count_check(
        hubspot_assets,
        ["hubspot", table],
        "HubSpot",
        lambda created: hubspot_total(table, created_before=created),
        f"SELECT count(*) FROM {table} WHERE {CREATED[table]} <= %s AND NOT is_deleted",
    )


histories = dg.AssetSelection.assets(*(["hubspot", f"{kind}_property_history"] for kind in CREATED))
hubspot_hourly = dg.ScheduleDefinition(
    name="hubspot_hourly",
    cron_schedule="22 * * * *",
    target=dg.AssetSelection.groups("hubspot") - histories,
    description="Every hour: loads what changed, without the property histories. Off until you turn it on.",
)

defs = dg.Definitions(
    assets=[hubspot_assets],
    asset_checks=[primary_key_checks(hubspot_assets), *map(row_count, CREATED)],
    schedules=[hubspot_hourly],
)
