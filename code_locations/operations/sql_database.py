"""The shop's database: orders and their items by the day of their last change, and all customers and products."""

import os
from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType

from dlt_sources.sql_database import sql_row, sql_tables
from runtime.load.assets import pipeline_of
from runtime.load.checks import checked_window, primary_key_checks
from runtime.load.retries import CHECK_RETRIES
from runtime.load.settings import LoadOptions, parse_date
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import query_int, warehouse_pipeline

GROUP = "shop"
DATASET = "raw_sql_database"
# The amount whose sum each table is checked by.
AMOUNTS = {
    "orders": "total",
    "order_items": "quantity * unit_price",
    "customers": "credit_limit",
    "products": "price",
}


# The first day is that of the oldest change that is loaded: the demo shop opened on 2026-01-01. The last day is today,
# which may be loaded any number of times.
start_date = parse_date("SHOP_START_DATE", os.environ.get("SHOP_START_DATE", "") or "2026-01-01")
days = dg.DailyPartitionsDefinition(start_date, end_offset=1)
translator = SourceTranslator(
    source="sql_database",
    group=GROUP,
    owners=["team:operations"],
    tags={"domain": "sales"},
    fresh_within=timedelta(hours=3),
    descriptions={
        "orders": "Orders of the shop, one row each. Changed orders are updated, deleted orders are removed.",
        "order_items": "Lines of the shop's orders: product, quantity and the price at the time of the order.",
        "customers": "Customers of the shop, one row each. Every load reads all of them.",
        "products": "Products of the shop with their current price. Every load reads all of them.",
    },
)


@dlt_assets(
    dlt_source=sql_tables("sql_database_changes", ["orders", "order_items"], cursor="updated_at", deleted="deleted_at"),
    dlt_pipeline=warehouse_pipeline("sql_database_changes", DATASET),
    name="shop_orders_and_order_items",
    dagster_dlt_translator=translator,
    partitions_def=days,
    pool="sql_database",  # limits how many loads read from the database at the same time
)
def sql_database_changes_assets(
    context: dg.AssetExecutionContext, dlt: DagsterDltResource, config: LoadOptions
) -> Iterator[DltEventType]:
    yield from dlt.run(context=context, **config.arguments)


@dlt_assets(
    dlt_source=sql_tables("sql_database_dimensions", ["customers", "products"], deleted="deleted_at"),
    dlt_pipeline=warehouse_pipeline("sql_database_dimensions", DATASET),
    name="shop_customers_and_products",
    dagster_dlt_translator=translator,
    pool="sql_database",
)
def sql_database_dimensions_assets(
    context: dg.AssetExecutionContext, dlt: DagsterDltResource, config: LoadOptions
) -> Iterator[DltEventType]:
    yield from dlt.run(context=context, **config.arguments)


def rows_match_the_database(assets: dg.AssetsDefinition, table: str) -> dg.AssetChecksDefinition:
    """A check of a table's rows and amounts against the database."""

    @dg.asset_check(
        name="rows_match_the_database",
        asset=["sql_database", table],
        description="The warehouse has the same number of rows as the shop's database, and the same total amount. "
        "Deleted rows do not count.",
        retry_policy=CHECK_RETRIES,
    )
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        start, end = checked_window(context, assets.partitions_def)
        rows = f"FROM {table} WHERE deleted_at IS NULL AND updated_at >= {{}} AND updated_at < {{}}"
        cents = f"SELECT CAST(coalesce(sum({AMOUNTS[table]} * 100), 0) AS bigint) {rows}"
        loaded, loaded_cents = (
            query_int(pipeline_of(assets), statement.format("%s", "%s"), start, end) or 0
            for statement in (f"SELECT count(*) {rows}", cents)
        )
        expected, expected_cents = (
            sql_row(statement.format(":start", ":end"), start=start, end=end)[0]
            for statement in (f"SELECT count(*) {rows}", cents)
        )
        return dg.AssetCheckResult(
            passed=(loaded, loaded_cents) == (expected, expected_cents),
            # Surplus rows have changed on a day that is not loaded yet, or were deleted without a mark.
            severity=dg.AssetCheckSeverity.WARN if loaded > expected else dg.AssetCheckSeverity.ERROR,
            metadata={
                "rows in the database": expected,
                "rows in the warehouse": loaded,
                "amount in the database": expected_cents / 100,
                "amount in the warehouse": loaded_cents / 100,
            },
        )

    return check


@dg.schedule(
    cron_schedule="23 * * * *",
    target=dg.AssetSelection.groups(GROUP),
    description="Every hour: loads the orders that changed yesterday or today, and all customers and products. "
    "Off until you turn it on.",
)
def shop_hourly(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
    # A change has the time at which its transaction began and becomes visible when it commits. Yesterday is therefore
    # read again, so that a transaction may take up to a day.
    recent = days.get_partition_keys(current_time=context.scheduled_execution_time)[-2:]
    yield dg.RunRequest(
        run_key=f"{context.scheduled_execution_time}:changes",
        asset_selection=list(sql_database_changes_assets.keys),
        tags={"dagster/asset_partition_range_start": recent[0], "dagster/asset_partition_range_end": recent[-1]},
    )
    yield dg.RunRequest(
        run_key=f"{context.scheduled_execution_time}:dimensions",
        asset_selection=list(sql_database_dimensions_assets.keys),
    )


defs = dg.Definitions(
    assets=[sql_database_changes_assets, sql_database_dimensions_assets],
    asset_checks=[
        primary_key_checks(sql_database_changes_assets),
        primary_key_checks(sql_database_dimensions_assets),
        rows_match_the_database(sql_database_changes_assets, "orders"),
        rows_match_the_database(sql_database_changes_assets, "order_items"),
        rows_match_the_database(sql_database_dimensions_assets, "customers"),
        rows_match_the_database(sql_database_dimensions_assets, "products"),
    ],
    schedules=[shop_hourly],
)
