"""Sources that `dlt init` writes, in a copy of the project: added by its own command, wired by one module."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import duckdb
import pytest

ROOT = Path(__file__).resolve().parents[1]
VERIFIED = ROOT / "tests" / "verified_source"
KEY = "canary-4c1d"
MATERIALIZE = """
import json, sys
import dagster as dg
from code_locations.engineering.definitions import defs

job, keys = defs.resolve_implicit_global_asset_job_def(), defs.resolve_asset_graph().materializable_asset_keys
report = {}
for module in json.loads(sys.argv[1]):
    chosen = sorted(key for key in keys if key.path[0] == module)
    result = job.execute_in_process(asset_selection=chosen, raise_on_error=False)
    failures = [event.step_failure_data for event in result.get_step_failure_events()]
    report[module] = {
        "assets": [key.path[1] for key in chosen],
        "failed": [failure.user_failure_data.description for failure in failures],
    }
report["all"] = sorted({key.path[0] for key in keys})
json.dump(report, sys.stdout)
"""
# For each kind of source that once took its location down: its module, a call of it, and the sentence that is shown.
KINDS: Mapping[str, tuple[str, str, str]] = {
    "typed_credentials": (
        """
from dlt.sources.credentials import GcpServiceAccountCredentials

@dlt.source
def sheets(credentials: GcpServiceAccountCredentials = dlt.secrets.value):
    return dlt.resource([{"id": credentials.project_id}], name="orders")
""",
        "sheets()",
        "SOURCES__TYPED_CREDENTIALS__CREDENTIALS (or its parts SOURCES__TYPED_CREDENTIALS__CREDENTIALS__PROJECT_ID",
    ),
    "url_credentials": (
        """
@dlt.source
def queue(connection_url: str = dlt.secrets.value):
    port = int(connection_url.rsplit(":", 1)[1].split("/")[0])
    return dlt.resource([{"id": port}], name="orders")
""",
        "queue()",
        "SOURCES__URL_CREDENTIALS__CONNECTION_URL is missing",
    ),
    "call_at_import": (
        """
from dlt.sources.helpers import requests

@dlt.source
def crm(access_token: str = dlt.secrets.value):
    for table in requests.get(os.environ["VENDOR_URL"], headers={"X-Api-Key": access_token}).json():
        yield dlt.resource([{"id": 1}], name=table)
""",
        "crm()",
        "SOURCES__CALL_AT_IMPORT__ACCESS_TOKEN is missing",
    ),
    "vendor_that_refuses": (
        """
from dlt.sources.helpers import requests

requests.get(os.environ["VENDOR_URL"] + "/stations?offset=0&limit=1&token=canary-4c1d")

@dlt.source
def crm(): ...
""",
        "crm()",
        "HTTPError: 401 Client Error: Unauthorized for url: http://127.0.0.1:",
    ),
    "missing_package": (
        "import client_of_some_vendor\n",
        "client_of_some_vendor",
        "The module client_of_some_vendor is not installed: run `uv add --group verified <package>`",
    ),
    "core_sql_database": (
        """
from dlt.sources.sql_database import sql_database

def erp():
    return sql_database.clone(section="core_sql_database")(table_names=["orders"], defer_table_reflect=True)
""",
        "erp()",
        "SOURCES__CORE_SQL_DATABASE__CREDENTIALS (or its parts",
    ),
    "core_rest_api": (
        """
from dlt.sources.rest_api import rest_api_source

def shop():
    auth = {"type": "bearer", "token": dlt.secrets["sources.core_rest_api.token"]}
    return rest_api_source({"client": {"base_url": "http://127.0.0.1:9/", "auth": auth}, "resources": ["orders"]})
""",
        "shop()",
        "SOURCES__CORE_REST_API__TOKEN is missing",
    ),
}
# Not to be told from those above by its looks, but nothing is wrong with it: a run is a process, and reads it once.
GENERATOR = """
def rows():
    yield {"id": 1}

@dlt.source
def shop():
    return dlt.resource(rows(), name="orders")
"""
WIRING = """
import dagster as dg
from dagster_dlt import DagsterDltResource, dlt_assets
from dlt_sources.verified import {name}
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import warehouse_pipeline

@dlt_assets(
    dlt_source={name}.{call},
    dlt_pipeline=warehouse_pipeline("{name}", "raw_{name}"),
    name="{name}",
    dagster_dlt_translator=SourceTranslator(source="{name}"),
)
def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource):
    yield from dlt.run(context=context)

defs = dg.Definitions(assets=[assets])
"""


class Weather(BaseHTTPRequestHandler):
    """Three stations with five readings each, for whoever has the key."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        _, *names = parts.path.split("/")
        rows: list[dict[str, Any]] = (
            [{"id": n} for n in range(3)]
            if names == ["stations"]
            else [{"station_id": int(names[1]), "hour": hour, "celsius": 20.5} for hour in range(5)]
        )
        query = parse_qs(parts.query)
        offset, limit = int(query["offset"][0]), int(query["limit"][0])
        right = self.headers["X-Api-Key"] == KEY
        body = json.dumps(rows[offset : offset + limit]).encode() if right else b"{}"
        self.send_response(200 if right else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def weather() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Weather) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Git repository of sources, in the shape of dlt's."""
    repository = tmp_path_factory.mktemp("verified-sources")
    shutil.copytree(VERIFIED / "weather", repository / "sources/weather", ignore=shutil.ignore_patterns("__pycache__"))
    (repository / "sources/weather/requirements.txt").write_text("dlt>=1.0\n")
    shutil.copy(VERIFIED / "weather_pipeline.py", repository / "sources")
    who = ["-c", "user.name=weather", "-c", "user.email=weather@example.com"]
    for command in (["init", "--quiet"], ["add", "."], [*who, "commit", "--quiet", "--message", "Weather"]):
        subprocess.run(["git", *command], cwd=repository, check=True)
    return repository


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project's code."""
    for folder in ("runtime", "dlt_sources", "code_locations"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", ".dlt"))
    return tmp_path


@pytest.fixture
def initialized(project: Path, repository: Path) -> Path:
    """The project after `dlt init` and steps 1 to 3 of dlt_sources/verified/README.md, but for the secret."""
    dlt_init(project, repository, "weather")
    wire(project, "weather", (VERIFIED / "weather_wiring.py").read_text())
    return project


def dlt_init(project: Path, repository: Path, name: str) -> None:
    subprocess.run(
        [Path(sys.executable).with_name("dlt"), "--non-interactive", "init", name, "duckdb", "--location", repository],
        cwd=project / "dlt_sources" / "verified",
        env={**os.environ, "DLT_DATA_DIR": str(project / "dlt")},
        check=True,
    )


def wire(project: Path, name: str, text: str) -> None:
    location = project / "code_locations" / "engineering"
    (location / f"{name}.py").write_text(text)
    definitions = location / "definitions.py"
    changed = re.sub(r"import github\b", f"import github, {name}", definitions.read_text())
    definitions.write_text(re.sub(r"github\.defs", f"github.defs, {name}.defs", changed))


def materialize(project: Path, *modules: str, **settings: str) -> tuple[dict[str, Any], str]:
    """What came of a run of each module's assets, and all that the process has printed."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SOURCES__")},
        "GITHUB_REPOSITORIES": "sandbox/handbook",
        "WAREHOUSE": "duckdb",
        "DESTINATION__DUCKDB__CREDENTIALS": str(project / "warehouse.duckdb"),
        "DLT_DATA_DIR": str(project / "dlt"),
        **settings,
    }
    command = [sys.executable, "-c", MATERIALIZE, json.dumps(modules)]
    process = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=100)
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout), process.stdout + process.stderr


def test_it_loads_with_one_wiring_module(initialized: Path, weather: str) -> None:
    report, printed = materialize(initialized, "weather", WEATHER_URL=weather, SOURCES__WEATHER__API_KEY=KEY)

    assert report["weather"] == {"assets": ["readings", "stations"], "failed": []}
    with duckdb.connect(str(initialized / "warehouse.duckdb")) as connection:
        assert connection.sql("SELECT count(*) FROM raw_weather.stations").fetchall() == [(3,)]
        assert connection.sql("SELECT count(*), sum(celsius) FROM raw_weather.readings").fetchall() == [(15, 307.5)]
    assert KEY not in printed


@pytest.mark.parametrize("value", [None, "", "<configure me>"], ids=["missing", "empty", "placeholder"])
def test_without_its_secret_the_location_loads_and_the_run_names_it(
    initialized: Path, weather: str, value: str | None
) -> None:
    settings = {} if value is None else {"SOURCES__WEATHER__API_KEY": value}
    report, _ = materialize(initialized, "weather", WEATHER_URL=weather, **settings)

    sentence = (
        "SOURCES__WEATHER__API_KEY is missing, empty or a placeholder: set it and restart the location. "
        "(code_locations/engineering/weather.py:15)"
    )
    assert {"github", "weather"} <= set(report["all"])
    assert report["weather"] == {"assets": ["not_loaded"], "failed": [sentence]}
    assert not (initialized / "warehouse.duckdb").exists()


def test_sources_of_all_kinds_stop_only_themselves(project: Path, weather: str) -> None:
    wired = {**{name: (text, call) for name, (text, call, _) in KINDS.items()}, "generator": (GENERATOR, "shop()")}
    for name, (text, call) in wired.items():
        (project / "dlt_sources/verified" / name).mkdir()
        (project / "dlt_sources/verified" / name / "__init__.py").write_text(f"import os, dlt\n{text}")
        wire(project, name, WIRING.format(name=name, call=call))
    report, printed = materialize(project, *wired, VENDOR_URL=weather)

    assert {"github", *wired} <= set(report["all"])
    assert report["generator"] == {"assets": ["orders"], "failed": []}
    for name, (_, _, sentence) in KINDS.items():
        assert report[name]["assets"] == ["not_loaded"], name
        assert report[name]["failed"][0].startswith(sentence), name
    assert KEY not in printed


def test_a_folder_of_the_name_of_ours_is_unlike_ours(project: Path, repository: Path) -> None:
    """`dlt init github`, run in dlt_sources, would meet the project's own source."""
    shutil.copytree(repository, project / "repository")
    for old in ("weather", "weather_pipeline.py"):
        (project / "repository/sources" / old).rename(project / "repository/sources" / old.replace("weather", "github"))
    pipeline = project / "repository/sources/github_pipeline.py"
    pipeline.write_text(pipeline.read_text().replace("from weather", "from github"))
    who = ["-c", "user.name=github", "-c", "user.email=github@example.com"]
    for command in (["add", "."], [*who, "commit", "--quiet", "--message", "GitHub"]):
        subprocess.run(["git", *command], cwd=project / "repository", check=True)
    dlt_init(project, project / "repository", "github")

    code = (
        "from dlt_sources import github; from dlt_sources.verified.github import weather_source; github.github_totals"
    )
    subprocess.run([sys.executable, "-c", code], cwd=project, check=True)


def test_checks_pass_over_an_unchanged_folder(project: Path) -> None:
    """`make check` is for the project's own code. A source from `dlt init` is neither formatted nor typed like it."""
    for file in ("pyproject.toml", ".gitignore"):
        shutil.copy(ROOT / file, project)
    folder = project / "dlt_sources" / "verified" / "shop"
    folder.mkdir()
    (folder / "__init__.py").write_text("import dlt, os\nfrom .helpers import *\ndef f(x = []):\n  print( x )\n")
    (folder / "helpers.py").write_text("from typing import List\ndef g( a : List[str] ) :\n  return a+1\n")
    module = project / "dlt_sources" / "uses.py"
    module.write_text('"""Uses it."""\n\nfrom dlt_sources.verified.shop import f\n\nf()\n')
    bin_, run = Path(sys.executable).parent, {"cwd": project, "capture_output": True, "text": True}
    for command in (
        ["ruff", "check", "--no-cache"],
        ["ruff", "check", "--no-cache", str(folder / "helpers.py")],  # as pre-commit calls it
        ["ruff", "format", "--check", "--no-cache"],
        ["mypy", "--package", "dlt_sources.uses", "--package", "dlt_sources.verified"],
    ):
        done = subprocess.run([bin_ / command[0], *command[1:]], **run)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stdout + done.stderr


def test_git_ignores_the_secrets_of_dlt() -> None:
    for path in (".dlt/secrets.toml", "dlt_sources/verified/.dlt/secrets.toml"):
        subprocess.run(["git", "check-ignore", "--quiet", path], cwd=ROOT, check=True)
    assert "**/.dlt" in (ROOT / ".dockerignore").read_text().splitlines()
