"""Each run in a container of its own: docker-compose.docker-runs.yml on the real stack."""

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.stack.test_recovery import ENDED, assert_complete, recovered, slow_down, status
from tests.support.stack import LOCATIONS, PROJECT, Stack, wait_for

FILES = "docker-compose.yml:docker-compose.docker-runs.yml"
ISSUES = [["github", "issues"], ["github", "pull_requests"]]
CALL = "import os, docker; docker.from_env().api.{}"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("stack"), f"{PROJECT}-runs", COMPOSE_FILE=FILES)
    stack.down()
    stack.up()
    wait_for(lambda: stack.locations() == dict.fromkeys(LOCATIONS, "loaded"), 90, "every location to load")
    yield stack
    stack.down()
    assert docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={stack.project}") == ""


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def container(run_id: str) -> str:
    """The id of the run's container, or nothing."""
    return docker("ps", "--all", "--quiet", "--no-trunc", "--filter", f"label=dagster/run_id={run_id}")


def server_of(stack: Stack) -> str:
    """The id of engineering's container: without `--all`, compose leaves out those of runs."""
    return stack.compose("ps", "--quiet", "engineering").stdout.strip()


def inspected(container_id: str) -> Any:
    return json.loads(docker("inspect", container_id))[0]


@pytest.fixture
def loading(stack: Stack) -> Iterator[str]:
    """A run that reads from a slow API into an empty warehouse."""
    stack.rows("DROP SCHEMA IF EXISTS raw_github CASCADE")
    slow_down(stack, 400)
    run_id = stack.launch(ISSUES, "sandbox/engine")
    wait_for(lambda: "ExecutionStepStartEvent" in kinds(stack, run_id), 60, "the load to begin")
    time.sleep(3)
    yield run_id
    slow_down(stack, 0)


def kinds(stack: Stack, run_id: str) -> list[str]:
    return [event["__typename"] for event in stack.events(run_id)]


def ended(stack: Stack, run_id: str, timeout: float = 150) -> str:
    found: str = wait_for(lambda: (now := status(stack, run_id)) in ENDED and now, timeout, "the run to end")
    return found


def messages(stack: Stack, run_id: str) -> str:
    return "\n".join(str(event.get("message")) for event in stack.events(run_id))


def test_a_run_has_what_its_location_has_and_its_log_is_in_the_ui(stack: Stack) -> None:
    run = stack.materialize(ISSUES, "sandbox/website")

    assert run["status"] == "SUCCESS", stack.failures(run["runId"])
    assert "github" in stack.captured_logs(run["runId"])
    found, server = inspected(container(run["runId"])), inspected(server_of(stack))
    assert found["Id"] != server["Id"]
    assert found["State"]["ExitCode"] == 0
    assert found["Image"] == server["Image"]
    assert sorted(found["Config"]["Env"]) == sorted(server["Config"]["Env"])
    assert sorted(found["NetworkSettings"]["Networks"]) == sorted(server["NetworkSettings"]["Networks"])
    aliases = [alias for network in found["NetworkSettings"]["Networks"].values() for alias in network["Aliases"] or ()]
    assert not {"engineering", "engineering.instance"} & set(aliases)
    for limit in ("Memory", "ReadonlyRootfs", "CapDrop", "SecurityOpt", "Tmpfs", "Init"):
        assert found["HostConfig"][limit] == server["HostConfig"][limit]
    assert stack.rows("SELECT count(*) > 0 FROM raw_github.issues") == [["t"]]


def test_a_run_goes_on_while_its_location_is_replaced(stack: Stack, loading: str) -> None:
    stack.compose("up", "--detach", "--force-recreate", "--no-deps", "--wait", "engineering")
    slow_down(stack, 0)

    assert ended(stack, loading) == "SUCCESS", stack.failures(loading)
    assert_complete(stack, "engine", 5000, 800)
    assert messages(stack, loading).count("The run starts in the container") == 1
    wait_for(lambda: stack.locations()["engineering"] == "loaded", 60, "the location to load")


def test_a_run_that_is_killed_says_so_and_is_started_again(stack: Stack, loading: str) -> None:
    docker("kill", container(loading))

    assert ended(stack, loading) == "FAILURE"
    assert "The container of this run ended with exit code 137" in messages(stack, loading)
    slow_down(stack, 0)
    assert [run["status"] for run in recovered(stack, loading)] == ["SUCCESS"]
    assert_complete(stack, "engine", 5000, 800)


def test_the_log_of_a_container_that_died_at_start_is_in_the_ui(stack: Stack) -> None:
    run_id = stack.launch(ISSUES, "sandbox/empty")
    docker("kill", wait_for(lambda: container(run_id), 60, "the container"))

    assert ended(stack, run_id) == "FAILURE"
    assert "ended with exit code 137. Its last lines:" in messages(stack, run_id)


def test_a_run_can_be_cancelled(stack: Stack, loading: str) -> None:
    stack.graphql("mutation($r: String!) { terminateRun(runId: $r) { __typename } }", r=loading)

    assert ended(stack, loading) == "CANCELED"
    wait_for(lambda: inspected(container(loading))["State"]["Status"] == "exited", 30, "its container to end")


def test_old_containers_are_removed(stack: Stack) -> None:
    run = stack.materialize(ISSUES, "sandbox/empty")
    script = (
        "from datetime import timedelta; from dagster import DagsterInstance; from runtime.instance import containers; "
        "containers.KEPT = timedelta(0); DagsterInstance.get().run_launcher._remove_old()"
    )
    assert wait_for(lambda: inspected(container(run["runId"]))["State"]["Status"] == "exited", 30, "its end")
    stack.compose("exec", "-T", "daemon", "python", "-c", script)

    assert container(run["runId"]) == ""
    assert inspected(server_of(stack))["State"]["Running"]


@pytest.mark.parametrize(
    "call", ["images()", "exec_create('postgres', 'true')", "create_volume('more')", "info()", "networks()"]
)
def test_docker_refuses_what_a_run_does_not_need(stack: Stack, call: str) -> None:
    asked = stack.compose("exec", "-T", "daemon", "python", "-c", CALL.format(call), check=False)
    assert "403" in asked.stderr
    assert "Forbidden" in asked.stderr


def test_no_location_reaches_docker(stack: Stack) -> None:
    look_up = "import socket; socket.getaddrinfo('docker-proxy', 2375)"
    for location in LOCATIONS:
        asked = stack.compose("exec", "-T", location, "python", "-c", look_up, check=False)
        assert "gaierror" in asked.stderr
