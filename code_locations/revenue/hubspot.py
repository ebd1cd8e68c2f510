"""HubSpot: the CRM's objects, owners, pipelines and properties, and the history of the objects as further assets."""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType

from dlt_sources.hubspot import CREATED, hubspot, hubspot_total
from runtime.checks import pipeline_and_schema, primary_key_checks
from runtime.translator import SourceTranslator
from runtime.warehouse import count, warehouse_pipeline


class Load(dg.Config):
    """Options of a load, set in the launchpad."""

    full_reload: bool = False  # read everything again, not only what changed since the last load


# Deleted objects are marked, not forgotten: reports on past quarters need them.
@dlt_assets(
    dlt_source=hubspot(include_history=True, soft_delete=True),
    dlt_pipeline=warehouse_pipeline("hubspot", "raw_hubspot"),
    name="hubspot",
    dagster_dlt_translator=SourceTranslator(source="hubspot", owners=["team:revenue"], tags={"domain": "sales"}),
    pool="hubspot",
)
def hubspot_assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource, config: Load) -> Iterator[DltEventType]:
    source = hubspot(include_history=True, soft_delete=True, full_reload=config.full_reload)
    yield from dlt.run(context=context, dlt_source=source)


CHECK = "rows_match_hubspot"


@dg.multi_asset_check(
    name=f"hubspot_{CHECK}",
    specs=[
        dg.AssetCheckSpec(
            CHECK, asset=["hubspot", kind], description="The warehouse has every object that HubSpot counts."
        )
        for kind in CREATED
    ],
    can_subset=True,
)
def rows_match_hubspot(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
    pipeline, _ = pipeline_and_schema(hubspot_assets)
    record = context.instance.get_run_record_by_id(context.run.run_id)
    started = record.create_timestamp if record else datetime.now(UTC)  # what is newer cannot have been loaded
    for key in sorted({key.asset_key for key in context.selected_asset_check_keys}):
        kind = key.path[-1]
        statement = f"SELECT count(*) FROM {kind} WHERE {CREATED[kind]} <= %s AND NOT is_deleted"
        total = hubspot_total(kind, created_before=started)
        missing = total - (count(pipeline, statement, started) or 0)
        yield dg.AssetCheckResult(
            asset_key=key,
            check_name=CHECK,
            passed=missing <= 0,  # more is right: what was deleted since, HubSpot does not count
            metadata={"rows in HubSpot": total, "missing rows": max(missing, 0)},
        )


histories = dg.AssetSelection.assets(*(["hubspot", f"{kind}_property_history"] for kind in CREATED))
hubspot_hourly = dg.ScheduleDefinition(
    name="hubspot_hourly",
    cron_schedule="22 * * * *",
    target=dg.AssetSelection.groups("hubspot") - histories,
    description="Loads what changed, without the history of properties. Off until you switch it on.",
)

defs = dg.Definitions(
    assets=[hubspot_assets],
    asset_checks=[primary_key_checks(hubspot_assets), rows_match_hubspot],
    schedules=[hubspot_hourly],
)
