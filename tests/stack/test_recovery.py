"""A load whose process or container is killed recovers by itself. No row is lost or duplicated, and nothing is left."""

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.stack import Stack, wait_for

ENDED = ("SUCCESS", "FAILURE", "CANCELED")


@pytest.fixture
def slow(stack: Stack) -> Iterator[Stack]:
    """The stack with a slow API, so that a load takes long enough to be interrupted, and with an empty warehouse."""
    wait_for(lambda: stack.locations()["engineering"] == "loaded", 60, "engineering to load")
    stack.rows("DROP SCHEMA IF EXISTS raw_github CASCADE")
    slow_down(stack, 400)
    yield stack
    slow_down(stack, 0)


def slow_down(stack: Stack, latency_ms: int) -> None:
    stack.sandbox("/settings", latency_ms=latency_ms)


def loading(stack: Stack, run_id: str) -> int:
    """Waits until the run reads from the API. Returns its process id in the location's container."""

    def process() -> Any:
        events = stack.events(run_id)
        started = [
            match for e in events if (match := re.search(r"Started process for run \(pid: (\d+)\)", e["message"]))
        ]
        return started[0][1] if started and any(e["__typename"] == "ExecutionStepStartEvent" for e in events) else None

    pid = int(wait_for(process, 60, "the load to begin"))
    time.sleep(3)
    return pid


def recovered(stack: Stack, run_id: str, timeout: float = 150) -> list[dict[str, Any]]:
    """The runs that replaced a lost one, after the last of them has succeeded."""
    query = """query($r: String!) { runsOrError(filter: {tags: [{key: "dagster/root_run_id", value: $r}]}) {
                 ... on Runs { results { runId status } } } }"""

    def succeeded() -> Any:
        runs = stack.graphql(query, r=run_id)["runsOrError"]["results"]
        return runs if any(run["status"] == "SUCCESS" for run in runs) else None

    runs: list[dict[str, Any]] = wait_for(succeeded, timeout, "a run that replaces the lost one to succeed")
    return runs


def status(stack: Stack, run_id: str) -> str:
    query = "query($r: ID!) { runOrError(runId: $r) { ... on Run { status } } }"
    return str(stack.graphql(query, r=run_id)["runOrError"]["status"])


def assert_complete(stack: Stack, repository: str, issues: int, pull_requests: int) -> None:
    for table, rows in (("issues", issues), ("pull_requests", pull_requests)):
        statement = (
            f"SELECT count(*), count(DISTINCT number) FROM raw_github.{table} WHERE repository_name = '{repository}'"
        )
        assert stack.rows(statement) == [[str(rows), str(rows)]]


def slots(stack: Stack) -> int:
    """How many pool slots are held."""
    pools = stack.graphql("{ instance { concurrencyLimits { concurrencyKey activeSlotCount } } }")
    return sum(pool["activeSlotCount"] for pool in pools["instance"]["concurrencyLimits"])


@pytest.mark.parametrize("victim", ["process", "container"])
def test_a_lost_run_is_detected_and_relaunched(
    slow: Stack, victim: str, record_property: Callable[[str, object], None]
) -> None:
    stack = slow
    run_id = stack.launch([["github", "issues"], ["github", "pull_requests"]], "sandbox/engine")
    pid = loading(stack, run_id)
    began = time.monotonic()
    if victim == "process":
        stack.compose("exec", "-T", "engineering", "python", "-c", f"import os; os.kill({pid}, 9)")
    else:
        stack.compose("kill", "engineering")
        stack.compose("up", "--detach", "--no-deps", "engineering")
    wait_for(lambda: status(stack, run_id) == "FAILURE", 60, "the lost run to be noticed")
    noticed = time.monotonic() - began
    slow_down(stack, 0)
    runs = recovered(stack, run_id)
    record_property("noticed after (s)", round(noticed))
    record_property("loaded after (s)", round(time.monotonic() - began))

    assert [run["status"] for run in runs] == ["SUCCESS"]
    assert_complete(stack, "engine", 5000, 800)
    messages = "\n".join(event["message"] for event in stack.events(run_id))
    assert ("signal 9" if victim == "process" else "The process of this run is gone") in messages
    wait_for(lambda: slots(stack) == 0, 60, "the pool's slots to be free")


def test_a_healthy_run_does_not_count_as_lost(slow: Stack) -> None:
    """The run takes longer than two intervals of run monitoring."""
    run_id = slow.launch([["github", "issues"], ["github", "pull_requests"]], "sandbox/engine")
    loading(slow, run_id)
    slow_down(slow, 1500)
    time.sleep(35)
    assert status(slow, run_id) == "STARTED"
    slow_down(slow, 0)
    wait_for(lambda: status(slow, run_id) in ENDED, 90, "the run to end")

    assert status(slow, run_id) == "SUCCESS"
    assert_complete(slow, "engine", 5000, 800)


def test_a_cancelled_run_ends_its_process_and_frees_its_slot(slow: Stack) -> None:
    run_id = slow.launch([["github", "issues"], ["github", "pull_requests"]], "sandbox/engine")
    pid = loading(slow, run_id)
    assert slots(slow) == 1
    slow.graphql("mutation($r: String!) { terminateRun(runId: $r) { __typename } }", r=run_id)
    wait_for(lambda: status(slow, run_id) == "CANCELED", 60, "the run to be cancelled")

    wait_for(lambda: slots(slow) == 0, 60, "the pool's slots to be free")
    gone = ["exec", "-T", "engineering", "test", "!", "-d", f"/proc/{pid}"]
    wait_for(lambda: slow.compose(*gone, check=False).returncode == 0, 30, "the run's process to end")
    assert slow.rows("SELECT nspname FROM pg_namespace WHERE nspname LIKE '%staging%'") == []


@pytest.mark.parametrize("length", ["short", "long"])
def test_a_deploy_waits_for_a_short_run_and_relaunches_a_long_one(slow: Stack, length: str) -> None:
    """After a change, `docker compose up` stops the old container with SIGTERM and starts a new one."""
    stack = slow
    run_id = stack.launch([["github", "issues"], ["github", "pull_requests"]], "sandbox/engine")
    loading(stack, run_id)
    slow_down(stack, 0 if length == "short" else 4000)
    stack.compose("up", "--detach", "--no-deps", "--force-recreate", "engineering")
    slow_down(stack, 0)
    stack.reload("engineering")

    if length == "short":
        assert status(stack, run_id) == "SUCCESS"
    else:
        wait_for(lambda: status(stack, run_id) == "FAILURE", 60, "the run to be given up")
        assert [run["status"] for run in recovered(stack, run_id)] == ["SUCCESS"]
    assert_complete(stack, "engine", 5000, 800)
