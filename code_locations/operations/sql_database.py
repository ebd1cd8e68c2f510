"""The shop's database: orders and their items by the day they last changed, customers and products whole."""

import os
from collections.abc import Iterator
from datetime import UTC, date, datetime

import dagster as dg
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType

from dlt_sources.sql_database import sql_row, sql_tables
from runtime.checks import pipeline_and_schema, primary_key_checks
from runtime.translator import SourceTranslator
from runtime.warehouse import count, warehouse_pipeline

DATASET = "raw_sql_database"
# What each table is checked by, beside its rows: an amount that adds up.
AMOUNTS = {
    "orders": "total",
    "order_items": "quantity * unit_price",
    "customers": "credit_limit",
    "products": "price",
}


def parse_start_date(value: str) -> date:
    """The day of the oldest change that is loaded; 2026-01-01, when the demo shop opened, unless the value says."""
    try:
        return date.fromisoformat(value or "2026-01-01")
    except ValueError:
        raise ValueError(f"SHOP_START_DATE={value!r} has to be a day like 2026-01-01.") from None


# With today, as far as it has come: a day may be loaded any number of times.
days = dg.DailyPartitionsDefinition(parse_start_date(os.environ.get("SHOP_START_DATE", "")).isoformat(), end_offset=1)
translator = SourceTranslator(
    source="sql_database",
    owners=["team:operations"],
    tags={"domain": "sales"},
    descriptions={
        "orders": "Orders of the shop, one row each, brought up to date as they change, and removed with them.",
        "order_items": "The lines of the shop's orders: product, quantity and the price at that time.",
        "customers": "Customers of the shop, all of them in each load.",
        "products": "Products of the shop with today's price, all of them in each load.",
    },
)


@dlt_assets(
    dlt_source=sql_tables("sql_database_changes", ["orders", "order_items"], cursor="updated_at", deleted="deleted_at"),
    dlt_pipeline=warehouse_pipeline("sql_database_changes", DATASET),
    name="sql_database_changes",
    dagster_dlt_translator=translator,
    partitions_def=days,
    pool="sql_database",  # how many loads the database bears at once
)
def sql_database_changes_assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
    yield from dlt.run(context=context)


@dlt_assets(
    dlt_source=sql_tables("sql_database_dimensions", ["customers", "products"], deleted="deleted_at"),
    dlt_pipeline=warehouse_pipeline("sql_database_dimensions", DATASET),
    name="sql_database_dimensions",
    dagster_dlt_translator=translator,
    pool="sql_database",
)
def sql_database_dimensions_assets(
    context: dg.AssetExecutionContext, dlt: DagsterDltResource
) -> Iterator[DltEventType]:
    yield from dlt.run(context=context)


def rows_match_the_database(assets: dg.AssetsDefinition, table: str) -> dg.AssetChecksDefinition:
    """A check of a table's rows and amounts against the database, in the run's days; run alone, in all days."""
    pipeline, _ = pipeline_and_schema(assets)

    @dg.asset_check(
        asset=["sql_database", table],
        description="Rows that are not deleted, and the sum of their amounts, are the same here and in the database.",
    )
    def rows_match_the_database(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        start, end = changed_between(context)
        rows = f"FROM {table} WHERE deleted_at IS NULL AND updated_at >= {{}} AND updated_at < {{}}"
        cents = f"SELECT CAST(coalesce(sum({AMOUNTS[table]} * 100), 0) AS bigint) {rows}"
        loaded, loaded_cents = (
            count(pipeline, statement.format("%s", "%s"), start, end) or 0
            for statement in (f"SELECT count(*) {rows}", cents)
        )
        there, there_cents = (
            sql_row(statement.format(":start", ":end"), start=start, end=end)[0]
            for statement in (f"SELECT count(*) {rows}", cents)
        )
        return dg.AssetCheckResult(
            passed=(loaded, loaded_cents) == (there, there_cents),
            # More rows here have moved on to a day that is yet to be loaded, or were deleted without a mark.
            severity=dg.AssetCheckSeverity.WARN if loaded > there else dg.AssetCheckSeverity.ERROR,
            metadata={
                "rows here": loaded,
                "rows in the database": there,
                "amount here": loaded_cents / 100,
                "amount in the database": there_cents / 100,
            },
        )

    return rows_match_the_database


def changed_between(context: dg.AssetCheckExecutionContext) -> tuple[datetime, datetime]:
    """The time of the changes that the run has seen: its days, until it began."""
    record = context.instance.get_run_record_by_id(context.run.run_id)
    began = record.create_timestamp if record else datetime.now(UTC)
    if not (context.has_partition_key or context.has_partition_key_range):
        return datetime(1970, 1, 1, tzinfo=UTC), began
    keys = context.partition_key_range
    start, end = (days.time_window_for_partition_key(key) for key in (keys.start, keys.end))
    return start.start, min(end.end, began)


@dg.schedule(cron_schedule="23 * * * *", target=dg.AssetSelection.groups("sql_database"))
def sql_database_every_hour(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
    """Loads what changed yesterday and today, and the dimensions. Off until you switch it on.

    A change bears the time at which its transaction began, and is seen once that commits: yesterday is read again
    and again, so that a transaction may last a day.
    """
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
    schedules=[sql_database_every_hour],
)
