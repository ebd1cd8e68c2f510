"""The engineering location on the sandbox: what it loads, and its messages when a setting is wrong."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from tests.support.location import Location
from tests.support.paths import RECORDED
from tests.support.sandbox import Sandbox, StartSandbox

HANDBOOK = ("sandbox/handbook",)


@pytest.fixture
def location(tmp_path: Path, sandbox: Sandbox) -> Location:
    return Location(
        "engineering",
        "github",
        tmp_path,
        GITHUB_REPOSITORIES="sandbox/handbook,sandbox/empty",
        SOURCES__GITHUB__ACCESS_TOKEN=sandbox.github.token,
        SOURCES__GITHUB__API_BASE_URL=sandbox.github.url,
    )


def count(location: Location, table: str) -> int:
    [(rows,)] = location.sql(f"SELECT count(*) FROM {table}")
    return int(rows)


def test_a_repository_loads_and_all_checks_pass(location: Location) -> None:
    report = location.load(partition=HANDBOOK)

    assert report["success"], report["failures"]
    assert report["checks"] == {
        f"{asset}.{check}": True
        for asset, checks in {
            "issues": ("primary_key_is_unique", "rows_match_github"),
            "pull_requests": ("primary_key_is_unique", "rows_match_github"),
            "stargazers": ("primary_key_is_unique", "rows_match_github"),
            "repo_events": ("primary_key_is_unique",),
        }.items()
        for check in checks
    }
    assert (count(location, "issues"), count(location, "pull_requests")) == (130, 60)
    # Another repository's result would hide that rows of this one are missing.
    assert report["checked_partitions"]["issues.rows_match_github"] == "sandbox/handbook"


def test_an_empty_repository_loads(location: Location) -> None:
    report = location.load(partition=("sandbox/empty",))

    assert report["success"], report["failures"]
    assert all(report["checks"].values())


@pytest.mark.parametrize(
    ("damage", "failed"),
    [
        ("DELETE FROM issues WHERE number = (SELECT min(number) FROM issues)", "issues.rows_match_github"),
        ("DELETE FROM issues__comments WHERE _dlt_list_idx = 0", "issues.rows_match_github"),
        ("INSERT INTO issues SELECT * FROM issues LIMIT 1", "issues.primary_key_is_unique"),
        ("INSERT INTO stargazers SELECT * FROM stargazers LIMIT 1", "stargazers.primary_key_is_unique"),
    ],
)
def test_checks_find_missing_and_duplicate_rows(location: Location, damage: str, failed: str) -> None:
    location.load(partition=HANDBOOK)
    location.sql(damage)
    checks = location.load(partition=HANDBOOK)["checks"]

    assert not checks.pop(failed)
    assert all(checks.values())


@pytest.mark.parametrize(
    ("partition", "settings", "sentence"),
    [
        (
            "sandbox/handbook",
            {"SOURCES__GITHUB__ACCESS_TOKEN": ""},
            "SOURCES__GITHUB__ACCESS_TOKEN is missing, empty or a placeholder: set it to read from GitHub.",
        ),
        ("sandbox/handbook", {"SOURCES__GITHUB__ACCESS_TOKEN": "wrong"}, "check SOURCES__GITHUB__ACCESS_TOKEN"),
        (
            "sandbox/nowhere",
            {"GITHUB_REPOSITORIES": "sandbox/nowhere"},
            "or hides it: check",
        ),
        (
            "sandbox/handbook",
            {
                "WAREHOUSE": "postgres",
                "DESTINATION__POSTGRES__CREDENTIALS": "postgresql://loader:canary-7f3a@127.0.0.1:1/warehouse",
            },
            "Connection refused",
        ),
    ],
)
def test_a_failed_run_says_what_to_change(
    location: Location, partition: str, settings: dict[str, str], sentence: str
) -> None:
    location.environment |= settings
    report = location.load(partition=(partition,))

    assert not report["success"]
    for failure in report["failures"]:
        assert sentence in failure.partition("Stack Trace")[0]
        assert "canary" not in failure


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"GITHUB_REPOSITORIES": ""}, "The list is empty."),
        ({"GITHUB_REPOSITORIES": "dlt"}, "must be a comma-separated list of owner/name"),
        ({"GITHUB_REPOSITORIES": "a/b,c d/e"}, "Not valid: c d/e."),
        ({"GITHUB_REPOSITORIES": "a/b, A/B"}, "Listed twice: a/b."),
        ({"WAREHOUSE": "oracel"}, "WAREHOUSE=oracel is not a destination that dlt knows. Set it to duckdb, postgres"),
    ],
)
def test_an_import_with_a_wrong_setting_says_what_to_change(
    location: Location, settings: dict[str, str], sentence: str
) -> None:
    location.environment |= settings
    [report] = location.run({"assets": [["github", "not_loaded"]], "tags": {}, "config": {}})

    assert not report["success"]
    assert sentence in report["failures"][0].partition("Stack Trace")[0]


def test_importing_needs_no_secret_no_network_and_no_warehouse(location: Location) -> None:
    location.environment |= {
        "SOURCES__GITHUB__ACCESS_TOKEN": "",
        "SOURCES__GITHUB__API_BASE_URL": "http://127.0.0.1:1",
        "WAREHOUSE": "postgres",
    }
    process = location.definitions("-W", "error")

    # dagster's own use of pydantic warns at import
    assert process.returncode == 0 or "DeprecatedSince20" in process.stderr, process.stderr


def test_the_catalogue_is_complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GITHUB_REPOSITORIES", "a/b,c/d")
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path))
    from code_locations.engineering.definitions import defs

    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
    assert set(specs) == {f"github/{name}" for name in ("issues", "pull_requests", "stargazers", "repo_events")}
    for spec in specs.values():
        assert spec.description
        assert spec.group_name == "github"
        assert spec.owners == ["team:engineering"]
        assert {"dlt", "github", "duckdb"} <= spec.kinds
        assert list(spec.deps) == []
    schedule = defs.resolve_schedule_def("github_every_six_hours")
    with dg.instance_for_test() as instance:
        tick = datetime(2026, 1, 1, tzinfo=UTC)
        context = dg.build_schedule_context(instance, tick, repository_def=defs.get_repository_def())
        requests = schedule.evaluate_tick(context).run_requests
    assert requests is not None
    assert [request.partition_key for request in requests] == ["a/b", "c/d"]


@pytest.mark.skipif(not RECORDED.exists(), reason="CONTRACTS_DIR has no neighbour recorded/")
def test_a_real_repository_loads_completely(location: Location, start_sandbox: StartSandbox) -> None:
    sandbox = start_sandbox(SANDBOX_GITHUB_ARCHIVES=str(RECORDED))
    location.environment |= {
        "GITHUB_REPOSITORIES": "tlswg/tls13-spec",
        "SOURCES__GITHUB__API_BASE_URL": sandbox.github.url,
    }
    report = location.load(partition=("tlswg/tls13-spec",))

    assert report["success"], report["failures"]
    assert all(report["checks"].values())
    assert (count(location, "issues"), count(location, "pull_requests")) == (446, 998)
    assert count(location, "issues__comments") + count(location, "pull_requests__comments") == 2_363
