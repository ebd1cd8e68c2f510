"""The parts of the deployment match: what was forgotten when a source or a location was added is named here."""

import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts import location_code

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
READ: dict[str, Any] = yaml.safe_load((ROOT / "compose.read.yml").read_text())
# Compose's own tags set a list anew; here their values are read as they stand.
LOGIN_TEXT = re.sub(r"!(reset|override) ", "", (ROOT / "compose.login.yml").read_text())
LOGIN: dict[str, Any] = yaml.safe_load(LOGIN_TEXT)
MONITORING_TEXT = (ROOT / "compose.monitoring.yml").read_text().replace("!reset ", "")
MONITORING: dict[str, Any] = yaml.safe_load(MONITORING_TEXT)
RUNS: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.docker-runs.yml").read_text())
SSO: dict[str, Any] = yaml.safe_load((ROOT / "compose.sso.yml").read_text())
WORKSPACE: dict[str, Any] = yaml.safe_load((ROOT / "workspace.yaml").read_text())
EXAMPLE = (ROOT / ".env.example").read_text()
CODE = ROOT / "code_locations"
DEFINITIONS = sorted(CODE.glob("*/definitions.py"))
PROJECTS = {path.parent.name for path in CODE.glob("*/pyproject.toml")}  # of create-dagster: docs/components.md

# Set by compose, an image or scripts/local.py, never by a user.
INTERNAL = {
    "DAGSTER_POSTGRES_HOST",
    "DAGSTER_POSTGRES_DB",
    "DAGSTER_POSTGRES_USER",
    "DAGSTER_CURRENT_IMAGE",
    "DAGSTER_HOME",
    "DLT_DATA_DIR",
    "DRAIN_SECONDS",
    "FROM",
    "USER_HEADER",
    "WEBSERVER_INTERNAL_URL",
    "YES",
}
INSTANCE_FILE = "./dagster.yaml:/dagster/dagster.yaml:ro"
RUNS_INSTANCE = "deploy/docker-runs/dagster.yaml"
IN_CODE = r"environ(?:\.get\(|\[)\"([A-Z][A-Z0-9_]+)\""


def packages(folder: str) -> set[str]:
    """The packages in a folder. `dlt_sources/verified` is no source: `dlt init` puts sources into it."""
    return {path.parent.name for path in (ROOT / folder).glob("*/__init__.py")} - {"verified"}


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


def location_services() -> dict[str, dict[str, Any]]:
    return {n: s for n, s in COMPOSE["services"].items() if s.get("build", {}).get("target") == "code-location"}


def sources_of(location: str) -> set[str]:
    """The sources that a location imports."""
    return {part.name for part in location_code.parts(location) if part.parts[0] == "dlt_sources"} & packages(
        "dlt_sources"
    )


def found_in(pattern: str, *paths: Path) -> set[str]:
    """What a pattern finds in the Python files at or below some paths."""
    files = [file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path])]
    return {name for file in files for name in re.findall(pattern, file.read_text())}


def read_by(location: str) -> dict[str, str]:
    """The variables that the code of a location reads, or that the docstrings of its sources name → the folder."""
    own, parts = CODE / location, location_code.parts(location)
    named = dict.fromkeys(found_in(IN_CODE, ROOT / "runtime") - INTERNAL, "runtime")
    named |= {name: str(own.relative_to(ROOT)) for name in found_in(IN_CODE, own)}
    for source in parts:
        if source.parts[0] == "dlt_sources":
            named |= {name: str(source) for name in found_in(r"SOURCES__[A-Z0-9_]+[A-Z0-9]", ROOT / source)}
    return named


def environment(service: dict[str, Any]) -> dict[str, str | None]:
    return dict(service.get("environment", {}))


def listed(path: Path) -> list[str]:
    """The names in an env.list."""
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def variables_of(service: dict[str, Any]) -> set[str]:
    """The names of all variables that compose hands to a service. Those that .env does not set stay unset."""
    lists = (listed(ROOT / path) for path in service.get("env_file", []))
    return set(environment(service)).union(*lists)


def test_every_location_is_a_folder_a_service_and_a_workspace_entry() -> None:
    named = {
        "code_locations/{}/__init__.py": packages("code_locations") | PROJECTS,
        "code_locations/{}/definitions.py": {path.parent.name for path in DEFINITIONS} | PROJECTS,
        "a service `{}` in docker-compose.yml: copy `engineering`": set(location_services()),
        "a volume `{}-dlt` at the end of docker-compose.yml": {
            name.removesuffix("-dlt") for name in COMPOSE["volumes"] if name.endswith("-dlt")
        },
        "a line in workspace.yaml": {entry["grpc_server"]["location_name"] for entry in WORKSPACE["load_from"]},
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


def test_every_source_has_a_folder_a_wiring_module_and_a_test() -> None:
    named = {
        "dlt_sources/{}/__init__.py": packages("dlt_sources"),
        "code_locations/<location>/{}.py that imports it": set().union(*map(sources_of, packages("code_locations"))),
        "tests/dlt_sources/test_{}.py": {
            next((name for name in packages("dlt_sources") if path.stem.startswith(f"test_{name}")), path.stem)
            for path in (ROOT / "tests" / "dlt_sources").glob("test_*.py")
        }
        - {"test_http", "test_personal_data"},
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
        "the build argument LOCATION": (service["build"]["args"], {"LOCATION": name}),
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


ALL_SERVICES = RUNS["services"] | READ["services"] | LOGIN["services"] | MONITORING["services"] | COMPOSE["services"]
OF_OVERRIDES = ["warehouse-reader", "caddy", "login", "prometheus", "grafana", "docker-proxy"]


@pytest.mark.parametrize("name", [*sorted(COMPOSE["services"]), *OF_OVERRIDES])
def test_a_service_is_hardened(name: str) -> None:
    service = ALL_SERVICES[name]

    assert service["read_only"]
    assert service["init"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["logging"]["options"]["max-size"]
    assert service["restart"] == ("no" if name == "migrate" else "unless-stopped")
    assert name == "migrate" or service["healthcheck"]
    assert "container_name" not in service


def test_compose_does_not_look_for_our_images_in_a_registry() -> None:
    """It would, and print an error for each, if a service had `image` beside `build`."""
    assert [name for name, service in COMPOSE["services"].items() if {"build", "image"} <= set(service)] == []


def test_only_the_ui_is_published_and_only_on_loopback() -> None:
    """And metrics, in a profile that is off."""
    ports = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}

    assert ports == {
        "webserver": ["127.0.0.1:${WEBSERVER_PORT:-3000}:3000"],
        "metrics": ["127.0.0.1:${METRICS_PORT:-9101}:9101"],
    }
    assert COMPOSE["services"]["metrics"]["profiles"] == ["metrics"]
    assert "metrics" not in re.findall(r"^COMPOSE_PROFILES=(.*)$", EXAMPLE, re.MULTILINE)[0].split(",")


def test_monitoring_is_published_only_on_loopback_and_reaches_metrics_alone() -> None:
    """Grafana asks for no password. It and Prometheus share a network with `metrics` and with nothing else."""
    ports = [port for service in MONITORING["services"].values() for port in service.get("ports", [])]

    assert sorted(ports) == ["127.0.0.1:${GRAFANA_PORT:-3001}:3000", "127.0.0.1:${PROMETHEUS_PORT:-9090}:9090"]
    assert all(MONITORING["services"][name]["networks"] == ["metrics"] for name in ("prometheus", "grafana"))
    assert [name for name, service in COMPOSE["services"].items() if "metrics" in service["networks"]] == ["metrics"]


def test_the_override_for_readers_publishes_only_the_warehouse_and_only_on_loopback() -> None:
    ports = {name: service["ports"] for name, service in READ["services"].items() if "ports" in service}

    assert ports == {"warehouse": ["127.0.0.1:${WAREHOUSE_PORT:-5432}:5432"]}


def test_with_a_login_only_caddy_is_published_and_the_webservers_trust_its_header() -> None:
    """The header names the user. A webserver that trusts it must not be reachable but through Caddy."""
    ports = {name for name, service in LOGIN["services"].items() if service.get("ports")}
    trusting = {name for name, service in LOGIN["services"].items() if "USER_HEADER" in environment(service)}

    assert ports == {"caddy"}
    assert trusting == {"webserver", "webserver-viewers"}
    assert all(LOGIN["services"][name]["networks"] == ["instance", "login"] for name in trusting)
    assert "--read-only" in LOGIN["services"]["webserver-viewers"]["command"]
    assert not any("ports" in service for service in SSO["services"].values())
    assert "USER_HEADER" not in (ROOT / "docker-compose.yml").read_text() + (ROOT / "compose.sso.yml").read_text()


def test_with_a_container_per_run_all_of_dagster_knows_and_only_its_own_services_reach_docker() -> None:
    ours, theirs = (yaml.safe_load((ROOT / name).read_text()) for name in (RUNS_INSTANCE, "dagster.yaml"))
    mounted = [f"./{RUNS_INSTANCE}:/dagster/dagster.yaml:ro"]
    services = {name for name, service in COMPOSE["services"].items() if INSTANCE_FILE in service.get("volumes", ())}
    reaching = {name for name, service in RUNS["services"].items() if "docker" in service.get("networks", ())}

    assert ours.pop("run_launcher") != theirs.pop("run_launcher")
    assert ours == theirs, f"{RUNS_INSTANCE} may differ from dagster.yaml in `run_launcher` alone"
    demand_none(
        [
            f"docker-compose.docker-runs.yml lacks `{name}: *code-location`"
            for name in sorted(services - {"metrics"})
            if RUNS["services"].get(name, {}).get("volumes") != mounted
        ]
    )
    assert reaching == {"docker-proxy", "webserver", "daemon"}
    assert [name for name, service in RUNS["services"].items() if "ports" in service] == []


def test_the_code_does_not_know_where_its_runs_are() -> None:
    """The same folders run as processes, in containers and in pods (docs/scaling.md)."""
    for folder in ("code_locations", "dlt_sources"):
        for path in (ROOT / folder).rglob("*.py"):
            imported = re.findall(r"^(?:from|import) ([\w.]+)", path.read_text(), re.MULTILINE)
            assert not [name for name in imported if re.match(r"docker|dagster_docker|kubernetes|dagster_k8s", name)], (
                path
            )


def test_dagsters_postgres_has_a_connection_for_every_process_that_needs_one() -> None:
    """Measured: up to 3 for the daemon, one for a run and for the server of a location, more for a webserver in use.

    A run has one more for its lock, and a load one for its own.
    """
    per_run, services = 5, 60
    command = COMPOSE["services"]["postgres"]["command"]
    [connections] = [int(part.partition("=")[2]) for part in command if part.startswith("max_connections=")]
    runs = yaml.safe_load((ROOT / "dagster.yaml").read_text())["concurrency"]["runs"]["max_concurrent_runs"]
    needed = services + per_run * runs

    assert connections >= needed, (
        f"docker-compose.yml: set max_connections of postgres to {needed} for max_concurrent_runs: {runs}"
    )


def test_secrets_reach_only_the_locations() -> None:
    for name, service in COMPOSE["services"].items():
        sources = [key for key in variables_of(service) if key.startswith(("SOURCES__", "DESTINATION__"))]
        assert not sources or name in location_services(), f"{name} has {sources}"


@pytest.mark.parametrize("name", sorted(location_services()))
def test_a_location_gets_its_own_variables_and_those_of_every_location(name: str) -> None:
    assert location_services()[name]["env_file"] == ["code_locations/env.list", f"code_locations/{name}/env.list"]
    assert not any(key.startswith("SOURCES__") for key in environment(location_services()[name]))
    assert not any(key.startswith("SOURCES__") for key in listed(CODE / "env.list"))


@pytest.mark.parametrize("path", sorted(CODE.rglob("env.list")), ids=lambda path: path.parent.name)
def test_a_list_of_variables_has_names_and_no_values(path: Path) -> None:
    """A value would override the one in .env, and would be in git. Compose misreads a last line without its end."""
    wrong = [line for line in listed(path) if not re.fullmatch(r"[A-Z][A-Z0-9_]*", line)]
    demand_none([f"{path.relative_to(ROOT)}: {line!r} has to be the name of a variable alone" for line in wrong])
    assert path.read_text().endswith("\n")
    assert len(listed(path)) == len(set(listed(path)))


@pytest.mark.parametrize("name", sorted(location_services()))
def test_a_location_gets_every_variable_that_its_code_reads(name: str) -> None:
    gets = variables_of(location_services()[name])
    demand_none(
        [
            f"{folder} reads {variable}, which the location does not get: add a line `{variable}` to {path}"
            for variable, folder in sorted(read_by(name).items())
            for path in ["code_locations/env.list" if folder == "runtime" else f"code_locations/{name}/env.list"]
            if variable not in gets
        ]
    )


def test_the_example_has_every_variable_of_the_deployment_and_none_that_nobody_reads() -> None:
    """Variables of a location may be in the example, but env.list is enough."""
    others = ("login", "monitoring", "read", "sso")
    overrides = [*(f"compose.{name}.yml" for name in others), "docker-compose.docker-runs.yml"]
    documented = set(re.findall(r"^#?([A-Z][A-Z0-9_]+)=", EXAMPLE, re.MULTILINE))
    compose = "".join((ROOT / name).read_text() for name in ["docker-compose.yml", *overrides])
    in_compose = set(re.findall(r"\$\{([A-Z][A-Z0-9_]+)", compose))
    passed_on = {key for s in COMPOSE["services"].values() for key, value in environment(s).items() if value is None}
    in_code = found_in(IN_CODE, ROOT / "runtime", ROOT / "sandbox", ROOT / "scripts")
    in_instance = set(re.findall(r"env: ([A-Z0-9_]+)", (ROOT / "dagster.yaml").read_text()))
    read = in_compose | passed_on | in_code | in_instance
    in_locations = set().union(*map(variables_of, location_services().values()))
    by_compose = {"COMPOSE_FILE", "COMPOSE_PROFILES", "COMPOSE_PROJECT_NAME"}

    demand_none([f".env.example lacks a line `{name}=`" for name in sorted(read - INTERNAL - documented)])
    demand_none(
        [
            f"{name} is in .env.example, but nothing reads it: remove it there, or add it to the env.list of a location"
            for name in sorted(documented - read - in_locations - by_compose)
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
    assert re.findall(r"^USER (.*)$", dockerfile, re.MULTILINE) == ["10001:10001"] * 4
    assert "ENV DAGSTER_MODULE_NAME=code_locations.${LOCATION}.definitions" in dockerfile


def test_a_wrong_import_breaks_its_contract_with_no_line_per_source_or_location(tmp_path: Path) -> None:
    """One wrong import for each contract of .importlinter, some of them in a source and a location that are new."""
    contracts = ConfigParser()
    contracts.read(ROOT / ".importlinter")
    names = {section["name"] for title, section in contracts.items() if title.startswith("importlinter:contract:")}
    for folder in ("benchmarks", "code_locations", "dlt_sources", "runtime", "sandbox"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "results"))
    shutil.copy(ROOT / ".importlinter", tmp_path)
    wrong = {
        "Sources do not import Dagster, the runtime or a location": ("dlt_sources/wrong_source", "import dagster"),
        "No source imports another source": ("dlt_sources/wrong_source", "from dlt_sources import github"),
        "No location imports another location": (
            "code_locations/wrong_location",
            "from code_locations import engineering",
        ),
        "The runtime does not import a source or a location": (
            "runtime/load/wrong",
            "import code_locations.engineering",
        ),
        "What makes a load right does not import what makes it fast": (
            "runtime/load/wrong",
            "from runtime import accelerate",
        ),
        "What the host image contains imports neither dlt nor the rest of the runtime": (
            "runtime/instance/wrong",
            "import dlt",
        ),
        "The sandbox, the runtime and the sources do not import each other": ("runtime/load/wrong", "import sandbox"),
        "No location imports the sandbox": ("code_locations/wrong_location", "import sandbox.app"),
    }
    assert set(wrong) == names

    def broken() -> set[str]:
        command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
        output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60).stdout
        return set(re.findall(r"^(.+) BROKEN", output, re.MULTILINE))

    assert broken() == set()
    for name, (package, statement) in wrong.items():
        module = tmp_path / package / "__init__.py"
        module.parent.mkdir()
        module.write_text(f"{statement}\n")
        assert broken() == {name}
        shutil.rmtree(module.parent)


def test_the_image_of_a_location_has_the_code_that_it_imports_and_no_other(tmp_path: Path) -> None:
    files = {
        "code_locations/__init__.py": "",
        "code_locations/support/__init__.py": "",
        "code_locations/support/zendesk.py": "from dlt_sources import zendesk\nfrom dlt_sources.verified import jira",
        "code_locations/support/late.py": "MODULE = 'dlt_sources.slack'",
        "code_locations/sales/__init__.py": "from dlt_sources.verified.pipedrive.helpers import pages",
        "dlt_sources/__init__.py": "",
        "dlt_sources/http.py": "",
        "dlt_sources/limits.py": "",
        "dlt_sources/unused.py": "",
        "dlt_sources/zendesk/__init__.py": "from .. import http",
        "dlt_sources/slack/__init__.py": "from dlt_sources.limits import wait",
        "dlt_sources/asana/__init__.py": "",
        "dlt_sources/verified/__init__.py": "",
        "dlt_sources/verified/jira/__init__.py": "",
        "dlt_sources/verified/pipedrive/helpers/__init__.py": "from ...limits import wait",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    packages = {"code_locations/__init__.py", "dlt_sources/__init__.py", "dlt_sources/verified/__init__.py"}
    support = {"code_locations/support", "dlt_sources/zendesk", "dlt_sources/verified/jira", "dlt_sources/slack"}
    shared = {"dlt_sources/http.py", "dlt_sources/limits.py"}
    assert {*map(str, location_code.parts("support", tmp_path))} == packages | support | shared
    sales = {"code_locations/sales", "dlt_sources/verified/pipedrive"}
    assert {*map(str, location_code.parts("sales", tmp_path))} == packages | sales
