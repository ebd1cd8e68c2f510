"""The source against what GitHub has published: its schema, its addresses, and a repository as it really is."""

import os
from pathlib import Path
from typing import Any

import pytest
from graphql import build_schema, parse, validate

from dlt_sources.github import github_reactions, github_repo_events, github_totals, helpers
from tests.conftest import Sandbox, running_sandbox
from tests.dlt_sources.conftest import Warehouse

CONTRACTS = Path(os.environ.get("CONTRACTS_DIR", "contracts"))
SCHEMA = CONTRACTS / "github" / "schema.graphql"
ARCHIVE = CONTRACTS.parent / "recorded" / "tlswg-tls13-spec.json"


@pytest.mark.skipif(not SCHEMA.exists(), reason="CONTRACTS_DIR has no github/schema.graphql")
def test_the_queries_are_valid_by_the_published_schema() -> None:
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
def test_graphql_is_where_each_kind_of_github_has_it(base: str, graphql: str) -> None:
    assert helpers.graphql_url(base) == graphql


def test_github_enterprise_server_is_read_below_its_base(
    github: Sandbox, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCES__GITHUB__API_BASE_URL", f"{github.github_url}/api/v3/")
    loaded = warehouse.load(github_reactions("sandbox", "handbook"), github_repo_events("sandbox", "handbook"))
    assert (loaded["issues"], loaded["push_event"] > 0) == (130, True)
    paths = {"/github/api/graphql", "/github/api/v3/repos/sandbox/handbook/events"}
    assert set(github.counts()["by_path"]) == paths


@pytest.mark.skipif(not ARCHIVE.exists(), reason="the recorded archive of tlswg/tls13-spec is not there")
def test_a_real_repository_arrives_whole(
    github: Sandbox, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment: dict[str, Any] = {"SANDBOX_GITHUB_ARCHIVES": str(ARCHIVE)}
    with running_sandbox(**environment) as archive:
        monkeypatch.setenv("SOURCES__GITHUB__API_BASE_URL", archive.github_url)
        loaded = warehouse.load(github_reactions("tlswg", "tls13-spec"))
        totals = github_totals("tlswg", "tls13-spec")
    assert (loaded["issues"], loaded["pull_requests"]) == (446, 998)
    assert loaded["issues__comments"] + loaded["pull_requests__comments"] == 2_363
    assert (totals["issues"], totals["pull_requests"]) == (446, 998)
    newest = warehouse.rows("SELECT year(min(created_at)), count(DISTINCT number) FROM issues")
    assert newest == [(2014, 446)]
