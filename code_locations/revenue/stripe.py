"""Stripe: an account's objects as they are now, its events and balance transactions by day. A group per account."""

import os
import re
from collections.abc import Iterator, Sequence
from datetime import date, datetime

import dagster as dg
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType

from dlt_sources.stripe import incremental_stripe_source, stripe_money, stripe_source
from runtime.checks import pipeline_and_schema, primary_key_checks
from runtime.translator import SourceTranslator
from runtime.warehouse import count, warehouse_pipeline

SETTLED_DAYS = 8  # so old, a balance transaction has usually gone from pending to available
MONEY = {"transactions": "count(*)"} | {name: f"coalesce(sum({name}), 0)" for name in ("amount", "fee", "net")}


def parse_accounts(value: str) -> Sequence[str]:
    """The accounts of a comma-separated list, in its order: `stripe` alone where it is empty."""
    names = [name.strip() for name in value.split(",") if name.strip()] or ["stripe"]
    wrong = [name for name in names if not re.fullmatch(r"stripe(_[a-z0-9]+)*", name)]
    if wrong or len(set(names)) < len(names):
        raise ValueError(
            f"STRIPE_ACCOUNTS={value!r} must be a comma-separated list of stripe, stripe_eu, …, each once: "
            f"stripe_eu reads SOURCES__STRIPE_EU__*. Wrong here: {', '.join(wrong) or 'a name twice'}."
        )
    return names


def parse_start_date(value: str) -> str:
    """The first day to load, 2026-04-01, with which the sandbox begins, unless the value says."""
    try:
        return date.fromisoformat(value or "2026-04-01").isoformat()
    except ValueError:
        raise ValueError(f"STRIPE_START_DATE={value!r} has to be a day like 2026-04-01.") from None


days = dg.DailyPartitionsDefinition(parse_start_date(os.environ.get("STRIPE_START_DATE", "")))


def account_definitions(account: str) -> dg.Definitions:
    """Assets, checks and schedule of the account whose variables are `SOURCES__<ACCOUNT>__*`, in `raw_<account>`."""
    translator = SourceTranslator(source=account, owners=["team:revenue"], tags={"domain": "billing"})

    @dlt_assets(
        dlt_source=stripe_source(section=account),
        dlt_pipeline=warehouse_pipeline(account, f"raw_{account}"),
        name=account,
        dagster_dlt_translator=translator,
        pool=account,  # Stripe limits the requests of each account
    )
    def objects(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        yield from dlt.run(context=context)

    @dlt_assets(
        dlt_source=incremental_stripe_source(section=account),
        dlt_pipeline=warehouse_pipeline(f"{account}_incremental", f"raw_{account}"),
        name=f"{account}_incremental",
        dagster_dlt_translator=translator,
        partitions_def=days,
        pool=account,
    )
    def by_day(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        yield from dlt.run(context=context)

    @dg.schedule(name=f"{account}_daily", cron_schedule="37 1 * * *", target=dg.AssetSelection.groups(account))
    def daily(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        """Loads all objects, the day that has ended, and the week before it again, as money settles late. Off until
        you switch it on."""
        day = f"{context.scheduled_execution_time:%Y-%m-%d}"
        yield dg.RunRequest(run_key=f"{day}:objects", asset_selection=list(objects.keys))
        keys = days.get_partition_keys(current_time=context.scheduled_execution_time)[-SETTLED_DAYS:]
        if keys:  # none yet, where the first day is today
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
    """A check of the run's days (run alone: of all days) against what Stripe lists, to the last cent."""
    pipeline, _ = pipeline_and_schema(assets)

    @dg.asset_check(
        name="money_ties_out",
        asset=[account, "balance_transaction"],
        description="Transactions, amount, fee and net per currency are as Stripe lists them, and net = amount - fee.",
    )
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        since, until = window(context)
        rows = "FROM balance_transaction WHERE created >= %s AND created < %s"
        there = stripe_money(since, until, section=account)
        here = {
            currency: {
                name: count(pipeline, f"SELECT {measure} {rows} AND currency = %s", since, until, currency) or 0
                for name, measure in MONEY.items()
            }
            for currency in there
        }
        wrong = {
            f"{name} in {currency}": f"{here[currency][name]} here, {amount} at Stripe"
            for currency, money in there.items()
            for name, amount in money.items()
            if here[currency][name] != amount
        }
        # A currency that Stripe does not list at all is in none of these.
        surplus = (count(pipeline, f"SELECT count(*) {rows}", since, until) or 0) - sum(
            money["transactions"] for money in here.values()
        )
        uneven = count(pipeline, f"SELECT count(*) {rows} AND net <> amount - fee", since, until) or 0
        return dg.AssetCheckResult(
            passed=not (wrong or surplus or uneven),
            metadata={
                **{f"net in {currency}": money["net"] for currency, money in here.items()},
                "transactions that Stripe does not list": surplus,
                "transactions with net other than amount - fee": uneven,
                **wrong,
            },
        )

    return check


def window(context: dg.AssetCheckExecutionContext) -> tuple[datetime, datetime]:
    """The time that the run's days cover: all days, if it has none."""
    if context.has_partition_key or context.has_partition_key_range:
        keys = context.partition_key_range
        first, last = keys.start, keys.end
    else:
        first, last = days.get_first_partition_key() or "", days.get_last_partition_key() or ""
    start, end = (days.time_window_for_partition_key(key) for key in (first, last))
    return start.start, end.end


defs = dg.Definitions.merge(
    *(account_definitions(account) for account in parse_accounts(os.environ.get("STRIPE_ACCOUNTS", "")))
)
