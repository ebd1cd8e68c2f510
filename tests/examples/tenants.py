"""Customers of an app, a partition each. A sensor adds and removes them as the table `tenants` of the app says.

Variables: SOURCES__SQL_DATABASE__CREDENTIALS for that table, SOURCES__CRM__API_BASE_URL, and for each tenant
SOURCES__CRM__<TENANT>__API_KEY or the file /run/secrets/sources--crm--<tenant>--api-key.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import dagster as dg
import dlt
from dagster_dlt import DagsterDltResource, dlt_assets
from dlt.sources.helpers import requests

from dlt_sources import settings
from dlt_sources.sql_database import sql_row
from runtime.load.settings import LoadOptions
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import warehouse_pipeline

tenants = dg.DynamicPartitionsDefinition(name="crm_tenants")  # all locations share the names of such definitions
NAME = "[a-z0-9_]+"  # it is a part of a variable's name


@dlt.source(section="crm")
def crm(tenant: str = "") -> Any:
    @dlt.resource(write_disposition="merge", primary_key=["tenant", "id"])
    def invoices(since: Any = dlt.sources.incremental("updated_at", initial_value="")) -> Iterator[Any]:  # noqa: B008
        """Invoices of all tenants, one row each, as of the tenant's last load."""
        api_key = settings.require(f"crm.{tenant}", "api_key", f"to read from {tenant}", secret=True)
        url = settings.require("crm", "api_base_url", "to read from the CRM")
        response = requests.get(
            f"{url}/invoices", params={"since": since.start_value}, headers={"Authorization": f"Bearer {api_key}"}
        )
        yield [{"tenant": tenant} | row for row in response.json()]

    return invoices


@dlt_assets(
    dlt_source=crm(),  # names the assets, and is never read
    dlt_pipeline=warehouse_pipeline("crm", "raw_crm"),
    name="crm",
    dagster_dlt_translator=SourceTranslator(source="crm"),
    partitions_def=tenants,
    pool="crm",
)
def crm_assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource, config: LoadOptions) -> Iterator[Any]:
    yield from dlt.run(context=context, dlt_source=crm(context.partition_key), **config.arguments)


@dg.sensor(
    target=[crm_assets],
    minimum_interval_seconds=60,
    description="Adds the app's new tenants and loads them, and removes those that are not active any more. Off until "
    "you turn it on.",
)
def crm_tenants(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Removes only what it has added: tenants that were added by hand stay. Their rows stay in any case."""
    (named,) = sql_row("SELECT coalesce(array_agg(name ORDER BY name), '{}') FROM tenants WHERE is_active")
    active = [name for name in named if re.fullmatch(NAME, name)]
    if wrong := [name for name in named if name not in active]:
        context.log.error(f"Not loaded: {', '.join(wrong)}. A tenant's name has to match {NAME}.")
    before = json.loads(context.cursor or "[]")
    new = [tenant for tenant in active if tenant not in before]
    gone = [tenant for tenant in before if tenant not in active]
    return dg.SensorResult(
        dynamic_partitions_requests=[tenants.build_add_request(new), tenants.build_delete_request(gone)],
        run_requests=[dg.RunRequest(partition_key=tenant) for tenant in new],
        cursor=json.dumps(active),
    )


@dg.schedule(
    cron_schedule="11 * * * *",
    target=[crm_assets],
    description="Every hour: a run per tenant. Off until you turn it on.",
)
def crm_hourly(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
    for tenant in context.instance.get_dynamic_partitions("crm_tenants"):
        yield dg.RunRequest(run_key=f"{context.scheduled_execution_time}:{tenant}", partition_key=tenant)


defs = dg.Definitions(assets=[crm_assets], sensors=[crm_tenants], schedules=[crm_hourly])
