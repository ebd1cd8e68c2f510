"""The commands that people try first, in a fresh clone where nothing is set."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
QUERY = """{
    workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError { __typename } } } }
    assetNodes { assetKey { path } }
}"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for folder in ("runtime", "dlt_sources", "code_locations"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", ".dlt"))
    for file in ("pyproject.toml", "dagster.yaml", "workspace.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    return tmp_path


def environment(clone: Path) -> dict[str, str]:
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(clone),
        "PYTHONPATH": str(clone),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "RUNTIME__DLTHUB_TELEMETRY": "false",
    }


def run(clone: Path, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=clone, env=environment(clone) | settings, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("dagster definitions validate", "All code locations passed validation."),
        ("dg check defs", "All definitions loaded successfully."),
        ("dagster asset list -m code_locations.learning.definitions", "thinkific/courses"),
    ],
)
def test_a_command_works(clone: Path, command: str, expected: str) -> None:
    done = run(clone, *command.split())

    assert done.returncode == 0, done.stderr
    assert expected in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_what_cannot_be_loaded_yet_is_listed_with_what_to_do(clone: Path) -> None:
    listed = json.loads(run(clone, "dg", "list", "defs", "--json").stdout)["assets"]

    assert "thinkific/courses" in {asset["asset_key"] for asset in listed}
    [github] = [asset for asset in listed if asset["group_name"] == "github"]
    assert github["asset_key"] == "github/not_loaded"
    assert "GITHUB_REPOSITORIES='' must be a comma-separated list of owner/name" in github["description"]


@pytest.mark.parametrize(
    "command",
    [
        "dagster asset materialize -m code_locations.learning.definitions --select thinkific/courses",
        "dg launch --assets thinkific/courses",
    ],
)
def test_a_run_without_its_secret_says_which(clone: Path, command: str) -> None:
    done = run(clone, *command.split())

    assert done.returncode == 1
    assert (
        "SOURCES__THINKIFIC__API_KEY is missing, empty or a placeholder: set it to read from Thinkific." in done.stderr
    )


def test_a_deployment_without_its_variables_does_not_fall_back_to_sqlite(clone: Path) -> None:
    done = run(clone, "dagster", "instance", "info", DAGSTER_HOME=str(clone))

    assert done.returncode == 1
    assert 'environment variable "DAGSTER_POSTGRES_HOST" which is not set' in done.stderr


@pytest.mark.timeout(400)
@pytest.mark.parametrize("command", ["dagster dev", pytest.param("dg dev", marks=pytest.mark.slow)])
def test_a_development_server_has_all_locations(clone: Path, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with (clone / "log").open("w+") as log:
        process = subprocess.Popen(
            [*command.split(), "--port", str(port)],
            cwd=clone,
            env=environment(clone),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            data = answer(f"http://127.0.0.1:{port}/graphql", process)
        finally:
            for number in (signal.SIGINT, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(10)
    assert data, (clone / "log").read_text()
    [entry] = data["workspaceOrError"]["locationEntries"]
    assert entry["locationOrLoadError"]["__typename"] == "RepositoryLocation"
    groups = {node["assetKey"]["path"][0] for node in data["assetNodes"]}
    sources = {path.parent.name for path in ROOT.glob("dlt_sources/*/__init__.py")} - {"verified"}
    assert {*sources, "staging", "marts", "reports"} <= groups


def answer(url: str, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What the server says once its location is loaded; nothing if it ends or takes too long."""
    request = urllib.request.Request(url, json.dumps({"query": QUERY}).encode(), {"Content-Type": "application/json"})
    for _ in range(180):
        with suppress(OSError), urllib.request.urlopen(request, timeout=10) as response:
            data: dict[str, Any] = json.load(response)["data"]
            if data["assetNodes"]:
                return data
        if process.poll() is not None:
            break
        time.sleep(1)
    return {}
