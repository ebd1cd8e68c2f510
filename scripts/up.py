"""`make up`: starts the stack in Docker, waits until it is healthy, prints its address and what needs attention."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scripts import make_env, port_is_free, sources

ROOT = sources.ROOT
LOG_LINES = 15
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # colors
LOCATIONS = """{ workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError {
    __typename ... on PythonError { message causes { message } } } } } } }"""
ASK = """import sys, urllib.request as u
body, headers = sys.stdin.buffer.read() or None, {"Content-Type": "application/json"}
request = u.Request("http://127.0.0.1:3000" + sys.argv[1], body, headers)
sys.stdout.buffer.write(u.urlopen(request, timeout=30).read())"""
LAST_LOADS = """{ assetNodes { assetMaterializations(limit: 1) {
    metadataEntries { label ... on TextMetadataEntry { text } } } } }"""


def main() -> int:
    os.chdir(ROOT)
    if not shutil.which("docker"):
        sys.exit("make up needs Docker with Compose. `make demo` and `make dev` work without Docker.")
    if not Path(".env").exists():
        make_env.main()
    config = json.loads(compose("config", "--format", "json"))
    demand_own_project(config["name"])
    services = config["services"]
    if ports := services["webserver"].get("ports"):
        port = int(ports[0]["published"])
        if running_port() != port:
            port_is_free.demand(port)
        address = f"http://127.0.0.1:{port}"
    else:
        address = login_address(services["caddy"])

    problems: list[str] = []
    if not start():
        # A container that was slow may be healthy by now. A build that failed fails again.
        problems = list(unhealthy_services()) or ([] if start() else ["docker compose up failed, see above."])
    hints = list(missing_secrets(services))
    if answers():
        problems += load_errors()
        hints += stale_loads(services)
    for line in [*problems, *hints]:
        print(line)
    print(f"Dagster is at {address}" if answers() else f"Dagster will be at {address} when its webserver is up.")
    return 1 if problems else 0


def compose(*arguments: str) -> str:
    """What a compose command prints. Ends the process if it fails: its error is on the screen."""
    result = subprocess.run(["docker", "compose", *arguments], stdout=subprocess.PIPE, text=True)
    if result.returncode:
        sys.exit(result.returncode)
    return result.stdout


def demand_own_project(project: str) -> None:
    """Ends the process with a sentence if another clone has containers under the same project name.

    Compose would replace them, and this clone would adopt their volumes.
    """
    label = "com.docker.compose.project"
    command = ["docker", "ps", "--all", "--filter", f"label={label}={project}"]
    command += ["--format", f'{{{{.Label "{label}.working_dir"}}}}']
    folders = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    for folder in map(Path, folders):
        if folder.exists() and folder.resolve() != ROOT:  # it does not exist if this clone was moved
            sys.exit(
                f"{folder} already runs a project named {project}. Set COMPOSE_PROJECT_NAME in .env to another name, "
                "or run `docker compose down` there first."
            )


def running_port() -> int | None:
    """The port that the webserver of this project has now, if it runs."""
    command = ["docker", "compose", "port", "webserver", "3000"]
    output = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return int(output.rpartition(":")[2]) if output else None


def login_address(caddy: Mapping[str, Any]) -> str:
    """Where the UI is if compose.login.yml is in use: the webserver itself has no published port."""
    port = caddy["ports"][0]["published"]
    return f"https://{caddy['environment']['LOGIN_DOMAIN']}" + ("" if port == "443" else f":{port}")


def start() -> bool:
    """Builds, starts and waits. Returns whether everything is healthy."""
    command = ["docker", "compose", "up", "--build", "--detach", "--wait"]
    # With Docker's containerd image store, an attestation would change every image, and so recreate every container.
    environment = {**os.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    return subprocess.run(command, env=environment, stdout=sys.stderr).returncode == 0


def unhealthy_services() -> Iterator[str]:
    """A sentence for each container that is not healthy, with its last lines."""
    for line in compose("ps", "--all", "--format", "json").splitlines():
        container = json.loads(line)
        service, state, health = container["Service"], container["State"], container["Health"]
        if health == "healthy" or (state == "exited" and container["ExitCode"] == 0):
            continue
        if "com.docker.compose.oneoff=True" in container["Labels"]:  # a run's (docker-compose.docker-runs.yml)
            continue
        if state == "created":
            yield f"{service} has not been started: it waits for another service."
            continue
        command = ["docker", "logs", "--tail", str(LOG_LINES), container["ID"]]
        log = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
        yield f"{service} is not healthy ({container['Status']}). Its last lines:"
        yield from (f"  {line}" for line in ANSI.sub("", log).splitlines())
        if answer := health_check(container["ID"]):
            yield f"Its last health check: {answer}"


def health_check(container: str) -> str:
    """What the container's last health check printed, such as a timeout. Empty if it has none."""
    command = ["docker", "inspect", "--format", "{{json .State.Health}}", container]
    health = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout or "null")
    return str(health["Log"][-1]["Output"]).strip() if health and health["Log"] else ""


def missing_secrets(services: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each source without a secret, with the settings that its container has."""
    for location in sorted(path.parent.name for path in ROOT.glob("code_locations/*/env.list")):
        service = services.get(location, {})
        yield from sources.missing_secrets(
            location, service.get("environment") or {}, set(sources.secret_files(service))
        )


def load_errors(timeout: float = 60) -> list[str]:
    """A sentence for each location whose code does not load. Waits while the webserver connects to the locations."""
    return [f"The location {name} could not be loaded: {error}" for name, error in errors_by_location(timeout).items()]


def errors_by_location(timeout: float) -> dict[str, str]:
    deadline = time.monotonic() + timeout
    while True:
        entries = graphql(LOCATIONS)["workspaceOrError"]["locationEntries"]
        found = {entry["name"]: root_cause(entry["locationOrLoadError"]) for entry in entries}
        waiting = [error for error in found.values() if "loading" in error or "Could not reach" in error]
        if not waiting or time.monotonic() > deadline:
            return {name: error for name, error in found.items() if error}
        time.sleep(1)


def root_cause(entry: dict[str, Any] | None) -> str:
    if not entry:
        return "it is still loading"
    if entry["__typename"] == "RepositoryLocation":
        return ""
    messages = [entry.get("message", ""), *(cause["message"] for cause in entry.get("causes", []))]
    return str(messages[-1]).strip()


def stale_loads(services: Mapping[str, Any]) -> Iterator[str]:
    """A sentence if assets were last loaded into another destination than the one that WAREHOUSE names now."""
    [warehouse] = {
        s["environment"]["WAREHOUSE"] for s in services.values() if "WAREHOUSE" in (s.get("environment") or {})
    }
    destinations = Counter(
        entry["text"]
        for node in graphql(LAST_LOADS)["assetNodes"]
        for materialization in node["assetMaterializations"]
        for entry in materialization["metadataEntries"]
        if entry["label"] == "destination_name" and entry["text"] != warehouse
    )
    for destination, number in destinations.items():
        yield (
            f"WAREHOUSE is {warehouse}, but the last load of {number} asset{'s'[: number - 1]} went to {destination}. "
            f"The catalog shows them as materialized; {warehouse} has their tables once you materialize them again."
        )


def graphql(query: str) -> Any:
    return json.loads(ask("/graphql", json.dumps({"query": query})))["data"]


def answers() -> bool:
    """Whether the webserver is up."""
    try:
        ask("/server_info")
    except subprocess.CalledProcessError:
        return False
    return True


def ask(path: str, body: str = "") -> str:
    """What the webserver answers, asked from inside its container: with a login, it cannot be reached from outside."""
    command = ["docker", "compose", "exec", "-T", "webserver", "python", "-c", ASK, path]
    return subprocess.run(command, input=body, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
