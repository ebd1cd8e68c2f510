"""A repository's issues with their comments and reactions, from GitHub's API into DuckDB.

Whole processes, each into an empty file. The API is the sandbox's, asked once: a server of its own replays the answers
from memory, so that it costs all contenders the same, and little. `python -m benchmarks.apis CONTENDER` is one
measurement.
"""

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from benchmarks.measure import QUIET, Measured, as_a_fork, measure, spread, table, take_turns

if TYPE_CHECKING:
    from tests.support.sandbox import Sandbox

LIMIT, OURS, FORK, PLAIN, DLT = "limit", "ours", "fork", "plain", "dlt"
CONTENDERS = {
    LIMIT: "limit: fetched, then DuckDB's own JSON reader",
    OURS: "**this deployment**, a Dagster run and all",
    FORK: "**this deployment**, as its server starts a run",
    PLAIN: "**this deployment**, likewise, but `RUNTIME__ACCELERATE=false`",
    DLT: "the same source with dlt's defaults",
}
OWNER, NAME = "sandbox", "bench"
EACH = 4  # comments and reactions of an issue
# What has to be the same, by table. The limit, too, calls what links a child to its issue as dlt does.
COLUMNS = {
    "issues": "repository_owner, repository_name, number, url, title, body, state, closed, author_association, "
    "author__login, author__avatar_url, author__url, created_at, updated_at, closed_at, reactions_total_count, "
    "comments_total_count",
    "issues__comments": "id, url, body, author_association, author__login, author__avatar_url, author__url, created_at",
    "issues__reactions": "content, created_at, user__login, user__avatar_url, user__url",
}
DIGEST = "any_value(typeof({column})), md5(string_agg(coalesce({column}::text, 'NULL'), ',' ORDER BY {order}))"


def run(issues: int = 10_000, rounds: int = 5) -> str:
    """The table, in Markdown."""
    with api(issues) as url:
        expected = loaded(LIMIT, url)[1]  # and the answers are there
        names = list(CONTENDERS) if issues <= 10_000 else [LIMIT, OURS, FORK, PLAIN]
        results = take_turns({name: partial(checked, name, url, expected) for name in names}, rounds)
    seconds = {name: [one.seconds for one in measured] for name, measured in results.items()}
    limit = sorted(seconds[LIMIT])[rounds // 2]
    lines = [
        [CONTENDERS[name], spread(times), f"{limit / sorted(times)[rounds // 2]:.2f}"]
        for name, times in seconds.items()
    ]
    rows = issues * (1 + 2 * EACH)
    return table([f"{issues:,} issues, {rows:,} rows, by", "seconds", "of the limit"], lines)


def checked(name: str, url: str, expected: list[Any]) -> Measured:
    done, found = loaded(name, url)
    assert found == expected, f"{name} has not loaded what is there: {found} instead of {expected}"
    return done


def loaded(name: str, url: str) -> tuple[Measured, list[Any]]:
    """One load into an empty file, and the checksums of what is there then."""
    import duckdb

    from dlt_sources.github.helpers import ISSUES

    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/warehouse.duckdb"
        environment = QUIET | {
            "QUERY": ISSUES,  # the limit does not import dlt to know it
            "SOURCES__GITHUB__API_BASE_URL": url,
            "SOURCES__GITHUB__ACCESS_TOKEN": "sandbox-token",
            "WAREHOUSE": "duckdb",
            "DLT_DATA_DIR": f"{folder}/dlt",
            "DESTINATION__DUCKDB__CREDENTIALS": file,
        }
        if name == PLAIN:
            environment["RUNTIME__ACCELERATE"] = "false"
        done = measure("benchmarks.apis", name, environment=environment, says_seconds=name in (FORK, PLAIN))
        with duckdb.connect(file, read_only=True) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            return done, [checksum(connection, name, columns.split(", ")) for name, columns in COLUMNS.items()]


def checksum(connection: Any, name: str, columns: list[str]) -> Any:
    """How many rows of issues there are; of each column its type, and a digest of its values in their order."""
    link, order = ("_dlt_parent_id", "issue_number, _dlt_list_idx") if "__" in name else ("_dlt_id", "issue_number")
    digests = ", ".join(DIGEST.format(column=column, order=order) for column in columns)
    issues = "(SELECT _dlt_id AS issue_id, number AS issue_number FROM raw.issues)"
    return connection.execute(
        f"SELECT count(*), {digests} FROM raw.{name} JOIN {issues} ON issue_id = {link}"
    ).fetchone()


@contextmanager
def api(issues: int) -> Iterator[str]:
    """The URL of an API with a repository of so many issues, which remembers its answers."""
    from tests.support.sandbox import running_sandbox

    with running_sandbox() as sandbox:
        sandbox.github.create_repository(NAME, issues=issues, comments_per_issue=EACH, reactions_per_issue=EACH)
        with replayed(sandbox) as url:
            yield url


@contextmanager
def replayed(sandbox: "Sandbox", latency: float = 0.0) -> Iterator[str]:
    """The URL of a server that asks the sandbox's GitHub once, then answers from memory after `latency` seconds."""
    sandbox.settings(graphql_points=10_000_000, graphql_points_per_minute=10_000_000)
    answers: dict[bytes, tuple[int, bytes]] = {}

    class Replay(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"]))
            if asked not in answers:
                headers = {"Authorization": self.headers["Authorization"], "Content-Type": "application/json"}
                answer = sandbox.http.post(f"{sandbox.github.url}/graphql", asked, headers=headers, timeout=60)
                answers[asked] = answer.status_code, answer.content
            status, body = answers[asked]
            time.sleep(latency)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Without a word."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 100

    with Server(("127.0.0.1", 0), Replay) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def load(name: str) -> None:
    """One measurement, in a process of its own."""
    fork = partial(as_a_fork, _ours)
    work: dict[str, Callable[[], None]] = {LIMIT: _fetch, OURS: _ours, FORK: fork, PLAIN: fork, DLT: _dlt}
    work[name]()


def _ours() -> None:
    import dagster as dg
    from dagster_dlt import DagsterDltResource, dlt_assets
    from dagster_dlt.dlt_event_iterator import DltEventType

    from dlt_sources.github import github_reactions
    from runtime.load.resource import IsolatedDltResource
    from runtime.load.warehouse import warehouse_pipeline

    @dlt_assets(
        dlt_source=github_reactions(OWNER, NAME).with_resources("issues"),
        dlt_pipeline=warehouse_pipeline("github_reactions", "raw"),
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        yield from dlt.run(context=context)

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # Dagster logs every event of a run to stderr
    assert dg.materialize([assets], resources={"dlt": IsolatedDltResource()}).success


def _dlt() -> None:
    import dlt

    from dlt_sources.github import github_reactions

    pipeline = dlt.pipeline("github_reactions", destination="duckdb", dataset_name="raw")
    pipeline.run(github_reactions(OWNER, NAME).with_resources("issues"))


def _fetch() -> None:
    from pathlib import Path

    import duckdb
    import orjson
    import requests

    pages = Path(os.environ["DLT_DATA_DIR"])
    pages.mkdir()
    after, more = None, True
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {os.environ['SOURCES__GITHUB__ACCESS_TOKEN']}"
        for number in range(sys.maxsize):
            variables = {"owner": OWNER, "name": NAME} | ({"after": after} if after else {}) | PAGE
            url = f"{os.environ['SOURCES__GITHUB__API_BASE_URL']}/graphql"
            answer = session.post(url, json={"query": os.environ["QUERY"], "variables": variables}).content
            (pages / f"{number:06}.json").write_bytes(answer)
            info = orjson.loads(answer)["data"]["repository"]["items"]["pageInfo"]
            after, more = info["endCursor"], info["hasNextPage"]
            if not more:
                break
    with duckdb.connect(os.environ["DESTINATION__DUCKDB__CREDENTIALS"]) as target:
        target.execute(TABLES.format(pages=pages, owner=OWNER, name=NAME))


PAGE = {"first": 100, "inner": 100}
TABLES = """
SET TimeZone = 'UTC'; CREATE SCHEMA raw;
CREATE TEMP TABLE items AS SELECT unnest(data.repository.items.nodes) AS item FROM read_json('{pages}/*.json');
CREATE TABLE raw.issues AS SELECT
    '{owner}' AS repository_owner, '{name}' AS repository_name, item.number, item.url, item.title, item.body,
    item.state, item.closed, item.authorAssociation AS author_association, item.author.login AS author__login,
    item.author.avatarUrl AS author__avatar_url, item.author.url AS author__url,
    item.createdAt::timestamptz AS created_at, item.updatedAt::timestamptz AS updated_at,
    item.closedAt::text::timestamptz AS closed_at, item.reactions.totalCount AS reactions_total_count,
    item.comments.totalCount AS comments_total_count, item.number AS _dlt_id
FROM items;
CREATE TABLE raw.issues__comments AS SELECT node.id, node.url, node.body,
    node.authorAssociation AS author_association, node.author.login AS author__login,
    node.author.avatarUrl AS author__avatar_url, node.author.url AS author__url,
    node.createdAt::timestamptz AS created_at, number AS _dlt_parent_id, place AS _dlt_list_idx
FROM (
    SELECT item.number, unnest(item.comments.nodes) AS node, generate_subscripts(item.comments.nodes, 1) AS place
    FROM items
);
CREATE TABLE raw.issues__reactions AS SELECT node.content, node.createdAt::timestamptz AS created_at,
    node.user.login AS user__login, node.user.avatarUrl AS user__avatar_url, node.user.url AS user__url,
    number AS _dlt_parent_id, place AS _dlt_list_idx
FROM (
    SELECT item.number, unnest(item.reactions.nodes) AS node, generate_subscripts(item.reactions.nodes, 1) AS place
    FROM items
);
"""


if __name__ == "__main__":
    if len(sys.argv) == 2:
        load(sys.argv[1])
    else:
        print(run(1_000, 1))
