"""The sandbox overlay on a real cluster, driven as a user does: with kubectl and the UI's API.

KUBERNETES_CLUSTER is a program that starts a cluster (`up`), runs a command where it can be reached (`run kubectl …`),
copies images of the Docker engine into it (`load IMAGE…`) and ends it (`down`).
"""

import json
import os
import subprocess
from typing import Any
from urllib.parse import urlencode

from scripts import kubernetes
from tests.support.stack import Stack, wait_for

PROGRAM = os.environ.get("KUBERNETES_CLUSTER", "")
NAMESPACE = "dagster-sandbox"
OVERLAY = kubernetes.FOLDER / "sandbox"
WEBSERVER = f"/api/v1/namespaces/{NAMESPACE}/services/webserver:3000/proxy/graphql"
RUNS = ["get", "pods", "--selector", "role=run", "--output", "json"]


class Cluster(Stack):
    """The stack, in pods."""

    def __init__(self) -> None:
        """Nothing of compose's: no settings of its own, no port."""

    def program(self, *arguments: str, text: str | None = None, check: bool = True, seconds: float = 300) -> str:
        done = subprocess.run(
            [PROGRAM, *arguments], input=text, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert not check or done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def kubectl(self, *arguments: str, text: str | None = None, check: bool = True) -> str:
        return self.program("run", "kubectl", "--namespace", NAMESPACE, *arguments, text=text, check=check)

    def graphql(self, query: str, **variables: Any) -> Any:
        # kubectl sends no content type, and the webserver then reads the address.
        address = f"{WEBSERVER}?{urlencode({'query': query, 'variables': json.dumps(variables)})}"

        def ask() -> Any:
            try:
                return json.loads(self.kubectl("create", "--raw", address, "--filename", "-", text="{}"))
            except AssertionError as error:
                if "no endpoints available" not in str(error):
                    raise
                return None  # a new kubelet takes a pod for ready once it has probed it

        answer = wait_for(ask, 60, "the webserver to be ready")
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """What tests of the compose stack ask of a service with `docker compose exec -T`."""
        assert arguments[:2] == ("exec", "-T"), arguments
        _, _, service, *command = arguments
        return subprocess.CompletedProcess(command, 0, self.in_pod(service, *command))

    def in_pod(self, deployment: str, *command: str) -> str:
        return self.kubectl("exec", f"deployment/{deployment}", "--", *command)

    def rows(self, sql: str) -> list[list[str]]:
        command = ["psql", "-U", "loader", "warehouse", "--tuples-only", "--no-align", "-c", sql]
        return [line.split("|") for line in self.in_pod("warehouse", *command).splitlines() if line]

    def sandbox(self, path: str, **body: Any) -> None:
        script = (
            f"import urllib.request as u; u.urlopen(u.Request('http://127.0.0.1:8000/_sandbox{path}', "
            f"data={json.dumps(body).encode()!r}, method='POST'))"
        )
        self.in_pod("sandbox", "python", "-c", script)

    def pods_of_runs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.kubectl(*RUNS))["items"]
        return found

    def loaded(self, seconds: float = 300) -> None:
        """Waits until the webserver has loaded every location."""

        def all_loaded() -> bool:
            try:
                found = self.locations()
            except AssertionError:  # the webserver does not answer yet
                return False
            return len(found) == len(kubernetes.locations()) and set(found.values()) == {"loaded"}

        wait_for(all_loaded, seconds, "every location to load")
