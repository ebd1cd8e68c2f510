"""`make up`: starts the stack in Docker, waits until it is healthy, says where it is and what did not load."""

import json
import subprocess
import sys
import time
import urllib.request
from typing import Any

from scripts import make_env, port_is_free

QUERY = """{ workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError {
    __typename ... on PythonError { message causes { message } } } } } } }"""


def main() -> int:
    if not (make_env.ROOT / ".env").exists():
        make_env.main()
    wanted = published_port()
    if running_port() != wanted:
        port_is_free.demand(wanted)
    subprocess.run(["docker", "compose", "up", "--build", "--detach", "--wait"], check=True)
    address = f"http://127.0.0.1:{wanted}"
    errors = {name: error for name, error in locations(address).items() if error}
    for name, error in errors.items():
        print(f"The location {name} could not be loaded: {error}")
    print(f"Dagster is at {address}")
    return 1 if errors else 0


def published_port() -> int:
    """The port of the UI as compose understands `.env` and the shell."""
    command = ["docker", "compose", "config", "--format", "json"]
    config = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return int(config["services"]["webserver"]["ports"][0]["published"])


def running_port() -> int | None:
    """The port that the webserver of this project has now, if it runs."""
    command = ["docker", "compose", "port", "webserver", "3000"]
    output = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return int(output.rpartition(":")[2]) if output else None


def locations(address: str, timeout: float = 60) -> dict[str, str]:
    """Location → the root cause of its not loading, or nothing. Waits while a location is being reached."""
    deadline = time.monotonic() + timeout
    while True:
        request = urllib.request.Request(
            f"{address}/graphql", json.dumps({"query": QUERY}).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            entries = json.load(response)["data"]["workspaceOrError"]["locationEntries"]
        found = {entry["name"]: root_cause(entry["locationOrLoadError"]) for entry in entries}
        waiting = [error for error in found.values() if "loading" in error or "Could not reach" in error]
        if not waiting or time.monotonic() > deadline:
            return found
        time.sleep(1)


def root_cause(entry: dict[str, Any] | None) -> str:
    if not entry:
        return "it is still loading"
    if entry["__typename"] == "RepositoryLocation":
        return ""
    messages = [entry.get("message", ""), *(cause["message"] for cause in entry.get("causes", []))]
    return str(messages[-1]).strip()


if __name__ == "__main__":
    sys.exit(main())
