"""Parts of the stack crash during a backfill. It completes without help, and no row is lost or duplicated."""

import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from tests.support.stack import Stack, wait_for

REPOSITORIES = [f"sandbox/chaos-{number:02}" for number in range(24)]
SIZE = {"issues": 40, "pull_requests": 10, "comments_per_issue": 3, "reactions_per_issue": 2}
ASSETS = [["github", "issues"], ["github", "pull_requests"]]
LATENCY_MS = 700  # makes a load last a few seconds, long enough to be interrupted

Table = list[tuple[str, int, int, float, float]]


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    """The measurements, printed at the end even if a test fails."""
    rows: Table = []
    yield rows
    line = "{:<22}{:>16}{:>12}{:>16}{:>24}"
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n" + line.format("crashed", "runs under way", "lost", "noticed (s)", "all loaded after (s)"))
        for name, under_way, lost, noticed, recovered in rows:
            print(line.format(name, under_way, lost, round(noticed), f"{recovered:.0f}"))


@pytest.fixture(scope="module")
def busy(changed_stack: Stack) -> Iterator[Stack]:
    """The stack with 24 small repositories and a slow API."""
    stack = changed_stack
    for repository in REPOSITORIES:
        stack.sandbox("/github/repositories", name=repository.partition("/")[2], **SIZE)
    stack.sandbox("/settings", latency_ms=LATENCY_MS, graphql_points=1_000_000, graphql_points_per_minute=1_000_000)
    stack.apply(GITHUB_REPOSITORIES=",".join(REPOSITORIES))
    wait_for(lambda: stack.locations()["engineering"] == "loaded", 60, "engineering to load")
    yield stack
    stack.sandbox("/reset")
    stack.rows("DROP SCHEMA IF EXISTS raw_github CASCADE")


def kill(service: str, what: str) -> Callable[[Stack], None]:
    """SIGKILL from inside the container. Docker restarts what crashed, but not what `docker kill` stopped."""

    def strike(stack: Stack) -> None:
        stack.compose("exec", "-T", service, "sh", "-c", f"kill -9 {what}")

    return strike


MAIN_PROCESS = "$(cat /proc/1/task/1/children)"  # the child of Docker's init: the container ends with it
# A run is a fork of the fork server and has its name. The last child of the server is a run.
THEIR_CHILDREN = "$(grep -l forkserve[r] /proc/[0-9]*/cmdline | sed s:cmdline:task/*/children:)"
A_RUN = f"$(cat {THEIR_CHILDREN} | tr -s ' ' '\\n' | tail -n 1)"


def fill_disk(stack: Stack) -> None:
    """Fills the disk for dlt's files, and frees it after a load has failed on it, as an operator would."""
    stack.compose("exec", "-T", "engineering", "dd", "if=/dev/zero", "of=/var/small/full", "bs=1M", check=False)
    time.sleep(15)
    stack.compose("exec", "-T", "engineering", "rm", "/var/small/full")


def no_api(stack: Stack) -> None:
    """Disconnects the API from the network for a minute. A restart would lose its repositories."""
    [container] = stack.compose("ps", "--quiet", "sandbox").stdout.split()
    network = f"{stack.project}_sandbox"
    subprocess.run(["docker", "network", "disconnect", network, container], check=True)
    time.sleep(60)
    subprocess.run(["docker", "network", "connect", "--alias", "sandbox", network, container], check=True)


def no_postgres(stack: Stack) -> None:
    stack.compose("kill", "postgres")
    time.sleep(30)
    stack.compose("up", "--detach", "--wait", "postgres")


STRIKES: dict[str, Callable[[Stack], None]] = {
    "the webserver": kill("webserver", MAIN_PROCESS),
    "a run's process": kill("engineering", A_RUN),
    "the daemon": kill("daemon", MAIN_PROCESS),
    "the location": kill("engineering", MAIN_PROCESS),
    "the warehouse": kill("warehouse", MAIN_PROCESS),
    "Dagster's Postgres": kill("postgres", MAIN_PROCESS),
    "a full disk": fill_disk,
    "no API for 60 s": no_api,
    "no Postgres for 30 s": no_postgres,
}
# Three strikes share a backfill to save time. Each follows six more partitions.
BACKFILLS = [list(STRIKES)[:3], list(STRIKES)[3:6], list(STRIKES)[6:]]


@pytest.mark.parametrize("victims", BACKFILLS, ids=", ".join)
def test_a_backfill_loads_every_row_once(busy: Stack, victims: list[str], table: Table) -> None:
    stack = busy
    if "a full disk" in victims:
        small_disk(stack)
    stack.rows("DROP SCHEMA IF EXISTS raw_github CASCADE")
    backfill = stack.launch_backfill(ASSETS, REPOSITORIES)
    struck: dict[str, tuple[float, set[str]]] = {}
    for number, victim in enumerate(victims):
        wait_for(partial(enough, stack, backfill, 4 + 6 * number), 180, "the middle of the backfill")
        struck[victim] = time.time(), partitions(stack, backfill, "STARTED", "STARTING")
        STRIKES[victim](stack)
    runs = stack.backfilled(backfill, timeout=300)

    # The last run of each partition. It may have loaded everything and failed when it could not report that.
    ended = {partition(run): run["endTime"] for run in sorted(runs, key=lambda run: float(run["endTime"]))}
    for victim, (moment, under_way) in struck.items():
        hit = [run for run in runs if run["status"] == "FAILURE" and partition(run) in under_way]
        noticed = max((run["endTime"] - moment for run in hit), default=0)
        recovered = max((ended.get(name, float("inf")) - moment for name in under_way), default=0)
        table.append((victim, len(under_way), len(hit), noticed, recovered))
    # After a crash of Postgres, the webserver may answer once with status 500.
    [status, failures] = wait_for(lambda: how_it_ended(stack, backfill), 30, "the webserver to answer")
    assert status == "COMPLETED_SUCCESS", failures
    assert set(ended) == set(REPOSITORIES), failures
    assert_complete(stack)
    wait_for(lambda: slots(stack) == 0, 60, "the pool's slots to be free")


def test_staging_datasets_of_crashed_runs_are_dropped(busy: Stack) -> None:
    """A later load drops them once their runs have been dead for a minute."""

    def swept() -> bool:
        assert busy.materialize(ASSETS, REPOSITORIES[0])["status"] == "SUCCESS"
        return busy.rows("SELECT nspname FROM pg_namespace WHERE nspname LIKE '%staging%'") == []

    wait_for(swept, 120, "the staging datasets to be gone")


def how_it_ended(stack: Stack, backfill: str) -> tuple[str, list[str]]:
    """The backfill's status, and the failures of its runs."""
    ended = stack.backfill_now(backfill)
    return ended["status"], [stack.failures(run["runId"]) for run in ended["runs"] if run["status"] == "FAILURE"]


def enough(stack: Stack, backfill: str, number: int) -> bool:
    return len(partitions(stack, backfill, "SUCCESS")) >= number


def small_disk(stack: Stack) -> None:
    """Gives the location a small disk for dlt's files."""
    override = stack.env_file.with_name("small-disk.yml")
    disk, folder = "/var/small:uid=10001,size=32m", "DLT_DATA_DIR: /var/small"
    override.write_text(f"services: {{engineering: {{tmpfs: [/tmp, '{disk}'], environment: {{{folder}}}}}}}")
    with stack.env_file.open("a") as settings:
        settings.write(f"COMPOSE_FILE=docker-compose.yml:{override}\n")
    stack.apply()
    wait_for(lambda: stack.locations()["engineering"] == "loaded", 60, "engineering to load")


def partition(run: dict[str, Any]) -> str:
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    return str(tags["dagster/partition"])


def partitions(stack: Stack, backfill: str, *statuses: str) -> set[str]:
    """The partitions of a backfill that have a run in one of these states."""
    return {partition(run) for run in stack.backfill_now(backfill)["runs"] if run["status"] in statuses}


def assert_complete(stack: Stack) -> None:
    """Every row of every repository exists once, with each comment and reaction once."""
    for table in ("issues", "pull_requests"):
        loaded = stack.rows(
            f"SELECT count(*), count(DISTINCT (repository_name, number)) FROM raw_github.{table} "
            f"GROUP BY repository_name HAVING count(*) <> {SIZE[table]} OR count(DISTINCT number) <> {SIZE[table]}"
        )
        assert loaded == []
        rows = len(REPOSITORIES) * SIZE[table]
        assert stack.rows(f"SELECT count(*) FROM raw_github.{table}") == [[str(rows)]]
    issues = len(REPOSITORIES) * SIZE["issues"]
    for child in ("comments", "reactions"):
        [[found, distinct, lost]] = stack.rows(
            f"SELECT count(*), count(DISTINCT c._dlt_id), count(*) FILTER (WHERE i._dlt_id IS NULL) "
            f"FROM raw_github.issues__{child} c LEFT JOIN raw_github.issues i ON i._dlt_id = c._dlt_parent_id"
        )
        wanted = str(issues * SIZE[f"{child}_per_issue"])
        assert (found, distinct, lost) == (wanted, wanted, "0")


def slots(stack: Stack) -> int:
    """How many pool slots are held."""
    pools = stack.graphql("{ instance { concurrencyLimits { concurrencyKey activeSlotCount } } }")
    return sum(pool["activeSlotCount"] for pool in pools["instance"]["concurrencyLimits"])
