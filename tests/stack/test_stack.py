"""`docker compose up` from nothing: everything loads, everything materialises, and it survives a restart."""

import pytest

from tests.stack.conftest import LOCATIONS, Stack, wait_for

REPOSITORIES = ["sandbox/handbook", "sandbox/website", "sandbox/engine", "sandbox/empty"]
DATASETS = ["filesystem", "github", "hubspot", "sql_database", "stripe", "stripe_eu", "thinkific"]


@pytest.fixture(scope="module")
def loaded(stack: Stack) -> list[str]:
    """All partitions of all assets of all locations, materialised once. Returns the run ids, those of github first."""
    wait_for(lambda: stack.locations() == dict.fromkeys(LOCATIONS, "loaded"), 60, "every location to load")
    backfills, runs = [], []
    for location in LOCATIONS:
        for partitions, assets in stack.assets_by_partitions(location).items():
            if partitions:
                backfills.append(stack.launch_backfill(assets))
            else:
                runs.append(stack.materialize(assets, None, location))
    # A named partition is a run of its own, all days of a time window are one.
    runs = [run for backfill in backfills for run in stack.backfilled(backfill, timeout=300)] + runs
    failures = [stack.failures(run["runId"]) for run in runs if run["status"] != "SUCCESS"]
    assert failures == []
    return [run["runId"] for run in runs]


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


def test_the_shop_is_the_same_on_both_sides(stack: Stack, loaded: list[str]) -> None:
    totals = "SELECT count(*), count(DISTINCT order_id), sum(quantity), sum(unit_price * quantity) FROM {}"
    command = ["psql", "-U", "shop", "shop", "--tuples-only", "--no-align", "--command"]
    there = stack.compose("exec", "-T", "shop", *command, f"{totals.format('order_items')} WHERE deleted_at IS NULL")

    assert stack.rows(totals.format("raw_sql_database.order_items")) == [there.stdout.strip().split("|")]


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
    assert all(check["success"] for check in checks), checks


def test_a_second_load_brings_nothing_new(stack: Stack, loaded: list[str]) -> None:
    everything = "SELECT md5(string_agg(i::text, '' ORDER BY repository_name, number)) FROM raw_github.issues i"
    before = stack.rows(everything)
    run = stack.materialize(stack.assets(), "sandbox/handbook")

    assert run["status"] == "SUCCESS"
    assert stack.rows(everything) == before


def test_what_a_run_prints_can_be_read_in_the_ui(stack: Stack, loaded: list[str]) -> None:
    assert "STEP_SUCCESS" in stack.captured_logs(loaded[0])


def test_a_restart_keeps_everything(stack: Stack, loaded: list[str]) -> None:
    stack.compose("restart")
    wait_for(lambda: set(stack.locations().values()) == {"loaded"}, 90, "every location to load again")

    assert stack.events(loaded[0])
    assert "STEP_SUCCESS" in stack.captured_logs(loaded[0])
    assert stack.rows("SELECT count(*) FROM raw_github.issues WHERE repository_owner = 'sandbox'") == [["5430"]]
    run = stack.materialize(stack.assets(), "sandbox/empty")
    assert run["status"] == "SUCCESS", stack.failures(run["runId"])


@pytest.mark.parametrize("service", ["sandbox", "warehouse"])
@pytest.mark.parametrize(("host", "port"), [("postgres", 5432), ("engineering", 4000), ("webserver", 3000)])
def test_who_need_not_reach_dagster_cannot(stack: Stack, service: str, host: str, port: int) -> None:
    attempt = stack.compose("exec", "-T", service, "bash", "-c", f"exec 3<>/dev/tcp/{host}/{port}", check=False)

    assert attempt.returncode != 0
    assert "refused" in attempt.stderr or "resol" in attempt.stderr, attempt.stderr


@pytest.mark.parametrize("service", ["postgres", "warehouse", "webserver", "daemon", *LOCATIONS, "sandbox", "shop"])
def test_nobody_is_root_and_nobody_writes_outside_the_volumes(stack: Stack, service: str) -> None:
    user = stack.compose("exec", "-T", service, "id", "-u").stdout.strip()
    attempt = stack.compose("exec", "-T", service, "touch", "/etc/written", check=False)

    assert user in ("999", "10001")
    assert "Read-only file system" in attempt.stderr


def test_secrets_are_only_where_they_are_needed(stack: Stack) -> None:
    for service in ("postgres", "warehouse", "webserver", "daemon", "sandbox", "shop"):
        environment = stack.compose("exec", "-T", service, "env").stdout
        assert "SOURCES__" not in environment, service
        assert service == "warehouse" or "DESTINATION__" not in environment, service
