"""Stripe: an account's current objects, and its events and balance transactions by day. One group per account."""

import os
from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType

from dlt_sources.stripe import incremental_stripe_source, stripe_money, stripe_source
from runtime.load.assets import pipeline_of
from runtime.load.checks import checked_window, primary_key_checks
from runtime.load.retries import CHECK_RETRIES
from runtime.load.settings import LoadOptions, parse_date, parse_list
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import query_int, warehouse_pipeline

SETTLED_DAYS = 8  # by then a balance transaction has usually changed from pending to available
MONEY = {"transactions": "count(*)"} | {name: f"coalesce(sum({name}), 0)" for name in ("amount", "fee", "net")}


# Each account is a source of its own. `stripe` alone if the variable is empty.
accounts = parse_list(
    "STRIPE_ACCOUNTS",
    os.environ.get("STRIPE_ACCOUNTS", "").strip() or "stripe",
    entry="stripe(_[a-z0-9]+)*",
    expected="stripe, stripe_eu, and so on, where stripe_eu reads SOURCES__STRIPE_EU__*",
)
# The sandbox has data from 2026-04-01 on.
days = dg.DailyPartitionsDefinition(
    parse_date("STRIPE_START_DATE", os.environ.get("STRIPE_START_DATE", "") or "2026-04-01")
)


def account_definitions(account: str) -> dg.Definitions:
    """Assets, checks and schedule of one account. It reads `SOURCES__<ACCOUNT>__*` and loads into `raw_<account>`."""
    translator = SourceTranslator(
        source=account, owners=["team:revenue"], tags={"domain": "billing"}, fresh_within=timedelta(hours=49)
    )

    @dlt_assets(
        dlt_source=stripe_source(section=account),
        dlt_pipeline=warehouse_pipeline(account, f"raw_{account}"),
        name=f"{account}_objects",
        dagster_dlt_translator=translator,
        pool=account,  # Stripe limits the requests per account
    )
    def objects(
        context: dg.AssetExecutionContext, dlt: DagsterDltResource, config: LoadOptions
    ) -> Iterator[DltEventType]:
        yield from dlt.run(context=context, **config.arguments)

    @dlt_assets(
        dlt_source=incremental_stripe_source(section=account),
        dlt_pipeline=warehouse_pipeline(f"{account}_incremental", f"raw_{account}"),
        name=f"{account}_events_and_balance_transactions",
        dagster_dlt_translator=translator,
        partitions_def=days,
        pool=account,
    )
    def by_day(
        context: dg.AssetExecutionContext, dlt: DagsterDltResource, config: LoadOptions
    ) -> Iterator[DltEventType]:
        yield from dlt.run(context=context, **config.arguments)

    @dg.schedule(
        name=f"{account}_daily",
        cron_schedule="37 1 * * *",
        target=dg.AssetSelection.groups(account),
        description="Every night: loads all objects, and the events and balance transactions of yesterday and of the "
        "week before, because payments settle late. Off until you turn it on.",
    )
    def daily(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        day = f"{context.scheduled_execution_time:%Y-%m-%d}"
        yield dg.RunRequest(run_key=f"{day}:objects", asset_selection=list(objects.keys))
        keys = days.get_partition_keys(current_time=context.scheduled_execution_time)[-SETTLED_DAYS:]
        if keys:  # there are none if the first day is today
            yield dg.RunRequest(
                run_key=f"{day}:by_day",
                asset_selection=list(by_day.keys),
                tags={"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]},
            )

    return dg.Definitions(
        assets=[objects, by_day],
        asset_checks=[primary_key_checks(objects), primary_key_checks(by_day), money_ties_out(by_day, account)],
        schedules=[daily],
    )


def money_ties_out(assets: dg.AssetsDefinition, account: str) -> dg.AssetChecksDefinition:
    """A check of balance transactions against what Stripe lists, to the last cent."""

    @dg.asset_check(
        name="money_ties_out",
        asset=[account, "balance_transaction"],
        description="Number, amount, fee and net of the balance transactions in each currency are the same as in "
        "Stripe, and net = amount - fee.",
        retry_policy=CHECK_RETRIES,
    )
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        pipeline = pipeline_of(assets)
        since, until = checked_window(context, days)
        rows = "FROM balance_transaction WHERE created >= %s AND created < %s"
        expected = stripe_money(since, until, section=account)
        loaded = {
            currency: {
                name: query_int(pipeline, f"SELECT {measure} {rows} AND currency = %s", since, until, currency) or 0
                for name, measure in MONEY.items()
            }
            for currency in expected
        }
        wrong = {
            f"{name} in {currency}": f"{loaded[currency][name]} in the warehouse, {amount} in Stripe"
            for currency, money in expected.items()
            for name, amount in money.items()
            if loaded[currency][name] != amount
        }
        # Includes the transactions in a currency that Stripe does not list at all.
        surplus = (query_int(pipeline, f"SELECT count(*) {rows}", since, until) or 0) - sum(
            money["transactions"] for money in loaded.values()
        )
        uneven = query_int(pipeline, f"SELECT count(*) {rows} AND net <> amount - fee", since, until) or 0
        return dg.AssetCheckResult(
            passed=not (wrong or surplus or uneven),
            metadata={
                **{f"net in {currency}": money["net"] for currency, money in loaded.items()},
                "transactions that Stripe does not list": surplus,
                "transactions with net other than amount - fee": uneven,
                **wrong,
            },
        )

    return check


defs = dg.Definitions.merge(*map(account_definitions, accounts))
