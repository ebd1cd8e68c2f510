"""A running sandbox server: its control calls, and a client for each fake API."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from requests import Response, Session

from sandbox.stripe.store import VERSION as STRIPE_VERSION
from tests.support.paths import ROOT

TOKEN = "sandbox-token"


class Sandbox:
    """The server: data, limits, faults and the request log of all fake APIs."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = Session()
        self.github = GithubApi(self, "github")
        self.thinkific = ThinkificApi(self, "thinkific")
        self.hubspot = HubspotApi(self, "hubspot")
        self.stripe = StripeApi(self, "stripe")

    def control(self, method: str, path: str, body: Any = None) -> Any:
        """A control call. A refused call fails with the server's error message."""
        response = self.http.request(method, f"{self.url}/_sandbox{path}", json=body, timeout=60)
        assert response.ok, response.text
        return response.json()

    def reset(self) -> None:
        """Restore the initial data, settings and limits; remove faults and the request log."""
        self.control("POST", "/reset")

    def settings(self, **changes: float) -> dict[str, float]:
        """Change settings and return all of them. Any change restarts every limit."""
        return dict(self.control("POST", "/settings", changes))

    def fault(
        self, kind: str, times: int | None = 1, match: dict[str, str] | None = None, **options: Any
    ) -> dict[str, Any]:
        """Queue a fault; `times=None` keeps it until `clear_faults`."""
        return dict(self.control("POST", "/faults", {"kind": kind, "times": times, "match": match or {}, **options}))

    def faults(self) -> list[dict[str, Any]]:
        """The faults that are still queued."""
        return list(self.control("GET", "/faults")["faults"])

    def clear_faults(self) -> None:
        self.control("DELETE", "/faults")

    def requests(self) -> list[dict[str, Any]]:
        """The log of requests to the fake APIs, in order of arrival."""
        return list(self.control("GET", "/requests")["requests"])

    def counts(self) -> dict[str, Any]:
        """The log in numbers: `total`, `by_path`, `by_status`, `by_operation`, `cost`."""
        return dict(self.control("GET", "/requests")["counts"])

    def forget_requests(self) -> None:
        """Empty the log."""
        self.control("DELETE", "/requests")


class FakeApi:
    """A client of one fake API, with the credentials that it accepts."""

    def __init__(self, sandbox: Sandbox, name: str) -> None:
        self.sandbox = sandbox
        self.name = name
        self.url = f"{sandbox.url}/{name}"
        self.token = TOKEN

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def request(self, method: str, path: str, headers: dict[str, str] | None = None, **options: Any) -> Response:
        """A request to the API; `headers` are added to those with the credentials."""
        sent = self.headers | (headers or {})
        return self.sandbox.http.request(method, f"{self.url}{path}", headers=sent, timeout=60, **options)

    def get(self, path: str, **options: Any) -> Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> Response:
        return self.request("POST", path, **options)

    def control(self, path: str, body: Any) -> dict[str, Any]:
        """A control call that concerns this API's data."""
        return dict(self.sandbox.control("POST", f"/{self.name}{path}", body))


class GithubApi(FakeApi):
    def graphql(self, query: str, variables: dict[str, Any] | None = None) -> Response:
        return self.post("/graphql", json={"query": query, "variables": variables or {}})

    def create_repository(self, name: str, **sizes: int) -> dict[str, Any]:
        """Add the repository `sandbox/<name>` with exactly these sizes."""
        return self.control("/repositories", {"name": name, **sizes})

    def change(self, kind: str, repository: str = "sandbox/handbook", **arguments: Any) -> dict[str, Any]:
        """Change the data of a repository; returns the changed row."""
        return self.control("/changes", {"kind": kind, "repository": repository, **arguments})


class ThinkificApi(FakeApi):
    @property
    def headers(self) -> dict[str, str]:
        return {"X-Auth-API-Key": self.token, "X-Auth-Subdomain": "sandbox"}

    def create_site(self, **sizes: int) -> dict[str, Any]:
        """Replace the site by one of exactly these sizes; sizes that are not given are the usual ones."""
        return self.control("/site", sizes)

    def change(self, kind: str, table: str | None = None, **arguments: Any) -> dict[str, Any]:
        """Change the site; returns the row after the change, or the deleted row."""
        return self.control("/changes", {"kind": kind, **({"table": table} if table else {}), **arguments})


class HubspotApi(FakeApi):
    def search(self, object_type: str, **body: Any) -> Response:
        return self.post(f"/crm/v3/objects/{object_type}/search", json=body)

    def create_account(self, **sizes: int) -> dict[str, Any]:
        """Replace the account by one with exactly so many objects of each type, and none of the other types."""
        return self.control("/account", sizes)

    def change(self, kind: str, **arguments: Any) -> dict[str, Any]:
        """Change the account's data; returns what was changed."""
        return self.control("/changes", {"kind": kind, **arguments})


class StripeApi(FakeApi):
    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}", "Stripe-Version": STRIPE_VERSION}

    def create_account(self, key: str, **sizes: int) -> dict[str, Any]:
        """Add an account of exactly these sizes, or replace it."""
        return self.control("/accounts", {"key": key, **sizes})

    def change(self, kind: str, **arguments: Any) -> dict[str, Any]:
        """Change an account's data; returns what was changed."""
        return self.control("/changes", {"kind": kind, **arguments})


StartSandbox = Callable[..., Sandbox]


@contextmanager
def running_sandbox(*arguments: str, **env: str) -> Iterator[Sandbox]:
    """Start a server on a free port and wait until it listens; stop it when the block ends."""
    command = [sys.executable, "-m", "sandbox", "--port", "0", *arguments]
    environment = {**os.environ, **env}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://" in line, f"the sandbox did not start: {line!r}"
        server = Sandbox(line.split()[-1])
        try:
            yield server
        finally:
            server.http.close()
            process.terminate()
            process.wait(timeout=10)
