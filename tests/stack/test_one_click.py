"""One click on the last mart: a backfill over everything upstream of it, in all locations."""

from tests.support.stack import LOCATIONS, Stack, wait_for

LAST = ["reports", "weekly_summary"]


def test_one_click_on_the_last_mart_loads_every_location_and_marts_agree_with_the_loaded_tables(stack: Stack) -> None:
    wait_for(lambda: stack.locations() == dict.fromkeys(LOCATIONS, "loaded"), 60, "every location to load")
    assets = stack.with_upstream(LAST)
    backfill = stack.launch_backfill(assets)  # what the UI sends for assets with different partitions
    runs = stack.backfilled(backfill, timeout=500)

    assert [stack.failures(run["runId"]) for run in runs if run["status"] != "SUCCESS"] == []
    assert stack.backfill_now(backfill)["status"] == "COMPLETED_SUCCESS"
    assert {run["repositoryOrigin"]["repositoryLocationName"] for run in runs} == set(LOCATIONS) - {"platform"}
    assert len(runs) < 30  # all days of a table are one run
    materialized = stack.materialized()
    assert [key for key in assets if key not in materialized] == []
    agree = {
        "SELECT count(*), sum(euros) FROM marts.orders": (
            "SELECT count(*), sum(round(total * exchange_rate, 2)) FROM raw_sql_database.orders"
        ),
        "SELECT sum(opened), sum(closed) FROM marts.issues_per_week": (
            "SELECT count(*), count(closed_at) FROM raw_github.issues"
        ),
        "SELECT sum(deliveries) FROM marts.deliveries_per_day": "SELECT count(*) FROM raw_filesystem.deliveries",
        "SELECT count(*) FROM marts.customers WHERE in_hubspot": (
            "SELECT count(DISTINCT lower(email)) FROM raw_hubspot.contacts WHERE NOT is_deleted"
        ),
    }
    assert {mart: stack.rows(mart) for mart in agree} == {mart: stack.rows(raw) for mart, raw in agree.items()}
