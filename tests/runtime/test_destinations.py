"""Destinations that have no server here: what dlt makes of their variables, and how far a load gets without one."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dlt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from dlt.destinations.impl.snowflake.configuration import SnowflakeClientConfiguration
from dlt.pipeline.exceptions import PipelineStepFailed
from tenacity import Retrying, stop_after_delay, wait_fixed

from runtime.metadata import qualified_name
from runtime.warehouse import OPTIONS, warehouse_pipeline
from tests.conftest import ROOT
from tests.runtime.colours import colours, colours_assets

PREFIX = "DESTINATION__SNOWFLAKE__CREDENTIALS__"
# Snowflake's emulator. It wants a newer sqlglot than dlt can do with: hence an environment of its own.
FAKESNOW = ["fakesnow[server]==0.12.1", "duckdb==2.0.0", "sqlglot==30.22.0", "snowflake-connector-python==4.8.1"]


def snowflake_config(pipeline: dlt.Pipeline) -> SnowflakeClientConfiguration:
    config = pipeline.destination_client().config
    assert isinstance(config, SnowflakeClientConfiguration)
    return config


@pytest.fixture
def snowflake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The variables of an account that signs in with a password."""
    monkeypatch.setenv("WAREHOUSE", "snowflake")
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    for name, value in {
        "HOST": "kgiotue-wn98412",
        "DATABASE": "ANALYTICS",
        "USERNAME": "LOADER",
        "PASSWORD": "canary-4d1f",
        "WAREHOUSE": "LOADING",
        "ROLE": "LOADER_ROLE",
    }.items():
        monkeypatch.setenv(PREFIX + name, value)
    return monkeypatch


def test_snowflake_takes_the_variables_of_the_example(snowflake: pytest.MonkeyPatch) -> None:
    config = snowflake_config(warehouse_pipeline("colours", "raw_colours"))

    parameters = config.credentials.to_connector_params()
    assert {name: parameters[name] for name in ("account", "database", "user", "password", "warehouse", "role")} == {
        "account": "kgiotue-wn98412",
        "database": "ANALYTICS",
        "user": "LOADER",
        "password": "canary-4d1f",
        "warehouse": "LOADING",
        "role": "LOADER_ROLE",
    }
    assert config.replace_strategy == "insert-from-staging"


@pytest.mark.parametrize("variable", ["PRIVATE_KEY", "PRIVATE_KEY_PATH"])
def test_snowflake_takes_a_key_pair(snowflake: pytest.MonkeyPatch, tmp_path: Path, variable: str) -> None:
    encoding, pkcs8 = serialization.Encoding, serialization.PrivateFormat.PKCS8
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(encoding.PEM, pkcs8, serialization.BestAvailableEncryption(b"canary-4d1f")).decode()
    path = tmp_path / "key.p8"
    path.write_text(pem)
    one_line = "".join(pem.splitlines()[1:-1])  # a line of .env
    snowflake.delenv(f"{PREFIX}PASSWORD")
    snowflake.setenv(PREFIX + variable, one_line if variable == "PRIVATE_KEY" else str(path))
    snowflake.setenv(f"{PREFIX}PRIVATE_KEY_PASSPHRASE", "canary-4d1f")

    parameters = snowflake_config(warehouse_pipeline("colours", "raw_colours")).credentials.to_connector_params()

    assert parameters["private_key"] == key.private_bytes(encoding.DER, pkcs8, serialization.NoEncryption())
    assert not parameters["password"]
    assert "canary-4d1f" not in str(parameters)


def test_assets_in_snowflake_have_its_kind(snowflake: pytest.MonkeyPatch) -> None:
    assert all({"dlt", "snowflake", "colours"} == spec.kinds for spec in colours_assets().specs)


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The credentials of a running emulator of Snowflake."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    packages = [argument for package in FAKESNOW[1:] for argument in ("--with", package)]
    install = [uv, "tool", "run", "--quiet", "--python", sys.executable, "--from", FAKESNOW[0], *packages, "fakesnow"]
    try:
        subprocess.run([*install, "--help"], check=True, capture_output=True, text=True, timeout=100)
    except (OSError, subprocess.SubprocessError) as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"fakesnow cannot be installed: {error}")
    log, command = tmp_path_factory.mktemp("fakesnow") / "log", [*install, "--server", "--port", str(port)]
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True) as server:
        try:
            for attempt in Retrying(stop=stop_after_delay(30), wait=wait_fixed(0.1), reraise=True):
                with attempt:
                    socket.create_connection(("127.0.0.1", port)).close()
            yield f"snowflake://loader:-@account/ANALYTICS?host=127.0.0.1&port={port}&protocol=http&warehouse=WH&role=R"
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def test_a_load_reaches_the_emulator_as_far_as_its_stage(emulator: str, tmp_path: Path) -> None:
    """fakesnow takes neither several statements at once, which dlt can do without, nor a stage's name in quotes."""
    pipeline = dlt.pipeline(
        "colours",
        dataset_name="raw_colours",
        destination=dlt.destinations.snowflake(emulator, supports_multiple_statements=False, **OPTIONS["snowflake"]),
        pipelines_dir=str(tmp_path),
    )
    with pytest.raises(PipelineStepFailed, match="does not start with @"):
        pipeline.run(colours("red"))

    with pipeline.sql_client() as client:
        columns = client.execute_sql(
            "SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns "
            "WHERE table_name LIKE 'THINGS%' AND column_name NOT LIKE '_DLT%' ORDER BY 1, 2, 3"
        )
    assert columns == [
        (dataset, *column)
        for dataset in ("RAW_COLOURS", "RAW_COLOURS_STAGING")
        for column in (("THINGS", "COLOUR", "TEXT"), ("THINGS", "ID", "NUMBER"), ("THINGS__PARTS", "N", "NUMBER"))
    ]
    assert qualified_name(pipeline, pipeline.default_schema, "things") == "ANALYTICS.RAW_COLOURS.THINGS"
