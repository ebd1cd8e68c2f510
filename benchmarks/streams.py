"""APIs that take their time, or allow so many requests a minute: GitHub's stargazers from the sandbox into DuckDB.

`python -m benchmarks.streams CONTENDER REQUESTS_AT_ONCE REPOSITORY…` is one measurement.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from threading import Semaphore
from typing import Any

from benchmarks.apis import replayed
from benchmarks.measure import QUIET, Measured, measure, spread, table, take_turns

LIMIT, OURS, DLT = "limit", "ours", "dlt"
NAMES = {
    LIMIT: "limit: fetched by threads, then DuckDB's own JSON reader",
    OURS: "**this deployment**: a run per repository, as its server starts them",
    DLT: "one dlt pipeline with a parallelized resource per repository, parquet",
}
REPOSITORIES, PAGES, PAGE = [f"bench-{number}" for number in range(10)], 25, 100
LATENCY = 0.15
AT_ONCE = (4, 10)  # what the pool in dagster.yaml lets through, and all of them
# By repository: the rows, the users, the type of the time, and a digest of all values.
LOADED = """
SELECT repository_name, count(*), count(DISTINCT user__login), any_value(typeof(starred_at)),
    md5(string_agg(concat_ws(' ', user__login, starred_at, user__avatar_url, user__url), ',' ORDER BY user__login))
FROM raw.stargazers GROUP BY 1 ORDER BY 1
"""
LONG, POINTS, WINDOW_SECONDS = 250, 50, 10  # pages of one repository, and the requests that it may take


def run(rounds: int = 5) -> str:
    """The tables, in Markdown."""
    from tests.support.sandbox import running_sandbox

    with running_sandbox() as sandbox:
        for name in REPOSITORIES:
            sandbox.github.create_repository(name, stargazers=PAGES * PAGE)
        with replayed(sandbox, LATENCY) as url:
            contenders = {(name, n): partial(_loaded, name, url, n, REPOSITORIES) for n in AT_ONCE for name in NAMES}
            _loaded(LIMIT, url, max(AT_ONCE), REPOSITORIES)  # and the answers are there
            results = take_turns(contenders, rounds)
        loaded = {one.output for measured in results.values() for one in measured}
        assert len(loaded) == 1, f"Not all have loaded the same: {loaded}"

        sandbox.github.create_repository("long", stargazers=LONG * PAGE)
        limited, requests = [], []
        for _ in range(rounds):
            sandbox.settings(graphql_points=POINTS, graphql_points_per_minute=10_000, window_seconds=WINDOW_SECONDS)
            sandbox.forget_requests()
            limited.append(_loaded(OURS, sandbox.github.url, 1, ["long"]).seconds)
            requests.append(sandbox.counts()["total"])
            print(".", end="", file=sys.stderr, flush=True)
    lines = []
    for (name, n), measured in results.items():
        limit = median(one.seconds for one in results[LIMIT, n])
        seconds = [one.seconds for one in measured]
        lines.append([str(n), NAMES[name], spread(seconds), f"{limit / median(seconds):.2f}"])
    least = (LONG // POINTS - 1) * WINDOW_SECONDS
    return "\n\n".join(
        (
            table(["requests at once", "by", "seconds", "of the limit"], lines),
            table(
                ["seconds", "the least that the limit allows", "of the limit", "requests for a page"],
                [[spread(limited), str(least), f"{least / median(limited):.2f}", f"{max(requests) / LONG:.2f}"]],
            ),
        )
    )


def _loaded(name: str, url: str, at_once: int, repositories: list[str]) -> Measured:
    """One load of the repositories into an empty file. The output is what is there then."""
    import duckdb

    from dlt_sources.github.helpers import STARGAZERS

    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/warehouse.duckdb"
        environment = QUIET | {
            "QUERY": STARGAZERS,  # the limit does not import dlt to know it
            "SOURCES__GITHUB__API_BASE_URL": url,
            "SOURCES__GITHUB__ACCESS_TOKEN": "sandbox-token",
            "WAREHOUSE": "duckdb",
            "DLT_DATA_DIR": f"{folder}/dlt",
            "DESTINATION__DUCKDB__CREDENTIALS": file,
            "EXTRACT__WORKERS": str(at_once),
        }
        arguments = (name, str(at_once), *repositories)
        done = measure("benchmarks.streams", *arguments, environment=environment, says_seconds=name == OURS)
        with duckdb.connect(file, read_only=True) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            found = connection.execute(LOADED).fetchall()
        rows = (LONG if repositories == ["long"] else PAGES) * PAGE
        expected = [(repository, rows, rows) for repository in repositories]
        assert [row[:3] for row in found] == expected, f"{name} has loaded {found}"
        return done._replace(output=str(found))


def load(name: str, at_once: int, repositories: list[str]) -> None:
    """One measurement, in a process of its own."""
    {LIMIT: _fetch, OURS: _ours, DLT: _dlt}[name](at_once, repositories)


def _ours(at_once: int, repositories: list[str]) -> None:
    import runtime.accelerate.preload  # noqa: F401

    started = time.perf_counter()
    with get_context("fork").Pool(at_once, maxtasksperchild=1) as forks:
        assert all(forks.map(partial(_run, repositories), repositories, chunksize=1))
    print(time.perf_counter() - started)


def _run(repositories: list[str], repository: str) -> bool:
    """One run of the asset, in a process of its own."""
    import dagster as dg
    from dagster_dlt import DagsterDltResource, dlt_assets
    from dagster_dlt.dlt_event_iterator import DltEventType

    from dlt_sources.github import github_stargazers
    from runtime.load.resource import IsolatedDltResource
    from runtime.load.warehouse import warehouse_pipeline

    @dlt_assets(
        dlt_source=github_stargazers("owner", "name"),
        dlt_pipeline=warehouse_pipeline("github_stargazers", "raw"),
        partitions_def=dg.StaticPartitionsDefinition(repositories),
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        yield from dlt.run(context=context, dlt_source=github_stargazers("sandbox", context.partition_key))

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # Dagster logs every event of a run to stderr
    return dg.materialize([assets], partition_key=repository, resources={"dlt": IsolatedDltResource()}).success


def _dlt(at_once: int, repositories: list[str]) -> None:
    import dlt

    from dlt_sources.github import github_stargazers

    @dlt.source(name="github_stargazers")
    def all_of_them() -> Iterator[Any]:
        for repository in repositories:
            resource = github_stargazers("sandbox", repository).stargazers.with_name(repository)
            resource.apply_hints(table_name="stargazers")
            yield resource.parallelize()

    pipeline = dlt.pipeline("github_stargazers", destination="duckdb", dataset_name="raw")
    pipeline.run(all_of_them(), loader_file_format="parquet")


def _fetch(at_once: int, repositories: list[str]) -> None:
    import duckdb
    import orjson
    import requests

    folder = Path(os.environ["DLT_DATA_DIR"])
    folder.mkdir()
    one_request = Semaphore(at_once)  # of all repositories, so that none waits for another to end

    def fetch(repository: str) -> None:
        after, more = None, True
        with requests.Session() as session, (folder / f"{repository}.json").open("wb") as file:
            session.headers["Authorization"] = f"Bearer {os.environ['SOURCES__GITHUB__ACCESS_TOKEN']}"
            while more:
                place: dict[str, Any] = ({"after": after} if after else {}) | {"first": PAGE, "inner": 100}
                variables = {"owner": "sandbox", "name": repository} | place
                url = f"{os.environ['SOURCES__GITHUB__API_BASE_URL']}/graphql"
                with one_request:
                    answer = session.post(url, json={"query": os.environ["QUERY"], "variables": variables}).content
                file.write(answer)
                info = orjson.loads(answer)["data"]["repository"]["items"]["pageInfo"]
                after, more = info["endCursor"], info["hasNextPage"]

    with ThreadPoolExecutor(len(repositories)) as threads:
        list(threads.map(fetch, repositories))
    with duckdb.connect(os.environ["DESTINATION__DUCKDB__CREDENTIALS"]) as target:
        target.execute(TABLE.format(folder=folder))


TABLE = """
SET TimeZone = 'UTC'; CREATE SCHEMA raw;
CREATE TABLE raw.stargazers AS SELECT parse_filename(filename, true) AS repository_name,
    edge.starredAt::timestamptz AS starred_at, edge.node.login AS user__login, edge.node.avatarUrl AS user__avatar_url,
    edge.node.url AS user__url
FROM (SELECT filename, unnest(data.repository.items.edges) AS edge FROM read_json('{folder}/*.json', filename = true));
"""


if __name__ == "__main__":
    if len(sys.argv) > 1:
        load(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
    else:
        print(run(1))
