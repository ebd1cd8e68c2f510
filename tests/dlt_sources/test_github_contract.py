"""The source against GitHub's published schema and URLs, and against a recorded repository."""

from typing import Any

import pytest
from graphql import build_schema, parse, validate

from dlt_sources.github import github_reactions, github_repo_events, github_totals, helpers
from tests.support.paths import CONTRACTS, RECORDED
from tests.support.sandbox import GithubApi, running_sandbox
from tests.support.source_warehouse import SourceWarehouse

SCHEMA = CONTRACTS / "github" / "schema.graphql"


@pytest.mark.skipif(not SCHEMA.exists(), reason="CONTRACTS_DIR has no github/schema.graphql")
def test_queries_are_valid_against_the_published_schema() -> None:
    schema = build_schema(SCHEMA.read_text(encoding="utf-8"), assume_valid_sdl=True)
    batch, _ = helpers._batch_query([{"id": "a"}, {"id": "b"}], 100)
    queries = [helpers.ISSUES, helpers.PULL_REQUESTS, helpers.STARGAZERS, batch]
    for query in [*queries, *helpers.NESTED.values(), *helpers.NEWEST.values()]:
        assert validate(schema, parse(query)) == []


@pytest.mark.parametrize(
    ("base", "graphql"),
    [
        ("https://api.github.com", "https://api.github.com/graphql"),
        ("https://github.example.com/api/v3", "https://github.example.com/api/graphql"),
        ("https://proxy.example.com/github", "https://proxy.example.com/github/graphql"),
    ],
)
def test_the_graphql_url_follows_from_the_base_url(base: str, graphql: str) -> None:
    assert helpers.graphql_url(base) == graphql


def test_github_enterprise_server_is_read_below_its_base_url(
    github_api: GithubApi, warehouse: SourceWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCES__GITHUB__API_BASE_URL", f"{github_api.url}/api/v3/")
    loaded = warehouse.load(github_reactions("sandbox", "handbook"), github_repo_events("sandbox", "handbook"))
    assert (loaded["issues"], loaded["push_event"] > 0) == (130, True)
    paths = {"/github/api/graphql", "/github/api/v3/repos/sandbox/handbook/events"}
    assert set(github_api.sandbox.counts()["by_path"]) == paths


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded archive of tlswg/tls13-spec is not there")
def test_a_recorded_repository_is_loaded_completely(
    github_api: GithubApi, warehouse: SourceWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment: dict[str, Any] = {"SANDBOX_GITHUB_ARCHIVES": str(RECORDED)}
    with running_sandbox(**environment) as archive:
        monkeypatch.setenv("SOURCES__GITHUB__API_BASE_URL", archive.github.url)
        loaded = warehouse.load(github_reactions("tlswg", "tls13-spec"))
        totals = github_totals("tlswg", "tls13-spec")
    assert (loaded["issues"], loaded["pull_requests"]) == (446, 998)
    assert loaded["issues__comments"] + loaded["pull_requests__comments"] == 2_363
    assert (totals["issues"], totals["pull_requests"]) == (446, 998)
    newest = warehouse.rows("SELECT year(min(created_at)), count(DISTINCT number) FROM issues")
    assert newest == [(2014, 446)]
