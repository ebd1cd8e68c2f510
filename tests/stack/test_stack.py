"""`docker compose up` from nothing: every location loads, every asset materializes, a restart loses nothing."""

import os
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values

from scripts import sources
from scripts.local import skip_reason
from tests.support.paths import ROOT
from tests.support.stack import LOCATIONS, Stack, wait_for

REPOSITORIES = ["sandbox/handbook", "sandbox/website", "sandbox/engine", "sandbox/empty"]
LOADING = [location for location in LOCATIONS if location != "platform"]  # which watches, and loads nothing
MODULES = [(location, module) for location in LOADING for module in sources.modules(location)]
EXAMPLE = dotenv_values(ROOT / ".env.example")
DATASETS = ["dagster", "filesystem", "github", "hubspot", "sql_database", "stripe", "stripe_eu", "thinkific"]


@pytest.fixture(scope="module")
def one_click(stack: Stack) -> list[dict[str, Any]]:
    """The runs of one backfill over all partitions of all assets that the sandbox has data for, in all locations.

    It is what the UI starts when everything is selected, or the last mart with all of its upstream.
    """
    wait_for(lambda: stack.locations() == dict.fromkeys(LOCATIONS, "loaded"), 60, "every location to load")
    skipped = [
        key
        for location, module in MODULES
        if sources.needs_network(module, EXAMPLE)
        for key in stack.assets_of_module(location, module.stem)
    ]
    assets = [key for location in LOCATIONS for key in stack.assets(location) if key not in skipped]
    backfill = stack.launch_backfill(assets)
    runs = stack.backfilled(backfill, timeout=600)
    assert [stack.failures(run["runId"]) for run in runs if run["status"] != "SUCCESS"] == []
    assert stack.backfill_now(backfill)["status"] == "COMPLETED_SUCCESS"
    return runs


@pytest.fixture(scope="module")
def loaded(one_click: list[dict[str, Any]]) -> list[str]:
    """The ids of the runs."""
    return [run["runId"] for run in one_click]


def test_one_click_loads_all_locations_with_few_runs(one_click: list[dict[str, Any]]) -> None:
    """All days of a table are one run, each named partition is one. A run has assets of one location."""
    assert {run["repositoryOrigin"]["repositoryLocationName"] for run in one_click} == set(LOCATIONS)
    assert len(one_click) < 40


@pytest.mark.parametrize(("location", "module"), MODULES, ids=[f"{name}-{path.stem}" for name, path in MODULES])
def test_every_source_with_a_stand_in_is_materialized(
    stack: Stack, loaded: list[str], location: str, module: Path
) -> None:
    if sources.needs_network(module, EXAMPLE):
        pytest.skip(skip_reason(module.stem))
    assets, materialized = stack.assets_of_module(location, module.stem), stack.materialized()

    assert assets
    assert [key for key in assets if key not in materialized] == []


def test_all_partitions_of_all_assets_arrive_in_the_warehouse(stack: Stack, loaded: list[str]) -> None:
    counts = """SELECT repository_name, count(*), count(DISTINCT number) FROM raw_github.{}
                WHERE repository_owner = 'sandbox' GROUP BY 1 ORDER BY 1"""

    assert stack.rows(counts.format("issues")) == [
        ["engine", "5000", "5000"],
        ["handbook", "130", "130"],
        ["website", "300", "300"],
    ]
    assert stack.rows(counts.format("pull_requests")) == [
        ["engine", "800", "800"],
        ["handbook", "60", "60"],
        ["website", "200", "200"],
    ]
    [[wrong]] = stack.rows(
        "SELECT count(*) FROM raw_github.issues i WHERE comments_total_count <> "
        "(SELECT count(*) FROM raw_github.issues__comments c WHERE c._dlt_parent_id = i._dlt_id)"
    )
    assert wrong == "0"


@pytest.mark.parametrize(
    ("table", "rows"),
    {
        "thinkific.users": 600,
        "thinkific.enrollments": 2400,
        "hubspot.contacts": 323,
        "stripe.customer": 250,
        "stripe_eu.customer": 90,
        "stripe.balance_transaction": 381,
        "filesystem.deliveries": 150,
        "filesystem.clicks": 600,
        "filesystem.stock": 180,
        "sql_database.customers": 5000,
    }.items(),
)
def test_all_rows_of_the_other_sources_arrive(stack: Stack, loaded: list[str], table: str, rows: int) -> None:
    assert stack.rows(f"SELECT count(*) FROM raw_{table}") == [[str(rows)]]


def test_the_shop_has_the_same_rows_on_both_sides(stack: Stack, loaded: list[str]) -> None:
    totals = "SELECT count(*), count(DISTINCT order_id), sum(quantity), sum(unit_price * quantity) FROM {}"
    command = ["psql", "-U", "shop", "shop", "--tuples-only", "--no-align", "--command"]
    there = stack.compose("exec", "-T", "shop", *command, f"{totals.format('order_items')} WHERE deleted_at IS NULL")

    assert stack.rows(totals.format("raw_sql_database.order_items")) == [there.stdout.strip().split("|")]


def test_marts_follow_from_the_loaded_tables(stack: Stack, loaded: list[str]) -> None:
    shop = "SELECT count(*), sum(round(total * exchange_rate, 2)) FROM raw_sql_database.orders"
    issues = "SELECT count(*), count(closed_at) FROM raw_github.issues"
    contacts = "SELECT count(DISTINCT lower(email)) FROM raw_hubspot.contacts WHERE NOT is_deleted"
    deliveries = "SELECT count(*) FROM raw_filesystem.deliveries"

    assert stack.rows("SELECT count(*), sum(euros) FROM marts.orders") == stack.rows(shop)
    assert stack.rows("SELECT sum(opened), sum(closed) FROM marts.issues_per_week") == stack.rows(issues)
    assert stack.rows("SELECT sum(deliveries) FROM marts.deliveries_per_day") == stack.rows(deliveries)
    assert stack.rows("SELECT count(*) FROM marts.customers WHERE in_hubspot") == stack.rows(contacts)
    assert stack.rows("SELECT count(DISTINCT figure) > 8 FROM marts.weekly_summary") == [["t"]]


def test_no_staging_dataset_is_left(stack: Stack, loaded: list[str]) -> None:
    datasets = stack.rows("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'raw%'")

    assert sorted(name for [name] in datasets) == [f"raw_{source}" for source in DATASETS]


@pytest.mark.parametrize("location", LOCATIONS)
def test_no_run_leaves_files_in_the_memory_of_its_container(stack: Stack, loaded: list[str], location: str) -> None:
    def left() -> list[str]:
        return stack.compose("exec", "-T", location, "find", "/tmp", "-name", "dlt-import-*").stdout.split()

    assert wait_for(lambda: len(left()) <= 1, 10, "only the server's own folder to be there")


def test_every_check_has_passed(stack: Stack, loaded: list[str]) -> None:
    checks = [event["evaluation"] for run in loaded for event in stack.events(run) if event.get("evaluation")]

    assert {check["checkName"] for check in checks} >= {"primary_key_is_unique", "rows_match_github", "money_ties_out"}
    assert [check for check in checks if not check["success"]] == []


def test_a_second_load_changes_nothing(stack: Stack, loaded: list[str]) -> None:
    everything = "SELECT md5(string_agg(i::text, '' ORDER BY repository_name, number)) FROM raw_github.issues i"
    before = stack.rows(everything)
    run = stack.materialize(stack.assets(), "sandbox/handbook")

    assert run["status"] == "SUCCESS"
    assert stack.rows(everything) == before


def test_the_ui_shows_what_a_run_printed(stack: Stack, loaded: list[str]) -> None:
    assert "STEP_SUCCESS" in stack.captured_logs(loaded[0])


def test_a_restart_keeps_everything(stack: Stack, loaded: list[str]) -> None:
    stack.compose("restart")
    wait_for(lambda: set(stack.locations().values()) == {"loaded"}, 180, "every location to load again")

    assert stack.events(loaded[0])
    assert "STEP_SUCCESS" in stack.captured_logs(loaded[0])
    assert stack.rows("SELECT count(*) FROM raw_github.issues WHERE repository_owner = 'sandbox'") == [["5430"]]
    run = stack.materialize(stack.assets(), "sandbox/empty")
    assert run["status"] == "SUCCESS", stack.failures(run["runId"])


@pytest.mark.parametrize("service", ["sandbox", "warehouse"])
@pytest.mark.parametrize(("host", "port"), [("postgres", 5432), ("engineering", 4000), ("webserver", 3000)])
def test_the_sandbox_and_the_warehouse_cannot_reach_dagster(stack: Stack, service: str, host: str, port: int) -> None:
    attempt = stack.compose("exec", "-T", service, "bash", "-c", f"exec 3<>/dev/tcp/{host}/{port}", check=False)

    assert attempt.returncode != 0
    assert "refused" in attempt.stderr or "resol" in attempt.stderr, attempt.stderr


@pytest.mark.parametrize("service", ["postgres", "warehouse", "webserver", "daemon", *LOCATIONS, "sandbox", "shop"])
def test_no_service_runs_as_root_or_writes_outside_its_volumes(stack: Stack, service: str) -> None:
    user = stack.compose("exec", "-T", service, "id", "-u").stdout.strip()
    attempt = stack.compose("exec", "-T", service, "touch", "/etc/written", check=False)

    assert user in ("999", "10001")
    assert "Read-only file system" in attempt.stderr


def test_only_the_locations_have_the_secrets_of_sources(stack: Stack) -> None:
    for service in ("postgres", "warehouse", "webserver", "daemon", "sandbox", "shop"):
        environment = stack.compose("exec", "-T", service, "env").stdout
        assert "SOURCES__" not in environment, service
        assert service == "warehouse" or "DESTINATION__" not in environment, service


@pytest.mark.parametrize("location", LOCATIONS)
def test_a_location_has_only_the_variables_that_its_env_list_names(stack: Stack, location: str) -> None:
    listed = (ROOT / "code_locations" / location / "env.list").read_text().split()
    environment = stack.compose("exec", "-T", location, "env").stdout

    found = [line.partition("=")[0] for line in environment.splitlines() if line.startswith("SOURCES__")]
    assert bool(found) == any(name.startswith("SOURCES__") for name in listed)
    assert set(found) <= set(listed)


@pytest.mark.parametrize("location", LOCATIONS)
def test_loads_are_accelerated_unless_the_settings_say_otherwise(stack: Stack, location: str) -> None:
    code = "from runtime import accelerate; print(accelerate.install())"
    installed = stack.compose("exec", "-T", location, "python", "-c", code).stdout.strip()

    assert installed == str(os.environ.get("RUNTIME__ACCELERATE") != "false")
