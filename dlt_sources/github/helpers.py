"""GitHub's GraphQL and REST APIs: complete pages, smaller requests when GitHub times out, and errors by cause."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from dlt.common import logger
from dlt.common.configuration import resolve_configuration
from dlt.common.configuration.specs import RuntimeConfiguration
from dlt.sources.helpers.requests import Response
from dlt.sources.helpers.rest_client.client import RESTClient

from dlt_sources.errors import PermanentSourceError, TransientSourceError
from dlt_sources.http import ApiClient, Limit, OverloadedError, backoff, pause, read_limit, seconds_until_reset

Node = dict[str, Any]

COMMENTS_PER_BATCH = 50
DENIED = ("FORBIDDEN", "INSUFFICIENT_SCOPES", "UNAUTHORIZED")
OVERLOADED = ("RESOURCE_LIMITS_EXCEEDED", "MAX_NODE_LIMIT_EXCEEDED", "SERVICE_UNAVAILABLE", "TIMEOUT")
OVERLOADED_MESSAGES = ("something went wrong", "timeout", "timed out")


def _read_limit(response: Response) -> Limit | None:
    """GitHub's limits. GraphQL reports them with status 200; REST reports the secondary one as an ordinary 403."""
    content, wait = response.content, seconds_until_reset(response)
    spent = response.headers.get("X-RateLimit-Remaining") == "0" or b'"RATE_LIMIT' in content
    name = "primary rate limit" if spent else "secondary rate limit"
    if read_limit(response):
        return Limit(name, wait)
    # An issue's text may contain these words too: only the response's errors count.
    if response.status_code not in (200, 403) or not (b"RATE_LIMIT" in content or b"rate limit" in content):
        return None
    body = GITHUB.body(response)
    errors = (body.get("errors") or [body]) if isinstance(body, dict) else []
    said = " ".join(f"{error.get('type')} {error.get('message')}" for error in errors)
    if "RATE_LIMIT" not in said and "rate limit" not in said:
        return None
    return Limit(name, 60.0 if wait is None else wait)  # without a time, GitHub asks clients to wait a minute


GITHUB = ApiClient(
    source="github",
    title="GitHub",
    credential="access_token",
    base_url="https://api.github.com",
    permission="read access to the repository (scope `repo`, or `public_repo` for a public one; single sign-on)",
    read_limit=_read_limit,
)


def graphql_url(base: str) -> str:
    """GitHub Enterprise Server has REST at `/api/v3` and GraphQL at `/api/graphql`."""
    return f"{base.removesuffix('/v3') if base.endswith('/api/v3') else base}/graphql"


def rest_client(access_token: str | None, retry_overload: bool = True) -> RESTClient:
    return GITHUB.rest_client(access_token, retry_overload=retry_overload)


class PageSize:
    """How many items to ask for in one request. Halved when GitHub times out, for all further requests."""

    def __init__(self, limit: int) -> None:
        self.limit = self.value = limit

    def inner(self, count: int) -> int:
        """The size of nested pages within a page of `count` items: they shrink with it."""
        return max(1, 100 * count // self.limit)


class GraphQL:
    """One repository through GitHub's GraphQL API. Every request goes through `ask`."""

    def __init__(self, owner: str, name: str, access_token: str | None = None) -> None:
        self.repository = f"{owner}/{name}"
        self.names = {"repository_owner": owner, "repository_name": name}
        self._variables = {"owner": owner, "name": name}
        self._token = GITHUB.secret(access_token)
        self._client = rest_client(self._token, retry_overload=False)
        self._url = graphql_url(GITHUB.api_base_url())
        self._attempts = resolve_configuration(RuntimeConfiguration()).request_max_attempts
        self._cost = 1
        self._rate: Node | None = None
        self._nested = PageSize(100)
        self._batch = PageSize(COMMENTS_PER_BATCH)

    def pages(self, query: str, size: PageSize, since: str | None = None) -> Iterator[Node]:
        """The pages of the connection with the alias `items` in a query."""
        after: str | None = None

        def build(first: int) -> tuple[str, Node]:
            place = {"after": after, "since": since, "first": first, "inner": size.inner(first)}
            return query, self._variables | place

        while True:
            data = self.ask(build, size, f"after cursor {after}")
            if data.get("repository") is None:
                raise self._unknown_repository()
            page: Node = data["repository"]["items"]
            yield page
            if not page["pageInfo"]["hasNextPage"]:
                return
            after = page["pageInfo"]["endCursor"]

    def complete(self, node: Node, field: str) -> None:
        """Load the rest of a node's `comments` or `reactions`: a page has only the first 100.

        They may change during the reading. If their number is not GitHub's `totalCount`, they are read once more. A
        remaining difference is GitHub's own (it counts some that it does not list) and is logged.
        """
        connection = self._with_all_nodes(node["id"], field, node[field])
        if len(connection["nodes"]) != connection["totalCount"]:
            again = self._connection(node["id"], field, None)
            connection = self._with_all_nodes(node["id"], field, again) if again else connection
            listed, counted = len(connection["nodes"]), connection["totalCount"]
            if listed != counted:
                logger.warning(f"{node['url']}: GitHub counts {counted} {field}, but lists {listed}.")
        node[field] = connection

    def add_reactions(self, comments: list[Node]) -> None:
        """Add the reactions to comments, for 50 comments per request."""
        done = 0

        def build(count: int) -> tuple[str, Node]:
            return _batch_query(comments[done : done + count], self._batch.inner(count))

        while done < len(comments):
            answers = self.ask(build, self._batch, f"comment {comments[done]['url']}").values()
            for comment, answer in zip(comments[done:], answers, strict=False):
                if answer and answer.get("reactions"):  # else the comment has been deleted
                    comment["reactions"] = answer["reactions"]
                    self.complete(comment, "reactions")
            done += len(answers)

    def ask(self, build: Callable[[int], tuple[str, Node]], size: PageSize, where: str) -> Node:
        """The data of the query that `build` makes for a number of items: fewer when GitHub times out."""
        failures, failures_alone, size_before = 0, 0, size.value
        while True:
            try:
                data = self._post(*build(size.value))
            except OverloadedError as error:
                failures, failures_alone = failures + 1, failures_alone + (size.value == 1)
                if failures_alone == self._attempts:
                    details = f"Even a single item fails: {self.repository}, {where}."
                    raise TransientSourceError(f"{error} {details}") from error
                size.value = max(1, size.value // 2)
                logger.warning(f"{error} Next attempt with {size.value} at a time.")
                pause(min(backoff(min(failures, self._attempts)), GITHUB.max_wait()))
            else:
                if failures_alone:  # an outage: the size was not the reason
                    size.value = size_before
                return data

    def _post(self, query: str, variables: Node) -> Node:
        self._slow_down()
        given = {name: value for name, value in variables.items() if value is not None}
        answer = GITHUB.body(self._client.post(self._url, json={"query": query, "variables": given}))
        answer = answer if isinstance(answer, dict) else {}
        for error in answer.get("errors") or ():
            self._raise_for_error(error)
        if not isinstance(answer.get("data"), dict):
            raise TransientSourceError(f"GitHub sent JSON without data at {self._url}.")
        data: Node = answer["data"]
        self._rate = data.pop("rateLimit", None)
        return data

    def _slow_down(self) -> None:
        if self._rate is None:
            return
        self._cost = max(self._cost, self._rate["cost"])
        wait = (datetime.fromisoformat(self._rate["resetAt"]) - datetime.now(UTC)).total_seconds()
        if self._rate["remaining"] < self._cost and wait > 0:
            GITHUB.wait_for(Limit("primary rate limit", wait))

    def _raise_for_error(self, error: Node) -> None:
        """Raise what an entry of `errors` means. An object that is missing within the repository is no failure."""
        kind = str(error.get("type") or (error.get("extensions") or {}).get("code") or "")
        message = str(error.get("message")).replace(self._token, "***")
        path = error.get("path") or ["repository"]
        if kind == "NOT_FOUND" and path == ["repository"]:
            raise self._unknown_repository()
        if kind == "NOT_FOUND":
            logger.warning(f"GitHub left out {path} of {self.repository}: {message}")
        elif kind in DENIED:
            variable = GITHUB.variable("access_token")
            needs = f"{variable} needs {GITHUB.permission}"
            raise PermanentSourceError(f"GitHub denies access to {self.repository} ({kind}: {message}): {needs}.")
        elif kind in OVERLOADED or any(text in message.lower() for text in OVERLOADED_MESSAGES):
            raise OverloadedError(f"GitHub timed out at {self._url} ({message[:200]}).")
        else:
            raise PermanentSourceError(f"GitHub rejects the query for {self.repository} ({kind}: {message}).")

    def _unknown_repository(self) -> PermanentSourceError:
        return PermanentSourceError(
            f"GitHub has no repository {self.repository}, or hides it: check owner and name, "
            f"and that {GITHUB.variable('access_token')} has {GITHUB.permission}."
        )

    def _with_all_nodes(self, node_id: str, field: str, connection: Node) -> Node:
        nodes = connection["nodes"] or []
        while connection["pageInfo"]["hasNextPage"]:
            more = self._connection(node_id, field, connection["pageInfo"]["endCursor"])
            if more is None:  # the node has been deleted
                break
            connection = more
            nodes = nodes + (connection["nodes"] or [])
        return connection | {"nodes": nodes}

    def _connection(self, node_id: str, field: str, after: str | None) -> Node | None:
        def build(first: int) -> tuple[str, Node]:
            return NESTED[field], {"id": node_id, "after": after, "first": first}

        data = self.ask(build, self._nested, f"{field} of {node_id} after cursor {after}")
        connection: Node | None = (data.get("node") or {}).get(field)
        return connection


ACTOR = "{ login avatarUrl url }"
PAGE = "pageInfo { hasNextPage endCursor }"
RATE = "rateLimit { cost remaining resetAt }"
REACTIONS = f"{{ totalCount {PAGE} nodes {{ user {ACTOR} content createdAt }} }}"
COMMENTS = f"""{{ totalCount {PAGE} nodes {{
  id url body author {ACTOR} authorAssociation createdAt reactionGroups {{ content createdAt }}
}} }}"""
THREAD = f"""nodes {{
  id number url title body author {ACTOR} authorAssociation closed closedAt createdAt state updatedAt
  reactions(first: $inner) {REACTIONS} comments(first: $inner) {COMMENTS}
}}"""


def _query(name: str, connection: str, content: str, variables: str = "") -> str:
    field, _, order = connection.partition(" ")
    return f"""query {name}($owner: String!, $name: String!, $first: Int!, $after: String{variables}) {{
  {RATE} repository(owner: $owner, name: $name) {{
    items: {field}(first: $first, after: $after, {order}) {{ totalCount {PAGE} {content} }}
  }}
}}"""


def _nested_query(name: str, selection: str) -> str:
    return f"query {name}($id: ID!, $first: Int!, $after: String) {{ {RATE} node(id: $id) {{ {selection} }} }}"


def _batch_query(comments: list[Node], inner: int) -> tuple[str, Node]:
    ids = {f"c{index}": comment["id"] for index, comment in enumerate(comments)}
    reactions = f"{{ ... on Reactable {{ reactions(first: {inner}) {REACTIONS} }} }}"
    declared = ", ".join(f"${name}: ID!" for name in ids)
    asked = " ".join(f"{name}: node(id: ${name}) {reactions}" for name in ids)
    return f"query CommentReactions({declared}) {{ {RATE} {asked} }}", ids


ALL_COMMENTS = f"comments(first: $first, after: $after) {COMMENTS}"
NESTED = {
    "reactions": _nested_query(
        "MoreReactions", f"... on Reactable {{ reactions(first: $first, after: $after) {REACTIONS} }}"
    ),
    "comments": _nested_query(
        "MoreComments", f"... on Issue {{ {ALL_COMMENTS} }} ... on PullRequest {{ {ALL_COMMENTS} }}"
    ),
}
ISSUES = _query(
    "Issues",
    "issues filterBy: {since: $since}, orderBy: {field: UPDATED_AT, direction: ASC}",
    THREAD,
    ", $inner: Int!, $since: DateTime",
)
PULL_REQUESTS = _query(
    "PullRequests", "pullRequests orderBy: {field: UPDATED_AT, direction: DESC}", THREAD, ", $inner: Int!"
)
STARS = "stargazers orderBy: {field: STARRED_AT, direction: DESC}"
STARGAZERS = _query("Stargazers", STARS, f"edges {{ starredAt node {ACTOR} }}")
BY_AGE = "orderBy: {field: CREATED_AT, direction: DESC}"
NEWEST = {
    "issues": _query("NewestIssues", f"issues {BY_AGE}", "nodes { createdAt }"),
    "pull_requests": _query("NewestPullRequests", f"pullRequests {BY_AGE}", "nodes { createdAt }"),
    "stargazers": _query("NewestStargazers", STARS, "edges { starredAt }"),
}
