"""The revenue location's Stripe assets, run as Dagster runs them, against the sandbox."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from sandbox.stripe.store import Account, Store
from tests.support.location import Location, Run, materialize
from tests.support.sandbox import Sandbox

OBJECTS = ("subscription", "account", "coupon", "customer", "invoice", "product", "price")
BY_DAY = ("event", TABLE := "balance_transaction")
SECTIONS = {"stripe": "sandbox-token", "stripe_eu": "sandbox-token-eu"}


def run(tables: tuple[str, ...], *days: str, account: str = "stripe") -> Run:
    return materialize(account, *tables, partition=days)


def checks(damage: str) -> Run:
    """Only the checks of balance transactions, after some damage to the table."""
    return {"checks": ["stripe", TABLE], "damage": damage.replace("{}", TABLE)}


@pytest.fixture
def location(tmp_path: Path, sandbox: Sandbox) -> Location:
    settings = {"STRIPE_ACCOUNTS": "stripe,stripe_eu"}
    for section, key in SECTIONS.items():
        settings[f"SOURCES__{section.upper()}__SECRET_KEY"] = key
        settings[f"SOURCES__{section.upper()}__API_BASE_URL"] = sandbox.stripe.url
    return Location("revenue", "stripe", tmp_path, **settings)


def account(section: str = "stripe") -> Account:
    """The data that the sandbox generated, to compare a load with."""
    found = Store("sandbox-token", 1).account(SECTIONS[section])
    assert found
    return found


def between(resource: str, first: str, after: str, section: str = "stripe") -> list[dict[str, Any]]:
    since, until = (datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp() for day in (first, after))
    return [row for row in account(section).rows[resource] if since <= row["created"] < until]


def test_two_accounts_load_side_by_side_and_all_checks_pass(location: Location) -> None:
    runs = [
        run(tables, *days, account=name)
        for name in SECTIONS
        for tables, days in ((OBJECTS, ()), (BY_DAY, ["2026-06-01", "2026-06-30"]))
    ]
    reports = location.run(*runs)

    for report in reports:
        assert report["success"], report["failures"]
        assert all(report["checks"].values())
    assert set(reports[2]["checks"]) == {f"stripe_eu/{table}.primary_key_is_unique" for table in OBJECTS}
    assert set(reports[3]["checks"]) == {
        "stripe_eu/event.primary_key_is_unique",
        "stripe_eu/balance_transaction.primary_key_is_unique",
        "stripe_eu/balance_transaction.money_ties_out",
    }
    for section in SECTIONS:
        assert location.sql(f"SELECT count(*) FROM raw_{section}.customer") == [
            (len(account(section).rows["customers"]),)
        ]
        june = between("balance_transactions", "2026-06-01", "2026-07-01", section)
        sums = location.sql(f"SELECT count(*), sum(amount), sum(net) FROM raw_{section}.balance_transaction")
        assert sums == [(len(june), sum(row["amount"] for row in june), sum(row["net"] for row in june))]


def test_a_day_loads_only_that_day_and_a_month_is_one_run(location: Location, sandbox: Sandbox) -> None:
    day, month = location.run(run(BY_DAY, "2026-05-10"), run(BY_DAY, "2026-05-01", "2026-05-31"))

    assert day["success"], day["failures"]
    assert month["success"], month["failures"]
    assert (day["materialized"], month["materialized"]) == (2, 2 * 31)
    asked = [call["query"] for call in sandbox.requests() if call["path"].endswith("/events")]
    assert sum("created%5Bgte%5D=1778371200&created%5Blt%5D=1778457600" in query for query in asked) == 1
    assert len(asked) == 1 + -(-len(between("events", "2026-05-01", "2026-06-01")) // 100)
    for resource, table in (("events", "event"), ("balance_transactions", "balance_transaction")):
        ids = {id for (id,) in location.sql(f"SELECT id FROM raw_stripe.{table}")}
        assert ids == {row["id"] for row in between(resource, "2026-05-01", "2026-06-01")}


def test_days_may_be_loaded_in_any_order_and_again(location: Location, sandbox: Sandbox) -> None:
    week = [run(BY_DAY, day) for day in ("2026-06-30", "2026-06-12", "2026-06-29")]
    location.run(*week)
    [(pending,)] = location.sql("SELECT count(*) FROM raw_stripe.balance_transaction WHERE status = 'pending'")
    sandbox.stripe.change("settle")
    reports = location.run(*week)

    assert all(report["success"] and all(report["checks"].values()) for report in reports)
    statuses = location.sql("SELECT DISTINCT status FROM raw_stripe.balance_transaction")
    assert (pending > 0, statuses) == (True, [("available",)])
    days = (("2026-06-12", "2026-06-13"), ("2026-06-29", "2026-07-01"))
    wanted = {row["id"] for span in days for row in between("events", *span)}
    assert {id for (id,) in location.sql("SELECT id FROM raw_stripe.event")} == wanted


def test_checks_that_run_alone_find_wrong_rows_of_any_day(location: Location) -> None:
    damages = {
        "DELETE FROM {} WHERE id = (SELECT min(id) FROM {})": "money_ties_out",
        "UPDATE {} SET amount = amount + 1, net = net + 1 WHERE id = (SELECT min(id) FROM {})": "money_ties_out",
        "INSERT INTO {} SELECT * REPLACE ('eur' AS currency, 'x' AS id) FROM {} LIMIT 1": "money_ties_out",
        "UPDATE {} SET id = 'x' WHERE id IN (SELECT id FROM {} LIMIT 2)": "primary_key_is_unique",
    }
    loaded, sound, *damaged = location.run(run(BY_DAY, "2026-04-01", "2026-07-01"), *map(checks, ["", *damages]))

    assert loaded["success"], loaded["failures"]
    assert all(loaded["checks"].values())
    assert set(sound["checks"].values()) == {True}
    failed = [[name for name, passed in report["checks"].items() if not passed] for report in damaged]
    assert failed == [[f"stripe/{TABLE}.{check}"] for check in damages.values()]


@pytest.mark.parametrize("section", list(SECTIONS))
def test_a_run_without_its_key_names_the_variable_and_does_not_affect_the_other_account(
    location: Location, section: str
) -> None:
    [other] = set(SECTIONS) - {section}
    variable = f"SOURCES__{section.upper()}__SECRET_KEY"
    runs = [run(("coupon",), account=section), run(("coupon",), account=other)]
    location.environment[variable] = ""
    failed, loaded = location.run(*runs)

    assert loaded["success"], loaded["failures"]
    assert not failed["success"]
    assert (
        f"{variable} is missing, empty or a placeholder: set it to read from Stripe."
        in failed["failures"][0].partition("Stack Trace")[0]
    )


def test_a_wrong_key_is_reported_and_never_shown(location: Location) -> None:
    location.environment["SOURCES__STRIPE__SECRET_KEY"] = "sk_live_canary"
    [report] = location.run(run(BY_DAY, "2026-06-10"))

    assert not report["success"]
    for failure in report["failures"]:
        assert "check SOURCES__STRIPE__SECRET_KEY" in failure.partition("Stack Trace")[0]
        assert "canary" not in failure


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"STRIPE_ACCOUNTS": "stripe,paypal"}, "stripe_eu reads SOURCES__STRIPE_EU__*. Not valid: paypal."),
        ({"STRIPE_ACCOUNTS": "stripe,stripe"}, "Listed twice: stripe."),
        ({"STRIPE_START_DATE": "April"}, "STRIPE_START_DATE='April' is not a date. Write it as 2026-01-31."),
    ],
)
def test_an_import_with_a_wrong_setting_says_what_to_change(
    location: Location, settings: dict[str, str], sentence: str
) -> None:
    location.environment |= settings
    [report] = location.run({"assets": [["stripe", "not_loaded"]], "tags": {}, "config": {}})

    assert not report["success"]
    assert sentence in report["failures"][0].partition("Stack Trace")[0]


def test_the_catalogue_is_complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*(f"SOURCES__{section.upper()}__SECRET_KEY" for section in SECTIONS), "STRIPE_ACCOUNTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path))
    from code_locations.revenue import stripe
    from runtime.load import location as shared

    alone = dg.Definitions.merge(shared.defs, stripe.defs).resolve_all_asset_specs()
    assert {spec.key.path[0] for spec in alone} == {"stripe"}
    defs = dg.Definitions.merge(shared.defs, stripe.account_definitions("stripe_eu"))
    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
    assert set(specs) == {f"stripe_eu/{table}" for table in (*OBJECTS, *BY_DAY)}
    for spec in specs.values():
        assert spec.description
        assert (spec.group_name, spec.owners, list(spec.deps)) == ("stripe_eu", ["team:revenue"], [])
        assert {"dlt", "stripe_eu", "duckdb"} <= spec.kinds
    assert {key for key, spec in specs.items() if spec.partitions_def} == {f"stripe_eu/{table}" for table in BY_DAY}
    schedule = defs.resolve_schedule_def("stripe_eu_daily")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    with dg.instance_for_test() as instance:
        tick = datetime(2026, 5, 11, 1, 37, tzinfo=UTC)
        context = dg.build_schedule_context(instance, tick, repository_def=defs.get_repository_def())
        requests = schedule.evaluate_tick(context).run_requests
    assert requests is not None
    assert [request.run_key for request in requests] == ["2026-05-11:objects", "2026-05-11:by_day"]
    objects, by_day = requests
    assert by_day.tags["dagster/asset_partition_range_start"] == "2026-05-03"
    assert by_day.tags["dagster/asset_partition_range_end"] == "2026-05-10"
    assert {key.path[-1] for key in by_day.asset_selection or ()} == set(BY_DAY)
    assert {key.path[-1] for key in objects.asset_selection or ()} == set(OBJECTS)
