"""HubSpot: the CRM's objects, their property histories, owners, pipelines and properties."""

import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dagster as dg
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType
from dagster_dlt.translator import DltResourceTranslatorData
from dlt.extract import DltSource

from dlt_sources.hubspot import CREATED, hubspot, hubspot_total
from dlt_sources.personal_data import protect
from runtime.load.checks import primary_key_checks, row_count_check
from runtime.load.settings import LoadConfig, parse_list
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import warehouse_pipeline

# What is loaded of personal properties of contacts: property → `hash` or `leave_out`.
personal_data = dict(
    entry.split(":")
    for entry in parse_list(
        "HUBSPOT_PERSONAL_DATA",
        os.environ.get("HUBSPOT_PERSONAL_DATA", ""),
        entry=r"\w+:(hash|leave_out)",
        expected="property:hash or property:leave_out, for example email:hash,phone:leave_out",
        key=lambda entry: entry.split(":")[0],
        may_be_empty=True,
    )
)


def crm(**options: Any) -> DltSource:
    """The CRM with all histories, but those of personal properties."""
    source = hubspot(include_history=True, soft_delete=True, **options)
    chosen = {
        what: [name for name, chosen in personal_data.items() if chosen == what] for what in ("hash", "leave_out")
    }
    protect(source.resources["contacts"], "hubspot", hashed=chosen["hash"], left_out=chosen["leave_out"])
    history = source.resources["contacts_property_history"]
    history.add_filter(lambda row: row["property_name"] not in personal_data, insert_at=1)
    return source


class HubspotTranslator(SourceTranslator):
    """Histories may be of any age, as the schedule does not load them."""

    def get_asset_spec(self, data: DltResourceTranslatorData) -> dg.AssetSpec:
        spec = super().get_asset_spec(data)
        return spec.replace_attributes(freshness_policy=None) if data.resource.name.endswith("_history") else spec


# Deleted objects are marked and stay in the warehouse, because reports on past quarters need them.
@dlt_assets(
    dlt_source=crm(),
    dlt_pipeline=warehouse_pipeline("hubspot", "raw_hubspot"),
    name="hubspot",
    dagster_dlt_translator=HubspotTranslator(
        source="hubspot", owners=["team:revenue"], tags={"domain": "sales"}, fresh_within=timedelta(hours=3)
    ),
    pool="hubspot",
)
def hubspot_assets(
    context: dg.AssetExecutionContext, dlt: DagsterDltResource, config: LoadConfig
) -> Iterator[DltEventType]:
    yield from dlt.run(context=context, dlt_source=crm(full_reload=config.full_reload), **config.arguments)


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
