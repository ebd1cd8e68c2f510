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
CODE = ROOT / "code_locations"
DEFINITIONS = sorted(CODE.glob("*/definitions.py"))

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
    """What is named in one place and forgotten in another, as sentences; `{}` in a place is the name."""
    every = sorted(set().union(*named.values()))
    return [
        f"{name} lacks {place.format(name)}" for name in every for place, names in named.items() if name not in names
    ]


def demand_none(problems: list[str]) -> None:
    """Fails with a line for each problem, and nothing else: an assertion would show the first and cut it."""
    if problems:
        pytest.fail("\n".join(["Change this:", *problems]), pytrace=False)


def contract(name: str) -> set[str]:
    [found] = [contract for contract in CONTRACTS if contract["name"] == name]
    return {module.partition(".")[2] for module in found["modules"]}


def location_services() -> dict[str, dict[str, Any]]:
    return {n: s for n, s in COMPOSE["services"].items() if s.get("build", {}).get("target") == "code-location"}


def sources_of(location: str) -> set[str]:
    """The sources that a location's modules import."""
    files = (CODE / location).glob("*.py")
    imported = {name for path in files for name in re.findall(r"dlt_sources(?:\.| import )(\w+)", path.read_text())}
    return imported & packages("dlt_sources")


def variables(source: str) -> set[str]:
    """The `SOURCES__*` that a source names in its docstrings and code."""
    files = (ROOT / "dlt_sources" / source).rglob("*.py")
    return {name for path in files for name in re.findall(r"SOURCES__[A-Z0-9_]+", path.read_text())}


def environment(service: dict[str, Any]) -> dict[str, str | None]:
    return dict(service.get("environment", {}))


def test_every_location_is_a_folder_a_service_a_workspace_entry_and_a_contract() -> None:
    named = {
        "code_locations/{}/__init__.py": packages("code_locations"),
        "code_locations/{}/definitions.py": {path.parent.name for path in DEFINITIONS},
        "a service `{}` in docker-compose.yml: copy `engineering`": set(location_services()),
        "a volume `{}-dlt` at the end of docker-compose.yml": {
            name.removesuffix("-dlt") for name in COMPOSE["volumes"] if name.endswith("-dlt")
        },
        "a line in workspace.yaml": {entry["grpc_server"]["location_name"] for entry in WORKSPACE["load_from"]},
        '"code_locations.{}" in the contract "No location imports another location" in pyproject.toml': contract(
            "No location imports another location"
        ),
    }
    demand_none(missing(named))


def test_a_location_exports_every_module_that_it_has() -> None:
    demand_none(
        [
            f"{definitions.relative_to(ROOT)} lacks `{module.stem}`: import it, and merge `{module.stem}.defs`"
            for definitions in DEFINITIONS
            for module in sorted(definitions.parent.glob("*.py"))
            if re.search(r"^defs\b", module.read_text(), re.MULTILINE)
            and module != definitions
            and not re.search(rf"\b{module.stem}\.defs\b", definitions.read_text())
        ]
    )


def test_every_source_is_a_folder_and_a_contract() -> None:
    named = {
        "dlt_sources/{}/__init__.py": packages("dlt_sources"),
        "code_locations/<location>/{}.py that imports it": set().union(*map(sources_of, packages("code_locations"))),
        '"dlt_sources.{}" in the contract "No source imports another source" in pyproject.toml': contract(
            "No source imports another source"
        ),
        "tests/dlt_sources/test_{}.py": {
            next((name for name in packages("dlt_sources") if path.stem.startswith(f"test_{name}")), path.stem)
            for path in (ROOT / "tests" / "dlt_sources").glob("test_*.py")
        }
        - {"test_http"},
    }
    demand_none(missing(named))


@pytest.mark.parametrize("name", sorted(location_services()))
def test_a_location_is_named_alike_everywhere(name: str) -> None:
    service = location_services()[name]
    entries = [e["grpc_server"] for e in WORKSPACE["load_from"] if e["grpc_server"]["location_name"] == name]
    volumes = [volume for volume in service["volumes"] if ":/var/dlt" in volume]
    # Port 4000 runs code for whoever reaches it: it listens on the instance network's address alone.
    # Two locations that share /var/dlt would wipe each other's working files, and could read them.
    found_and_right = {
        "workspace.yaml's grpc_server": (entries, [{"location_name": name, "host": name, "port": 4000}]),
        "DAGSTER_MODULE_NAME": (environment(service).get("DAGSTER_MODULE_NAME"), f"code_locations.{name}.definitions"),
        "DAGSTER_GRPC_HOST": (environment(service).get("DAGSTER_GRPC_HOST"), f"{name}.instance"),
        "the alias in the network `instance`": (service["networks"]["instance"]["aliases"], [f"{name}.instance"]),
        "the volume at /var/dlt": (volumes, [f"{name}-dlt:/var/dlt"]),
    }
    demand_none(
        [
            f"{name}: {what} is {found!r} and has to be {right!r}"
            for what, (found, right) in found_and_right.items()
            if found != right
        ]
    )


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
    in_sources = {name for source in packages("dlt_sources") for name in variables(source)}
    in_instance = set(re.findall(r"env: ([A-Z0-9_]+)", (ROOT / "dagster.yaml").read_text()))

    read = in_compose | passed_on | in_code | in_sources | in_instance
    demand_none([f".env.example lacks a line `{name}=`" for name in sorted(read - INTERNAL - documented)])
    demand_none(
        [
            f"{name} is in .env.example, but nobody reads it: remove it there, or name it in its source's docstring"
            for name in sorted(documented - read - {"COMPOSE_PROFILES"})
        ]
    )


def test_a_location_gets_every_variable_that_its_sources_read() -> None:
    demand_none(
        [
            f"{name}, which dlt_sources/{source} reads, is not passed on: "
            f"put `{name}:` into the `environment` of `{location}` in docker-compose.yml"
            for location, service in location_services().items()
            for source in sorted(sources_of(location))
            for name in sorted(variables(source) - set(environment(service)))
        ]
    )


def test_the_example_has_no_secret_that_works() -> None:
    secrets = dict(re.findall(r"^(\w*(?:PASSWORD|TOKEN|KEY|SECRET)\w*)=(.+)$", EXAMPLE, re.MULTILINE))

    assert secrets
    wrong = [name for name, value in secrets.items() if not value.startswith(("CHANGEME", "sandbox-"))]
    demand_none([f".env.example: {name} has to begin with CHANGEME or sandbox-, or be commented out" for name in wrong])
    in_urls = re.findall(r"://[^:/\s]+:([^@\s]+)@", re.sub(r"^#.*", "", EXAMPLE, flags=re.MULTILINE))
    assert all(re.fullmatch(r"\$\{\w*PASSWORD\}", password) for password in in_urls), in_urls


def test_images_bake_in_neither_instance_nor_workspace() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()

    assert not re.search(r"COPY.*\.yaml", dockerfile)
    assert "ENTRYPOINT" not in dockerfile
    assert re.findall(r"^USER (.*)$", dockerfile, re.MULTILINE) == ["10001:10001"] * 3
