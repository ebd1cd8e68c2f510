"""The real compose stack, driven as a user does: with compose commands and the UI's API."""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts import locations
from tests.support.paths import ROOT

LOCATIONS = locations.in_workspace()
PROJECT = os.environ.get("STACK_PROJECT", "dagster-dlt-test")


class Stack:
    """A compose project with its own settings."""

    def __init__(self, folder: Path, project: str = PROJECT, root: Path = ROOT, **settings: str) -> None:
        self.project = project
        self.root = root
        self.env_file = folder / ".env"
        self.port = free_port()
        example = (root / ".env.example").read_text()
        example = re.sub(r"CHANGEME[\w-]*", lambda _: secrets.token_hex(8), example)
        for name, value in {"WEBSERVER_PORT": str(self.port), **settings}.items():
            example, found = re.subn(rf"^#?{name}=.*$", f"{name}={value}", example, flags=re.MULTILINE)
            assert found, f"{name} is not in .env.example"
        self.env_file.write_text(example)
        self.env_file.chmod(0o600)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs `docker compose …` on this project. A failure shows its output."""
        command = ["docker", "compose", "--project-name", self.project, "--env-file", str(self.env_file), *arguments]
        result = subprocess.run(
            command, cwd=self.root, env=shell_environment(), capture_output=True, text=True, timeout=900
        )
        assert not check or result.returncode == 0, f"{' '.join(arguments)}\n{result.stdout}\n{result.stderr}"
        return result

    def container_ids(self) -> dict[str, str]:
        """Service → the id of its container."""
        found = self.compose("ps", "--all", "--format", "{{.Service}} {{.ID}}").stdout
        return dict(line.split() for line in found.splitlines())

    def up(self, *services: str) -> None:
        self.compose("up", "--build", "--detach", "--wait", *services)

    def down(self) -> None:
        self.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "5")

    def containers(self) -> list[str]:
        return self.compose("ps", "--all", "--quiet").stdout.split()

    def started(self) -> str:
        """When each container started, and how often after a crash."""
        wanted = "{{.Name}} {{.State.StartedAt}} {{.RestartCount}}"
        command = ["docker", "inspect", "--format", wanted, *self.containers()]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def set(self, name: str, value: str) -> None:
        """Edit `.env`, as a user does."""
        text, found = re.subn(rf"^#?{name}=.*$", f"{name}={value}", self.env_file.read_text(), flags=re.MULTILINE)
        assert found, name
        self.env_file.write_text(text)

    def graphql(self, query: str, **variables: Any) -> Any:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def locations(self) -> dict[str, str]:
        """Location → `loaded`, its error, or an empty text while it loads."""
        entries = self.graphql(
            """{ workspaceOrError { ... on Workspace { locationEntries { name
                 locationOrLoadError { __typename ... on PythonError { message causes { message } } } } } } }"""
        )["workspaceOrError"]["locationEntries"]
        return {
            entry["name"]: "loaded"
            if (found := entry["locationOrLoadError"] or {}).get("__typename") == "RepositoryLocation"
            else "".join(error.get("message", "") for error in [found, *found.get("causes", [])])
            for entry in entries
        }

    def apply(self, **settings: str) -> None:
        """Edits `.env` and restarts the services that read the settings, as the README says."""
        for name, value in settings.items():
            self.set(name, value)
        self.compose("up", "--detach", "--wait")
        self.reload("engineering")

    def reload(self, location: str) -> None:
        mutation = "mutation($n: String!) { reloadRepositoryLocation(repositoryLocationName: $n) { __typename } }"
        self.graphql(mutation, n=location)

    def assets(self, location: str = "engineering") -> list[list[str]]:
        """The keys of a location's assets that can be materialized."""
        nodes = self.graphql("{ assetNodes { assetKey { path } isMaterializable repository { location { name } } } }")
        return [
            node["assetKey"]["path"]
            for node in nodes["assetNodes"]
            if node["isMaterializable"] and node["repository"]["location"]["name"] == location
        ]

    def assets_of_module(self, location: str, module: str) -> list[list[str]]:
        """The keys of the assets that one module of a location defines."""
        code = (
            "import json, dagster as dg\n"
            f"from code_locations.{location}.{module} import defs\n"
            "assets = [found for found in defs.assets if isinstance(found, dg.AssetsDefinition)]\n"
            "print(json.dumps([key.path for found in assets if found.is_executable for key in found.keys]))"
        )
        output = self.compose("exec", "-T", location, "python", "-c", code).stdout
        keys: list[list[str]] = json.loads(output.splitlines()[-1])
        return keys

    def materialized(self) -> list[list[str]]:
        """The keys of all assets that have been materialized."""
        nodes = self.graphql("{ assetNodes { assetKey { path } assetMaterializations(limit: 1) { runId } } }")
        return [node["assetKey"]["path"] for node in nodes["assetNodes"] if node["assetMaterializations"]]

    def backfill(
        self, assets: list[list[str]], partitions: list[str] | None = None, timeout: float = 240
    ) -> list[dict[str, Any]]:
        """Materializes partitions (None: all) through the daemon and its queue. Returns the runs that ended."""
        return self.backfilled(self.launch_backfill(assets, partitions), timeout)

    def launch_backfill(self, assets: list[list[str]], partitions: list[str] | None = None) -> str:
        launched = self.graphql(
            """mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {
                 __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }""",
            p={
                "assetSelection": [{"path": path} for path in assets],
                "partitionNames": partitions,
                "allPartitions": partitions is None,
            },
        )["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        return str(launched["backfillId"])

    def backfill_now(self, backfill_id: str) -> dict[str, Any]:
        """A backfill's current status and runs."""
        found: dict[str, Any] = self.graphql(
            """query($b: String!) { partitionBackfillOrError(backfillId: $b) { ... on PartitionBackfill {
                 status error { message } runs(limit: 500) { runId status endTime tags { key value }
                 repositoryOrigin { repositoryLocationName } } } } }""",
            b=backfill_id,
        )["partitionBackfillOrError"]
        return found

    def backfilled(self, backfill_id: str, timeout: float) -> list[dict[str, Any]]:
        """Wait for a backfill to end; returns its runs."""

        def ended() -> Any:
            found = self.backfill_now(backfill_id)
            return found if found["status"] not in ("REQUESTED", "CANCELING", "FAILING") else None

        found = wait_for(ended, timeout, "the backfill to end")
        runs: list[dict[str, Any]] = found["runs"]
        return runs

    def launch(self, assets: list[list[str]], partition: str | None, location: str = "engineering") -> str:
        """Launch a run of one partition, or of unpartitioned assets, as the UI does; returns its id."""
        launched = self.graphql(
            """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) {
                 __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }""",
            p={
                "selector": {
                    "repositoryLocationName": location,
                    "repositoryName": "__repository__",
                    "jobName": "__ASSET_JOB",
                    "assetSelection": [{"path": path} for path in assets],
                },
                "executionMetadata": {"tags": [{"key": "dagster/partition", "value": partition}] if partition else []},
            },
        )["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def materialize(
        self, assets: list[list[str]], partition: str | None, location: str = "engineering", timeout: float = 180
    ) -> dict[str, Any]:
        """Launch a run and wait for its end."""
        run_id = self.launch(assets, partition, location)
        query = "query($r: ID!) { runOrError(runId: $r) { ... on Run { runId status } } }"

        def ended() -> Any:
            run = self.graphql(query, r=run_id)["runOrError"]
            return run if run["status"] in ("SUCCESS", "FAILURE", "CANCELED") else None

        run: dict[str, Any] = wait_for(ended, timeout, "the run to end")
        return run

    def events(self, run_id: str) -> list[dict[str, Any]]:
        """All events of a run. A run over many days has more than one page of them."""
        events: list[dict[str, Any]] = []
        page: dict[str, Any] = {"hasMore": True, "cursor": None}
        while page["hasMore"]:
            page = self.graphql(
                """query($r: ID!, $c: String) { logsForRun(runId: $r, afterCursor: $c) { ... on EventConnection {
                     cursor hasMore events { __typename
                       ... on MessageEvent { message stepKey }
                       ... on ExecutionStepFailureEvent { error { message causes { message } } }
                       ... on AssetCheckEvaluationEvent { evaluation { checkName success } }
                       ... on LogsCapturedEvent { fileKey } } } } }""",
                r=run_id,
                c=page["cursor"],
            )["logsForRun"]
            events += page["events"]
        return events

    def failures(self, run_id: str) -> str:
        """The errors in a run's log, with their causes."""
        lines = []
        for event in self.events(run_id):
            if error := event.get("error"):
                lines += [error["message"], *(cause["message"] for cause in error["causes"])]
        return "\n".join(lines)

    def captured_logs(self, run_id: str) -> str:
        """The run's output, as the UI shows it."""
        keys = [event["fileKey"] for event in self.events(run_id) if event["__typename"] == "LogsCapturedEvent"]
        assert keys, "the run captured no logs"
        logs = self.graphql(
            "query($k: [String!]!) { capturedLogs(logKey: $k) { stdout stderr } }", k=[run_id, "compute_logs", keys[0]]
        )["capturedLogs"]
        return f"{logs['stdout'] or ''}{logs['stderr'] or ''}"

    def sandbox(self, path: str, **body: Any) -> None:
        """Calls the controls of the sandbox, which only its own container can reach."""
        script = (
            f"import urllib.request as u; u.urlopen(u.Request('http://127.0.0.1:8000/_sandbox{path}', "
            f"data={json.dumps(body).encode()!r}, method='POST'))"
        )
        self.compose("exec", "-T", "sandbox", "python", "-c", script)

    def rows(self, sql: str) -> list[list[str]]:
        """The result of a query in the warehouse."""
        command = ["psql", "-U", "loader", "warehouse", "--tuples-only", "--no-align", "--command", sql]
        output = self.compose("exec", "-T", "warehouse", *command).stdout
        return [line.split("|") for line in output.splitlines() if line]


class Clone(Stack):
    """Another clone of the project, with its own `.env`."""

    def script(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a script as make does: without the packages of the tests."""
        command = [sys.executable, "-m", f"scripts.{name}", *arguments]
        return subprocess.run(
            command, cwd=self.root, env=shell_environment(), capture_output=True, text=True, timeout=900
        )

    def image(self, service: str) -> str:
        """The image that a service's container runs."""
        container = self.container_ids()[service]
        command = ["docker", "inspect", "--format", "{{.Image}}", container]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def started_at(self) -> dict[str, str]:
        """Service → when its container was started."""
        found = self.container_ids()
        command = ["docker", "inspect", "--format", "{{.State.StartedAt}}", *found.values()]
        times = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        return dict(zip(found, times, strict=True))

    def make_up(self) -> subprocess.CompletedProcess[str]:
        return self.script("up")


def shell_environment() -> dict[str, str]:
    """The environment of this process without settings of the deployment: those come from `.env` alone."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SOURCES__", "COMPOSE_"))}
    # With Docker's containerd image store, an attestation would change the images of an unchanged build.
    return kept | {"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}


def clone(folder: Path) -> Path:
    """A copy of the project, as another clone has it: without settings, data and installed packages."""
    leave_out = (".git", ".venv", ".uv", ".env", "data", "artifacts", ".*_cache", "__pycache__", ".hypothesis")
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*leave_out))
    (folder / "data" / "archives").mkdir(parents=True)
    return folder


def wait_for(condition: Callable[[], Any], timeout: float, what: str) -> Any:
    deadline = time.monotonic() + timeout
    last: Any = None
    while time.monotonic() < deadline:
        try:
            if last := condition():
                return last
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            last = error
        time.sleep(1)
    raise AssertionError(f"waited {timeout:.0f} s for {what}; last: {last}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
