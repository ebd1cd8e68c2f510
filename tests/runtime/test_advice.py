"""The sentence that says what to do about an error."""

import os
from typing import Any

import dlt
import pytest
from dlt.common.exceptions import MissingDependencyException
from dlt.sources.credentials import GcpServiceAccountCredentials
from dlt.sources.filesystem import readers
from dlt.sources.sql_database import sql_database

from runtime.load.advice import advice, missing_settings, without_secrets


@dlt.source(section="shop")
def shop(token: str = dlt.secrets.value, region: str = dlt.config.value) -> Any:
    return dlt.resource([{"id": token + region}], name="orders")


@dlt.source(section="shop")
def typed(credentials: GcpServiceAccountCredentials = dlt.secrets.value) -> Any:
    return dlt.resource([{"id": credentials.project_id}], name="orders")


def test_missing_settings_are_named_by_their_section(monkeypatch: pytest.MonkeyPatch) -> None:
    assert error_of(shop) == "SOURCES__SHOP__TOKEN, SOURCES__SHOP__REGION are missing, empty or a placeholder: " + (
        "set them and restart the location."
    )
    monkeypatch.setenv("SOURCES__SHOP__REGION", "eu")
    assert error_of(shop).startswith("SOURCES__SHOP__TOKEN is missing")
    assert error_of(lambda: dlt.secrets["sources.shop.token"]).startswith("SOURCES__SHOP__TOKEN is missing")
    assert error_of(lambda: readers.clone(section="shop")()).startswith("SOURCES__SHOP__BUCKET_URL is missing")


def test_credentials_are_named_as_a_whole_and_by_what_they_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = "SOURCES__SHOP__CREDENTIALS"
    parts = [f"{whole}__{part}" for part in ("PROJECT_ID", "PRIVATE_KEY", "CLIENT_EMAIL")]
    assert error_of(typed).startswith(f"{whole} (or its parts {', '.join(parts)}) is missing")
    database = sql_database.clone(section="shop")
    assert error_of(lambda: database(table_names=["orders"])).startswith(f"{whole} (or its parts {whole}__DRIVERNAME)")

    monkeypatch.setenv(parts[0], "project")
    monkeypatch.setenv(parts[2], "loader@project.iam")
    assert error_of(typed).startswith(f"{parts[1]} is missing")


def test_a_variable_that_python_looks_up_is_named() -> None:
    assert error_of(lambda: os.environ["SHOP_REGION"]).startswith("SHOP_REGION is missing")
    assert missing_settings(KeyError("region")) is None


def test_the_cause_decides() -> None:
    def load() -> None:
        try:
            shop()
        except Exception as error:
            raise RuntimeError("extract failed") from error

    assert error_of(load).startswith("SOURCES__SHOP__TOKEN, ")


def test_a_missing_package_is_named_and_none_is_guessed() -> None:
    assert error_of(lambda: __import__("bson_of_some_vendor")) == (
        "The module bson_of_some_vendor is not installed: run `uv add <package>` (the requirements.txt of the source "
        "has the name) and build the image again."
    )
    error = MissingDependencyException("sheets", ["google-api-python-client>=2"])
    assert "run `uv add 'google-api-python-client>=2'`" in advice(error)
    assert error_of(lambda: __import__("dlt_sources.zendsk")) == (
        "ModuleNotFoundError: No module named 'dlt_sources.zendsk'"
    )


def test_only_the_first_line_of_other_errors_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCES__SHOP__TOKEN", "canary-91")

    assert advice(ValueError("\n no plan\nat all")) == "ValueError: no plan"
    assert advice(ValueError()) == "ValueError"
    assert advice(ValueError("Bearer canary-91 is wrong")) == "ValueError: Bearer $SOURCES__SHOP__TOKEN is wrong"
    assert advice(ValueError("401 for https://u:p4ss@x.io/a?key=s3cret&b=2 (https://x.io/b)")) == (
        "ValueError: 401 for https://***@x.io/a?***&*** (https://x.io/b)"
    )
    assert advice(ValueError("no route to postgresql://u:p@ss@db:5432/shop")) == (
        "ValueError: no route to postgresql://***@db:5432/shop"
    )


def test_a_secret_of_a_toml_file_is_replaced_by_its_name_whatever_is_beside_it() -> None:
    engine = object()  # dlt also takes live connections, which no document can hold
    values = {
        "sources.shop.api_key": "sk_live_toml",
        "sources.shop.accounts": [{"password": "sk_live"}],
        "sources.shop.pin": 123456,
        "sources.shop.engine": engine,
    }
    with dlt.secrets.values(values):
        assert without_secrets("bad sk_live_toml, sk_live and 123456") == (
            "bad $SOURCES__SHOP__API_KEY, $SOURCES__SHOP__ACCOUNTS__PASSWORD and $SOURCES__SHOP__PIN"
        )
    assert without_secrets("bad sk_live_toml") == "bad sk_live_toml"


def test_what_is_no_secret_stays_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "warehouse: TLS is True on port 5432 in eu, see https://sandbox:8000/thinkific"
    settings = {
        "FLAG": "True",
        "PORT": "5432",
        "REGION": "eu",
        "CREDENTIALS__HOST": "warehouse",
        "SUBDOMAIN": "sandbox",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"SOURCES__SHOP__{name}", value)

    assert without_secrets(text) == text


def test_a_line_of_a_library_is_not_taken_for_the_projects() -> None:
    code = compile(
        "raise ValueError('no plan')", "/srv/dlt_sources/.venv/lib/python3/site-packages/vendor/x.py", "exec"
    )

    assert error_of(lambda: exec(code)) == "ValueError: no plan"


def error_of(function: Any) -> str:
    with pytest.raises(BaseException) as failure:  # noqa: PT011
        function()
    return advice(failure.value)
