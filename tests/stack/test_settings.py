"""A wrong setting gives a clear message where the user looks, and everything else keeps working."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.stack import Stack, clone, wait_for


def run_one(stack: Stack, partition: str, asset: str = "issues") -> tuple[str, str]:
    """Materializes one partition of one asset. Returns the run's status and the failures in its log."""
    run = stack.materialize([["github", asset]], partition)
    return run["status"], stack.failures(run["runId"])


def test_without_env_compose_says_how_to_make_it(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    command = ["docker", "compose", "--env-file", str(tmp_path / "empty"), "config"]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, env={"PATH": "/usr/local/bin:/usr/bin:/bin"}
    )

    assert result.returncode != 0
    assert "is missing. Copy .env.example to .env, or run make up" in result.stderr


def test_a_taken_port_is_named_before_anything_starts(tmp_path: Path) -> None:
    root = clone(tmp_path / "clone")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        environment = {**os.environ, "WEBSERVER_PORT": str(port), "COMPOSE_PROJECT_NAME": "dagster-dlt-port"}
        command = [sys.executable, "-m", "scripts.up"]
        result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=60)

    assert result.returncode != 0
    assert (
        f"Port {port} on 127.0.0.1 is taken. Stop what listens there, or set WEBSERVER_PORT in .env." in result.stderr
    )


def test_a_missing_token_fails_only_the_run_and_is_named(changed_stack: Stack) -> None:
    stack = changed_stack
    # GitHub's own address, which cannot be reached here and must not get a request without a token.
    stack.apply(SOURCES__GITHUB__ACCESS_TOKEN="", SOURCES__GITHUB__API_BASE_URL="https://api.github.com")
    wait_for(lambda: stack.locations()["engineering"] == "loaded", 60, "engineering to load without a token")
    status, failures = run_one(stack, "sandbox/handbook")

    assert status == "FAILURE"
    assert "SOURCES__GITHUB__ACCESS_TOKEN is missing, empty or a placeholder: set it to read from GitHub." in failures


def test_a_wrong_token_and_an_unknown_repository_are_named(changed_stack: Stack) -> None:
    stack = changed_stack
    stack.apply(
        SOURCES__GITHUB__ACCESS_TOKEN="wrong",
        SOURCES__GITHUB__API_BASE_URL="http://sandbox:8000/github",
    )
    status, failures = run_one(stack, "sandbox/handbook")
    assert status == "FAILURE"
    assert "GitHub rejects the credential (401" in failures
    assert "check SOURCES__GITHUB__ACCESS_TOKEN" in failures

    stack.apply(SOURCES__GITHUB__ACCESS_TOKEN="sandbox-token", GITHUB_REPOSITORIES="sandbox/nowhere")
    wait_for(lambda: stack.locations()["engineering"] == "loaded", 60, "engineering to load")
    status, failures = run_one(stack, "sandbox/nowhere")
    assert status == "FAILURE"
    assert "GitHub has no repository sandbox/nowhere, or hides it: check owner and name" in failures


def test_a_module_that_cannot_load_shows_why_and_its_location_stays(changed_stack: Stack) -> None:
    stack = changed_stack
    stack.apply(GITHUB_REPOSITORIES="not a repository")
    why = wait_for(lambda: "REPOS" in (said := why_not_loaded(stack, "github")) and said, 60, "the placeholder")
    assert "GITHUB_REPOSITORIES='not a repository' must be a comma-separated list of owner/name" in why
    assert stack.locations()["engineering"] == "loaded"

    stack.apply(GITHUB_REPOSITORIES="sandbox/handbook", WAREHOUSE="oracel")
    why = wait_for(lambda: "WAREHOUSE" in (said := why_not_loaded(stack, "github")) and said, 60, "the placeholder")
    assert "WAREHOUSE=oracel is not a destination that dlt knows" in why

    stack.apply(WAREHOUSE="postgres")
    wait_for(lambda: stack.locations()["engineering"] == "loaded", 60, "engineering to load again")
    wait_for(lambda: not why_not_loaded(stack, "github"), 60, "the assets of github instead of the placeholder")


def why_not_loaded(stack: Stack, module: str) -> str:
    """The description of a module's placeholder, or nothing where there is none."""
    query = "query($k: [AssetKeyInput!]) { assetNodes(assetKeys: $k) { description } }"
    nodes = stack.graphql(query, k=[{"path": [module, "not_loaded"]}])["assetNodes"]
    return str(nodes[0]["description"]) if nodes else ""


def test_a_warehouse_that_is_down_fails_the_run_but_not_the_location(changed_stack: Stack) -> None:
    stack = changed_stack
    stack.compose("stop", "warehouse")
    try:
        status, failures = run_one(stack, "sandbox/handbook")
    finally:
        stack.compose("up", "--detach", "--wait", "warehouse")

    assert status == "FAILURE"
    assert "Check that it is up, and DESTINATION__POSTGRES__CREDENTIALS__" in failures
    status, failures = run_one(stack, "sandbox/handbook")
    assert status == "SUCCESS", failures
