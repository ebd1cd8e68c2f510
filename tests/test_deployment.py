"""The deployment's parts name each other right: a folder, a service or a variable that was forgotten is named here."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
WORKSPACE: dict[str, Any] = yaml.safe_load((ROOT / "workspace.yaml").read_text())
CONTRACTS: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]
EXAMPLE = (ROOT / ".env.example").read_text()

# Made by compose or by scripts/local.py out of the others, never set by a user.
INTERNAL = {
    "COMPOSE_PROJECT_NAME",
    "DAGSTER_POSTGRES_HOST",
    "DAGSTER_POSTGRES_DB",
    "DAGSTER_POSTGRES_USER",
    "DAGSTER_COMPUTE_LOGS_DIR",
}


def packages(folder: str) -> set[str]:
    return {path.parent.name for path in (ROOT / folder).glob("*/__init__.py")}


def missing(named: dict[str, set[str]]) -> list[str]:
    """What is named in one place and forgotten in another, as sentences."""
    every = set().union(*named.values())
    return [f"{name} lacks {place}" for name in sorted(every) for place, names in named.items() if name not in names]


def contract(name: str) -> set[str]:
    [found] = [contract for contract in CONTRACTS if contract["name"] == name]
    return {module.partition(".")[2] for module in found["modules"]}


def location_services() -> dict[str, dict[str, Any]]:
    return {n: s for n, s in COMPOSE["services"].items() if s.get("build", {}).get("target") == "code-location"}


def environment(service: dict[str, Any]) -> dict[str, str | None]:
    return dict(service.get("environment", {}))


def test_every_location_is_a_folder_a_service_a_workspace_entry_and_a_contract() -> None:
    named = {
        "a folder in code_locations": packages("code_locations"),
        "a service in docker-compose.yml": set(location_services()),
        "an entry in workspace.yaml": {entry["grpc_server"]["location_name"] for entry in WORKSPACE["load_from"]},
        "the contract in pyproject.toml": contract("No location imports another location"),
    }
    assert missing(named) == []


def test_every_source_is_a_folder_and_a_contract() -> None:
    named = {
        "a folder in dlt_sources": packages("dlt_sources"),
        "the contract in pyproject.toml": contract("No source imports another source"),
        "tests in tests/dlt_sources": {
            next((name for name in packages("dlt_sources") if path.stem.startswith(f"test_{name}")), path.stem)
            for path in (ROOT / "tests" / "dlt_sources").glob("test_*.py")
        }
        - {"test_http"},
    }
    assert missing(named) == []


@pytest.mark.parametrize("name", sorted(location_services()))
def test_a_location_is_named_alike_everywhere(name: str) -> None:
    service = location_services()[name]
    [entry] = [e["grpc_server"] for e in WORKSPACE["load_from"] if e["grpc_server"]["location_name"] == name]

    assert entry == {"location_name": name, "host": name, "port": 4000}
    assert environment(service)["DAGSTER_MODULE_NAME"] == f"code_locations.{name}.definitions"
    # Port 4000 runs code for whoever reaches it: it listens on the instance network's address alone.
    # Two locations that share this folder would wipe each other's working files, and could read them.
    assert [volume for volume in service["volumes"] if ":/var/dlt" in volume] == [f"{name}-dlt:/var/dlt"]
    assert service["networks"]["instance"]["aliases"] == [environment(service)["DAGSTER_GRPC_HOST"]]


@pytest.mark.parametrize("name", sorted(COMPOSE["services"]))
def test_a_service_is_hardened(name: str) -> None:
    service = COMPOSE["services"][name]

    assert service["read_only"]
    assert service["init"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["logging"]["options"]["max-size"]
    assert service["restart"] == ("no" if name == "migrate" else "unless-stopped")
    assert name == "migrate" or service["healthcheck"]
    assert "container_name" not in service


def test_only_the_ui_is_published_and_only_on_loopback() -> None:
    ports = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}

    assert ports == {"webserver": ["127.0.0.1:${WEBSERVER_PORT:-3000}:3000"]}


def test_secrets_reach_the_locations_alone() -> None:
    for name, service in COMPOSE["services"].items():
        sources = [key for key in environment(service) if key.startswith(("SOURCES__", "DESTINATION__"))]
        assert not sources or name in location_services(), f"{name} has {sources}"


def test_every_variable_that_compose_or_code_reads_is_in_the_example() -> None:
    documented = set(re.findall(r"^#?([A-Z][A-Z0-9_]+)=", EXAMPLE, re.MULTILINE))
    compose_text = (ROOT / "docker-compose.yml").read_text()
    in_compose = set(re.findall(r"\$\{([A-Z][A-Z0-9_]+)", compose_text))
    passed_on = {key for s in COMPOSE["services"].values() for key, value in environment(s).items() if value is None}
    in_code = {
        name
        for folder in ("code_locations", "runtime", "dlt_sources", "sandbox", "scripts")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r"environ(?:\.get\(|\[)\"([A-Z][A-Z0-9_]+)\"", path.read_text())
    }
    in_sources = {
        name
        for path in (ROOT / "dlt_sources").rglob("*.py")
        for name in re.findall(r"SOURCES__[A-Z0-9_]+", path.read_text())
    }
    in_instance = set(re.findall(r"env: ([A-Z0-9_]+)", (ROOT / "dagster.yaml").read_text()))

    assert (in_compose | passed_on | in_code | in_sources | in_instance) - INTERNAL - documented == set()
    assert documented - in_compose - passed_on - in_code - {"COMPOSE_PROFILES"} == set(), "documented, read by nobody"
    assert in_sources - passed_on == set(), "a source reads it, no service in docker-compose.yml passes it on"


def test_the_example_has_no_secret_that_works() -> None:
    secrets = dict(re.findall(r"^(\w*(?:PASSWORD|TOKEN|KEY|SECRET)\w*)=(.+)$", EXAMPLE, re.MULTILINE))

    assert secrets
    assert all(value.startswith(("CHANGEME", "sandbox-")) for value in secrets.values()), secrets
    in_urls = re.findall(r"://[^:/\s]+:([^@\s]+)@", re.sub(r"^#.*", "", EXAMPLE, flags=re.MULTILINE))
    assert all(re.fullmatch(r"\$\{\w*PASSWORD\}", password) for password in in_urls), in_urls


def test_images_bake_in_neither_instance_nor_workspace() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()

    assert not re.search(r"COPY.*\.yaml", dockerfile)
    assert "ENTRYPOINT" not in dockerfile
    assert re.findall(r"^USER (.*)$", dockerfile, re.MULTILINE) == ["10001:10001"] * 3
