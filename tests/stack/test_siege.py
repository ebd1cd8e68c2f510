"""A million events, a thousand queued runs, a backfill of 200 partitions, and fifty people: nothing is lost."""

import json
import os
import re
import statistics
import subprocess
import threading
import time
import urllib.error
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.stack import Stack, wait_for

MINUTES = float(os.environ.get("SIEGE_MINUTES", "10"))
QUEUED = int(os.environ.get("SIEGE_RUNS", "1000"))
PARTITIONS = int(os.environ.get("SIEGE_PARTITIONS", "200"))
EVENTS = int(os.environ.get("SIEGE_EVENTS", "1000000"))  # of runs that have ended
CLIENTS = 50
PAUSE_SECONDS = 1.0  # between two requests of a client. The UI's pages ask every one to five seconds
REPOSITORIES = [f"sandbox/siege-{number:03}" for number in range(PARTITIONS)]
SIZE = {"issues": 5, "pull_requests": 1, "comments_per_issue": 1, "reactions_per_issue": 1}
ISSUES = [["github", "issues"]]

# What the pages of the UI ask for.
PAGES = {
    "runs": """{ runsOrError(limit: 25) { ... on Runs { results { runId status startTime endTime updateTime
        tags { key value } assetSelection { path } } } } }""",
    "queue": """{ runsOrError(filter: {statuses: [QUEUED]}, limit: 25) { ... on Runs { count results { runId
        status } } } instance { concurrencyLimits { concurrencyKey slotCount activeSlotCount } } }""",
    "catalog": """{ assetNodes { id assetKey { path } description kinds groupName
        assetMaterializations(limit: 1) { runId timestamp } } }""",
    "locations": """{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus
        locationOrLoadError { __typename } } } } }""",
    "asset": """{ assetOrError(assetKey: {path: ["github", "issues"]}) { ... on Asset {
        assetMaterializations(limit: 50) { runId timestamp partition metadataEntries { label } } } } }""",
    "daemons": "{ instance { daemonHealth { allDaemonStatuses { daemonType healthy lastHeartbeatTime } } } }",
    "automation": """{ repositoriesOrError { ... on RepositoryConnection { nodes { name schedules { name
        scheduleState { status } } sensors { name sensorState { status ticks(limit: 1) { status } } } } } } }""",
}

# Copies a run with its events, each copy a minute older than the one before it.
HISTORY = """
CREATE TEMPORARY TABLE copies AS
    SELECT g * interval '1 minute' AS older, 60 * g AS seconds, gen_random_uuid()::text AS copy
    FROM generate_series({copies}, 1, -1) AS g;
INSERT INTO runs
    (run_id, pipeline_name, mode, status, run_body, create_timestamp, update_timestamp, start_time, end_time)
    SELECT copy, pipeline_name, mode, status, replace(run_body, run_id, copy), create_timestamp - older,
           update_timestamp - older, start_time - seconds, end_time - seconds
    FROM copies, runs WHERE run_id = '{run}';
INSERT INTO run_tags (run_id, key, value)
    SELECT copy, key, value FROM copies, run_tags WHERE run_id = '{run}';
INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)
    SELECT copy, replace(event, run_id, copy), dagster_event_type, timestamp - older, step_key, asset_key, partition
    FROM copies, event_logs WHERE run_id = '{run}';
"""

pytestmark = pytest.mark.timeout(7200)


@pytest.fixture
def besieged(changed_stack: Stack) -> Iterator[Stack]:
    """The stack with many small repositories."""
    stack = changed_stack
    for repository in REPOSITORIES:
        stack.sandbox("/github/repositories", name=repository.partition("/")[2], **SIZE)
    stack.sandbox("/settings", graphql_points=1_000_000, graphql_points_per_minute=1_000_000)
    stack.apply(GITHUB_REPOSITORIES=",".join(REPOSITORIES))
    wait_for(lambda: stack.locations()["engineering"] == "loaded", 60, "engineering to load")
    run = stack.materialize(ISSUES, REPOSITORIES[0])["runId"]
    [events] = dagster_sql(stack, f"SELECT count(*) FROM event_logs WHERE run_id = '{run}'")
    dagster_sql(stack, HISTORY.format(run=run, copies=EVENTS // int(events)))
    dagster_sql(stack, "VACUUM ANALYZE")
    yield stack
    stack.sandbox("/reset")
    stack.rows("DROP SCHEMA IF EXISTS raw_github CASCADE")


def test_nothing_is_lost_under_siege(besieged: Stack, capfd: pytest.CaptureFixture[str]) -> None:
    stack = besieged
    [history] = dagster_sql(stack, "SELECT count(*) FROM event_logs")
    stack.compose("stop", "daemon")  # so that all of them are in the queue
    with ThreadPoolExecutor(8) as threads:
        queued = set(threads.map(lambda number: stack.launch(ISSUES, REPOSITORIES[number % 3]), range(QUEUED)))
    assert len(queued) == QUEUED
    seconds: dict[str, list[float]] = defaultdict(list)
    errors: list[str] = []
    memory: dict[str, float] = {}
    over = threading.Event()
    clients = [threading.Thread(target=look, args=(stack, number, seconds, errors, over)) for number in range(CLIENTS)]
    watch = threading.Thread(target=weigh, args=(stack, memory, over))
    for thread in [*clients, watch]:
        thread.start()
    started = time.monotonic()
    time.sleep(MINUTES * 30)
    stop_all(stack, queued)
    stack.compose("up", "--detach", "--wait", "daemon")
    backfill = stack.launch_backfill(ISSUES, REPOSITORIES)
    runs = stack.backfilled(backfill, timeout=5400)
    backfilled = time.monotonic() - started - MINUTES * 30
    time.sleep(max(0.0, MINUTES * 60 - (time.monotonic() - started)))
    over.set()
    for thread in [*clients, watch]:
        thread.join()

    with capfd.disabled():
        print(f"\n{'page':<14}{'requests':>10}{'median ms':>12}{'p95 ms':>10}{'longest':>10}")
        for page, found in sorted(seconds.items()):
            figures = statistics.median(found), statistics.quantiles(found, n=20)[-1], max(found)
            print(f"{page:<14}{len(found):>10}{''.join(f'{1000 * one:>11,.0f}' for one in figures)}")
        print(f"{len(runs)} partitions in {backfilled:.0f} s. Most memory, in MB: {memory}")
        print(f"{history} events before. {len(errors)} requests failed. {errors[:3]}")
    assert errors == []
    assert ended(stack, queued) == {"CANCELED": QUEUED}
    assert {run["status"] for run in runs} == {"SUCCESS"}
    [counts] = stack.rows("SELECT count(*), count(DISTINCT (repository_name, number)) FROM raw_github.issues")
    assert counts == [str(PARTITIONS * SIZE["issues"])] * 2
    assert {line.split()[-1] for line in stack.started().splitlines()} == {"0"}


def dagster_sql(stack: Stack, sql: str) -> list[str]:
    command = ["psql", "-U", "dagster", "dagster", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1"]
    return stack.compose("exec", "-T", "postgres", *command, "--command", sql).stdout.split()


def look(stack: Stack, number: int, seconds: dict[str, list[float]], errors: list[str], over: threading.Event) -> None:
    """One person who opens page after page. Every tenth person also launches a run now and then, and cancels it."""
    names = list(PAGES)
    for turn in range(number, 1_000_000):
        if over.wait(PAUSE_SECONDS):
            return
        page = names[turn % len(names)]
        begun = time.monotonic()
        try:
            if number % 10 == 0 and turn % 30 == 0:
                page = "launch, stop"
                stop_all(stack, {stack.launch(ISSUES, REPOSITORIES[0])})
            else:
                stack.graphql(PAGES[page])
        except (AssertionError, OSError, urllib.error.URLError) as error:
            errors.append(f"{page}: {error!r}"[:300])
        seconds[page].append(time.monotonic() - begun)


def weigh(stack: Stack, memory: dict[str, float], over: threading.Event) -> None:
    """Keeps the most memory that each container took."""
    while not over.wait(5):
        command = ["docker", "stats", "--no-stream", "--format", "{{json .}}", *stack.containers()]
        for line in subprocess.run(command, capture_output=True, text=True).stdout.splitlines():
            found = json.loads(line)
            service = found["Name"].removeprefix(f"{stack.project}-").rpartition("-")[0]
            used = re.match(r"([\d.]+)([KMG]iB)", found["MemUsage"])  # 0B or -- if the container is stopped
            megabytes = float(used[1]) * {"KiB": 0.001, "MiB": 1, "GiB": 1024}[used[2]] if used else 0
            memory[service] = max(memory.get(service, 0), round(megabytes))


def stop_all(stack: Stack, runs: set[str]) -> None:
    """Ends runs, as the UI's list of runs does."""
    mutation = """mutation($r: [String!]!) { terminateRuns(runIds: $r, terminatePolicy: MARK_AS_CANCELED_IMMEDIATELY) {
        ... on TerminateRunsResult { terminateRunResults { __typename } } } }"""
    left = list(runs)
    for start in range(0, len(left), 50):
        stack.graphql(mutation, r=left[start : start + 50])


def ended(stack: Stack, runs: set[str]) -> dict[str, int]:
    """How many of the runs have each status."""
    counts: dict[str, int] = defaultdict(int)
    left = list(runs)
    query = "query($r: [String!]) { runsOrError(filter: {runIds: $r}) { ... on Runs { results { status } } } }"
    for start in range(0, len(left), 100):
        found: Any = stack.graphql(query, r=left[start : start + 100])["runsOrError"]["results"]
        for run in found:
            counts[run["status"]] += 1
    return dict(counts)
