"""A source as `dlt init` brings it, dropped into a copy of the project with one wiring file."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import duckdb
import pytest

ROOT = Path(__file__).resolve().parents[1]
VERIFIED = ROOT / "tests" / "verified_source"
KEY = "canary-4c1d"
MATERIALIZE = """
import sys
import dagster as dg
from code_locations.engineering.definitions import defs
keys = sorted(key.to_user_string() for key in defs.resolve_asset_graph().materializable_asset_keys)
print(*keys, sep="\\n")
sys.exit(0 if defs.resolve_implicit_global_asset_job_def().execute_in_process(
    asset_selection=[dg.AssetKey(["weather", "stations"]), dg.AssetKey(["weather", "readings"])], raise_on_error=False
).success else 1)
"""


class Weather(BaseHTTPRequestHandler):
    """Three stations with five readings each, for whoever has the key."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        _, *names = parts.path.split("/")
        rows = (
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


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, with the source and its wiring file dropped in."""
    for folder in ("runtime", "dlt_sources", "code_locations"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(VERIFIED / "weather", tmp_path / "dlt_sources" / "weather")
    location = tmp_path / "code_locations" / "engineering"
    shutil.copy(VERIFIED / "wiring.py", location / "weather.py")
    definitions = location / "definitions.py"
    text = definitions.read_text()
    text = re.sub(r"import github\b", "import github, weather", text)
    definitions.write_text(re.sub(r"github\.defs", "github.defs, weather.defs", text))
    return tmp_path


def materialize(project: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """The location `engineering` in a process of its own, as a run is."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SOURCES__")},
        "GITHUB_REPOSITORIES": "sandbox/handbook",
        "WAREHOUSE": "duckdb",
        "DESTINATION__DUCKDB__CREDENTIALS": str(project / "warehouse.duckdb"),
        "DLT_DATA_DIR": str(project / "dlt"),
        **settings,
    }
    command = [sys.executable, "-c", MATERIALIZE]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=100)


def test_it_loads_with_one_wiring_file(project: Path, weather: str) -> None:
    run = materialize(project, WEATHER_URL=weather, SOURCES__WEATHER__API_KEY=KEY)

    assert run.returncode == 0, run.stderr[-3000:]
    with duckdb.connect(str(project / "warehouse.duckdb")) as connection:
        assert connection.sql("SELECT count(*) FROM raw_weather.stations").fetchall() == [(3,)]
        assert connection.sql("SELECT count(*), sum(celsius) FROM raw_weather.readings").fetchall() == [(15, 307.5)]
    assert KEY not in run.stdout + run.stderr


@pytest.mark.parametrize("settings", [{}, {"SOURCES__WEATHER__API_KEY": ""}], ids=["missing", "empty"])
def test_without_its_secret_the_location_loads_and_the_run_names_it(
    project: Path, weather: str, settings: dict[str, str]
) -> None:
    run = materialize(project, WEATHER_URL=weather, **settings)

    assert {"github/issues", "weather/readings", "weather/stations"} <= set(run.stdout.split())
    assert run.returncode == 1
    assert "SOURCES__WEATHER__API_KEY is missing or empty: set it to load weather_source." in run.stderr
    assert not (project / "warehouse.duckdb").exists()
