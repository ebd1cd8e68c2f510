"""The scripts that need no Docker to be tested: what they conclude from the settings."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts import doctor, preview, sources, up
from scripts.local import skip_reason
from tests.support.stack import clone

REAL = {"SOURCES__ZENDESK__API_KEY": "key", "SOURCES__ZENDESK__API_BASE_URL": "https://example.zendesk.com"}


@pytest.mark.parametrize(
    ("code", "settings", "needed"),
    [
        ("from dlt_sources import github", {"SOURCES__GITHUB__API_BASE_URL": "http://sandbox:8000/github"}, False),
        ("from dlt_sources import github", {"SOURCES__GITHUB__ACCESS_TOKEN": "token"}, True),
        # dlt's own source, under the name of the module
        ("from dagster_dlt import dlt_assets", REAL, True),
        (
            "from dagster_dlt import dlt_assets",
            {"SOURCES__ZENDESK__CREDENTIALS": "postgres://u:p@shop:5432/shop"},
            False,
        ),
        ("from dagster_dlt import dlt_assets", {"SOURCES__ZENDESK__BUCKET_URL": "/files"}, False),
        ("import dagster as dg", {}, False),  # loads nothing
    ],
)
def test_a_module_needs_the_network_unless_a_setting_of_its_source_points_to_the_sandbox(
    tmp_path: Path, code: str, settings: dict[str, str], needed: bool
) -> None:
    module = tmp_path / "code_locations" / "support" / "zendesk.py"
    module.parent.mkdir(parents=True)
    module.write_text(f"{code}\n")
    (tmp_path / "dlt_sources" / "github").mkdir(parents=True)

    assert sources.needs_network(module, settings, tmp_path) is needed


def test_a_source_that_is_skipped_is_named_with_what_to_do() -> None:
    assert skip_reason("zendesk") == (
        "zendesk: skipped, the sandbox has no stand-in for it. "
        "If you have one, set SOURCES__ZENDESK__API_BASE_URL in .env.example."
    )


@pytest.mark.parametrize(
    ("settings", "sentences"),
    [
        (REAL, []),
        ({}, ["zendesk: SOURCES__ZENDESK__API_KEY or SOURCES__ZENDESK__PASSWORD is not set."]),
        (
            REAL | {"SOURCES__ZENDESK__API_KEY": " "},
            ["zendesk: SOURCES__ZENDESK__API_KEY or SOURCES__ZENDESK__PASSWORD is not set."],
        ),
        ({"SOURCES__ZENDESK__PASSWORD": "secret"}, []),
        (
            REAL | {"SOURCES__ZENDESK__API_KEY": "CHANGEME-zendesk"},
            ["zendesk: SOURCES__ZENDESK__API_KEY is still the placeholder."],
        ),
        (
            {"SOURCES__ZENDESK__API_KEY": "<configure me>"},
            ["zendesk: SOURCES__ZENDESK__API_KEY is still the placeholder."],
        ),
        (
            REAL | {"SOURCES__ZENDESK__API_KEY": "sandbox-token"},
            ["zendesk: SOURCES__ZENDESK__API_KEY is still the sandbox's."],
        ),
        (
            {
                "SOURCES__ZENDESK__API_KEY": "sandbox-token",
                "SOURCES__ZENDESK__API_BASE_URL": "http://sandbox:8000/zendesk",
            },
            [],
        ),
    ],
)
def test_a_source_without_a_secret_is_named(tmp_path: Path, settings: dict[str, str], sentences: list[str]) -> None:
    """Nested variables, such as the keys of a bucket, may be left unset."""
    path = tmp_path / "code_locations" / "support" / "env.list"
    path.parent.mkdir(parents=True)
    path.write_text(
        "# Names\nSOURCES__ZENDESK__API_KEY\nSOURCES__ZENDESK__PASSWORD\nSOURCES__ZENDESK__API_BASE_URL\n"
        "SOURCES__FILESYSTEM__BUCKET_URL\nSOURCES__FILESYSTEM__CREDENTIALS__AWS_SECRET_ACCESS_KEY\n"
    )

    assert list(sources.missing_secrets("support", settings, root=tmp_path)) == sentences


def test_a_secret_in_a_file_or_a_secrets_manager_is_not_missing(tmp_path: Path) -> None:
    """`docker compose config` shows a service's secrets and folders. The file's name is the variable's, with dashes."""
    folder = tmp_path / "code_locations" / "support"
    folder.mkdir(parents=True)
    (folder / "env.list").write_text("SOURCES__ZENDESK__API_KEY\nSOURCES__CRM__API_KEY\nSOURCES__ERP__PASSWORD\n")
    (tmp_path / "sources--crm--api-key").touch()
    service = {
        "secrets": [{"source": "sources--zendesk--api-key"}, {"source": "erp", "target": "/run/secrets/other"}],
        "volumes": [
            {"type": "bind", "source": str(tmp_path), "target": "/run/secrets"},
            {"type": "volume", "source": "duckdb", "target": "/app/data"},
        ],
    }
    files = set(sources.secret_files(service))

    def named(**settings: str) -> list[str]:
        return [line.partition(":")[0] for line in sources.missing_secrets("support", settings, files, tmp_path)]

    assert named() == ["erp"]
    assert named(PROVIDERS__ENABLE_AWS_SECRETS="false") == ["erp"]
    assert named(PROVIDERS__ENABLE_AWS_SECRETS="true") == []
    assert set(sources.secret_files({"secrets": [{"source": "erp", "target": "sources--erp--password"}]})) == {
        "sources--erp--password"
    }


def test_the_shipped_settings_leave_no_source_without_a_secret_or_a_stand_in() -> None:
    """A source that .env.example does not name is the user's own: its secret is in .env, and it has no stand-in."""
    from dotenv import dotenv_values

    settings = dotenv_values(sources.ROOT / ".env.example")
    shipped = {match[1].lower() for name in settings if (match := sources.VARIABLE.fullmatch(name))}
    locations = [path.parent.name for path in sources.ROOT.glob("code_locations/*/env.list")]
    modules = {module.stem: module for location in locations for module in sources.modules(location)}

    hints = [hint for location in locations for hint in sources.missing_secrets(location, settings)]
    assert [hint for hint in hints if hint.partition(":")[0] in shipped] == []
    assert shipped & modules.keys()
    assert [name for name in shipped & modules.keys() if sources.needs_network(modules[name], settings)] == []


def test_a_new_env_has_its_own_passwords_and_project_name(tmp_path: Path) -> None:
    def made(folder: str) -> dict[str, str | None]:
        from dotenv import dotenv_values

        root = clone(tmp_path / folder / "Dagster dlt")
        code = "from scripts import make_env; make_env.main()"
        subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
        assert (root / ".env").stat().st_mode & 0o777 == 0o600
        return dotenv_values(root / ".env")

    first, second = made("first"), made("second")
    names = [str(settings["COMPOSE_PROJECT_NAME"]) for settings in (first, second)]

    assert all(name.startswith("dagster-dlt-") for name in names)
    assert names[0] != names[1]
    assert first["DAGSTER_POSTGRES_PASSWORD"] != second["DAGSTER_POSTGRES_PASSWORD"]
    assert not any("CHANGEME" in (value or "") for value in first.values())


CONTAINER = {
    "Service": "revenue",
    "ID": "c0ffee",
    "State": "running",
    "Health": "unhealthy",
    "Labels": "",
    "Status": "Up 2 minutes",
}
HEALTH = {"Status": "unhealthy", "Log": [{"Output": "the first one"}, {"Output": "timed out after 10 s\n"}]}


@pytest.mark.parametrize(("health", "last"), [(HEALTH, ["Its last health check: timed out after 10 s"]), (None, [])])
def test_make_up_shows_what_the_last_health_check_of_an_unhealthy_container_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, health: Any, last: list[str]
) -> None:
    answers = {"compose": json.dumps(CONTAINER), "logs": "importing revenue", "inspect": json.dumps(health)}
    cases = "".join(f"{name}) printf %s '{answer}' ;;\n" for name, answer in answers.items())
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\ncase $1 in\n{cases}esac\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    said = ["revenue is not healthy (Up 2 minutes). Its last lines:", "  importing revenue"]
    assert list(up.unhealthy_services()) == said + last


def test_the_container_of_a_run_is_not_that_of_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """docker-compose.docker-runs.yml: both have the name of the location."""
    monkeypatch.setattr(
        up,
        "compose",
        lambda *_: json.dumps(CONTAINER | {"Labels": "com.docker.compose.oneoff=True,dagster/run_id=4f1c"}),
    )
    assert list(up.unhealthy_services()) == []

    stack, labels = doctor.Stack(), {"com.docker.compose.service": "revenue"}
    server = {"Id": "c0ffee", "Config": {"Labels": labels | {"com.docker.compose.oneoff": "False"}}}
    run = {"Id": "4f1c", "Config": {"Labels": labels | {"com.docker.compose.oneoff": "True"}}}
    stack.all_containers = [server, run]
    assert stack.containers == {"revenue": server}


def test_a_preview_keeps_its_passwords_and_takes_no_setting_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCES__GITHUB__ACCESS_TOKEN", "a-real-secret")
    monkeypatch.setenv("SOURCES__OF_MY_OWN__API_KEY", "a-real-secret")
    monkeypatch.setenv("FSSPEC_S3_SECRET", "a-real-secret")
    monkeypatch.setenv("COMPOSE_FILE", "docker-compose.yml:compose.login.yml")
    first = preview.env({"WEBSERVER_PORT": "40213", "DAGSTER_POSTGRES_PASSWORD": "of-its-container"})

    assert "\nWEBSERVER_PORT=40213\n" in first
    assert "\nDAGSTER_POSTGRES_PASSWORD=of-its-container\n" in first
    assert "CHANGEME" not in first
    assert {*preview.shell_settings()} >= {
        "SOURCES__GITHUB__ACCESS_TOKEN",
        "SOURCES__OF_MY_OWN__API_KEY",
        "FSSPEC_S3_SECRET",
        "COMPOSE_FILE",
    }
    assert "PATH" not in preview.shell_settings()
