"""GitHub: a repository's issues and pull requests with comments and reactions, its stargazers and its events.

All of it merges on a key, so a load may run again at any time. What GitHub does not report stays unseen: rows of
deleted or transferred issues and of withdrawn stars remain, and a new reaction does not move `updated_at`, so that
it comes with the next change of its issue, or with `full_reload=True`, which reads a repository anew.

Variables: SOURCES__GITHUB__ACCESS_TOKEN; optional SOURCES__GITHUB__API_BASE_URL, SOURCES__GITHUB__MAX_WAIT and
SOURCES__GITHUB__TIMEOUT (seconds).
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

import dlt
from dlt.common import json, logger
from dlt.common.configuration.specs import BaseConfiguration
from dlt.common.schema.typing import TColumnSchema
from dlt.common.utils import digest128
from dlt.extract import DltResource
from dlt.extract.hints import TResourceNestedHints

from dlt_sources.github import helpers
from dlt_sources.github.helpers import GITHUB, GraphQL, Node, PageSize, rest_client

__all__ = ["github_reactions", "github_repo_events", "github_stargazers", "github_totals"]

# `spec=BaseConfiguration` switches dlt's injection off: it would fill `access_token`, `name` or `max_items` from
# bare variables of that name. The sources share a dataset, but each has a schema of its own: dlt stores schemas by
# name, so of two concurrent loads under one name the later would hide what the earlier has learned of its tables.


@dlt.source(name="github_reactions", section="github", spec=BaseConfiguration)
def github_reactions(
    owner: str,
    name: str,
    access_token: str | None = None,
    items_per_page: int = 100,
    max_items: int | None = None,
    full_reload: bool = False,
) -> Iterator[DltResource]:
    """Issues and pull requests of a repository, each with all its comments and reactions.

    `max_items` bounds the rows of one load, per resource. Issues come by the time of their last change, oldest
    first: the next load goes on where this one stopped. Pull requests come newest first, the only way to read few
    of them: if `max_items` cuts them, the cursor stays where it was, and a load without the bound brings the rest.
    """
    _check(items_per_page)

    def issues() -> Iterator[Any]:
        """Issues of a GitHub repository, one row per repository and number, brought up to date as they change."""
        api = GraphQL(owner, name, access_token)
        yield from _read(api, _ISSUES, items_per_page, max_items, full_reload)

    def pull_requests() -> Iterator[Any]:
        """Pull requests of a GitHub repository, one row per repository and number, updated as they change."""
        api = GraphQL(owner, name, access_token)
        yield from _read(api, _PULL_REQUESTS, items_per_page, max_items, full_reload)

    for resource in (issues, pull_requests):
        yield dlt.resource(
            resource,
            write_disposition="merge",
            primary_key=["repository_owner", "repository_name", "number"],
            columns=_THREAD_COLUMNS,
            nested_hints=_THREAD_CHILDREN,
        )


@dlt.source(name="github_stargazers", section="github", spec=BaseConfiguration)
def github_stargazers(
    owner: str,
    name: str,
    access_token: str | None = None,
    items_per_page: int = 100,
    max_items: int | None = None,
    full_reload: bool = False,
) -> DltResource:
    """Who starred a repository, and when; newest first, with what `max_items` means for pull requests."""
    _check(items_per_page)

    def stargazers() -> Iterator[Any]:
        """Users who starred a GitHub repository, one row per repository and user, with the time of the star."""
        api = GraphQL(owner, name, access_token)
        yield from _read(api, _STARGAZERS, items_per_page, max_items, full_reload)

    return dlt.resource(
        stargazers,
        write_disposition="merge",
        primary_key=["repository_owner", "repository_name", "user__login"],
        columns=_STARGAZER_COLUMNS,
    )


@dlt.source(name="github_repo_events", section="github", spec=BaseConfiguration, max_table_nesting=2)
def github_repo_events(
    owner: str, name: str, access_token: str | None = None, full_reload: bool = False
) -> DltResource:
    """What happened in a repository lately, a table per type of event (`push_event`, `watch_event`, …).

    GitHub lists the last 300 events only, and some up to six hours late: load before 300 more have happened.
    """

    def repo_events() -> Iterator[Any]:
        """Events of a GitHub repository (pushes, comments, stars, …), one row each, in one table per type."""
        yield from _read_events(owner, name, access_token, full_reload)

    return dlt.resource(
        repo_events,
        write_disposition="merge",
        primary_key="id",
        table_name=lambda event: event.get("type") or "UnknownEvent",
        columns=_EVENT_COLUMNS,
    )


def github_totals(
    owner: str, name: str, access_token: str | None = None, created_before: datetime | None = None
) -> dict[str, int]:
    """How many `issues`, `pull_requests` and `stargazers` GitHub counts now, to check a load against.

    Those created (starred) after `created_before` do not count: a load that began then cannot have seen them.
    """
    api = GraphQL(owner, name, access_token)
    before = created_before
    if before and before.tzinfo is None:
        before = before.replace(tzinfo=UTC)
    totals = {}
    for resource, query in helpers.NEWEST.items():
        newer = 0
        for page in api.pages(query, PageSize(100 if before else 1)):
            items = [item for item in page.get("nodes") or page.get("edges") or () if item]
            times = [datetime.fromisoformat(item.get("createdAt") or item["starredAt"]) for item in items]
            late = sum(time > before for time in times) if before else 0
            newer += late
            if not before or late < len(items):
                break
        totals[resource] = page["totalCount"] - newer
    return totals


@dataclass(frozen=True)
class _Stream:
    """A connection sorted by the field `moment`, so that a load can go on where the last one ended."""

    query: str
    moment: str
    ascending: bool
    rows: Callable[[GraphQL, list[Node]], list[Node]]
    key: Callable[[Node], str]


def _read(
    api: GraphQL, stream: _Stream, items_per_page: int, max_items: int | None, full_reload: bool
) -> Iterator[Any]:
    """Pages of the rows that are new or changed since the last load of this repository.

    The state holds a cursor per repository: dlt's `incremental` has one per resource, with which a second
    repository would start where the first ended. GitHub's times are whole seconds, so the second of the cursor is
    read again, and what was loaded of it is known by its content. dlt drops the state of a load that fails.
    """
    cursors = dlt.current.resource_state()
    old = {} if full_reload else cursors.get(api.repository, {})
    since: str | None = old.get("cursor")
    seen: dict[str, str] = old.get("rows", {})
    cursor, at_cursor = since, dict(seen)
    left = sys.maxsize if max_items is None else max_items
    if left <= 0:
        return
    size = PageSize(min(items_per_page, left))
    for page in api.pages(stream.query, size, since if stream.ascending else None):
        items = _items(page, api.repository)
        fresh = [item for item in items if since is None or item[stream.moment] >= since]
        wanted = fresh[: left + len(seen)]  # an item costs requests, and no more than `seen` drop out again
        rows = []
        for row in stream.rows(api, wanted):
            key = stream.key(row)
            if key not in seen or seen[key] != _digest(row):
                rows.append(row)
        cut = len(wanted) < len(fresh) or len(rows) > left
        rows = rows[:left]
        left -= len(rows)
        newest = max((row[stream.moment] for row in rows), default="")
        if cursor is None or newest > cursor:
            cursor, at_cursor = newest or None, {}
        at_cursor |= {stream.key(row): _digest(row) for row in rows if row[stream.moment] == cursor}
        if rows:
            yield rows
        reached_old = len(fresh) < len(items)
        complete = not cut and (reached_old or not page["pageInfo"]["hasNextPage"])
        if cursor and (stream.ascending or complete):  # newest first leaves a gap until it has reached the old
            cursors[api.repository] = {"cursor": cursor, "rows": at_cursor}
        if complete or not left:
            break
    if cursor is None:  # an empty repository: its tables exist all the same
        yield dlt.mark.materialize_table_schema()


def _digest(row: Node) -> str:
    return digest128(json.dumps(row))


def _items(page: Node, repository: str) -> list[Node]:
    """A page's items. A row needs its key, so one that GitHub gives as null cannot become a row."""
    items = page.get("nodes") or page.get("edges") or []
    known = [item for item in items if item and item.get("node", item)]
    if len(known) < len(items):
        logger.warning(f"{repository}: GitHub hides {len(items) - len(known)} items, which are left out.")
    return known


def _thread_rows(api: GraphQL, threads: list[Node]) -> list[Node]:
    for thread in threads:
        api.complete(thread, "reactions")
        api.complete(thread, "comments")
    comments = [comment for thread in threads for comment in thread["comments"]["nodes"] if comment]
    api.add_reactions([one for one in comments if any(map(_CREATED_AT, one["reactionGroups"] or ()))])
    return [api.names | _thread(thread) for thread in threads]


def _thread(node: Node) -> Node:
    row = _authored(node)
    del row["id"]
    comments = row["comments"]
    row["comments_totalCount"] = comments["totalCount"]
    row["comments"] = [_comment(comment) for comment in comments["nodes"]]
    return row | _reactions(row["reactions"])


def _comment(node: Node | None) -> Node:
    row = _authored(node or {})
    row.pop("reactionGroups", None)
    return row | _reactions(row["reactions"]) if "reactions" in row else row


def _authored(node: Node) -> Node:
    """A copy; the author is null if the account was deleted: then its columns are."""
    return node | {"author": node.get("author") or {}}


def _reactions(connection: Node) -> Node:
    reactions = [reaction or {} for reaction in connection["nodes"]]
    return {
        "reactions_totalCount": connection["totalCount"],
        "reactions": [reaction | {"user": reaction.get("user") or {}} for reaction in reactions],
    }


def _stargazer_rows(api: GraphQL, stars: list[Node]) -> list[Node]:
    return [api.names | {"starredAt": star["starredAt"], "user": star["node"]} for star in stars]


def _read_events(owner: str, name: str, access_token: str | None, full_reload: bool) -> Iterator[Any]:
    """Pages of the events that are not loaded yet.

    Events turn up late, so times do not tell which are new; but the list is short, so the state can hold the ids
    of all of it, per page and with the page's ETag. Each page is asked for, as a late event may change the last
    one alone; an unchanged page (304) is free of charge.
    """
    names = {"repository_owner": owner, "repository_name": name}
    state = dlt.current.resource_state()
    old: list[Node] = [] if full_reload else state.get(f"{owner}/{name}", [])
    loaded = {event_id for page in old for event_id in page["ids"]}
    new: list[Node] = []
    client = rest_client(access_token)
    more = True
    while more:
        known = old[len(new)] if len(new) < len(old) else {}
        response = client.get(
            f"repos/{owner}/{name}/events",
            params={"per_page": 100, "page": len(new) + 1},
            headers={"If-None-Match": known["etag"]} if known.get("etag") else {},
        )
        if response.status_code == 304:
            new.append(known)
            more = len(new) < len(old)
            continue
        events = [event for event in GITHUB.body(response) if event]
        rows = [_without_nulls(event) | names for event in events if event["id"] not in loaded]
        new.append({"etag": response.headers.get("ETag"), "ids": [event["id"] for event in events]})
        if rows:
            yield rows
        more = "next" in response.links
    state[f"{owner}/{name}"] = new


def _without_nulls(value: Any) -> Any:
    """Payloads are full of nulls, for each of which dlt would warn that a column has no type."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _check(items_per_page: int) -> None:
    if not 1 <= items_per_page <= 100:
        raise ValueError(f"items_per_page has to be from 1 to 100, as GitHub wants it, not {items_per_page}")


def _columns(*names: str) -> dict[str, TColumnSchema]:
    """Columns in order, text unless a colon says otherwise: typed, so that they exist even while they are null."""
    typed = (name.partition(":") for part in names for name in part.split())
    return {name: {"name": name, "data_type": kind or "text"} for name, _, kind in typed}  # type: ignore[typeddict-item]


_ISSUES = _Stream(helpers.ISSUES, "updatedAt", True, _thread_rows, lambda row: str(row["number"]))
_PULL_REQUESTS = _Stream(helpers.PULL_REQUESTS, "updatedAt", False, _thread_rows, _ISSUES.key)
_STARGAZERS = _Stream(helpers.STARGAZERS, "starredAt", False, _stargazer_rows, lambda row: str(row["user"]["login"]))

_CREATED_AT = itemgetter("createdAt")

_REPOSITORY = "repository_owner repository_name"
_AUTHOR = "author_association author__login author__avatar_url author__url"
_USER = "user__login user__avatar_url user__url"
_THREAD_COLUMNS = _columns(
    f"{_REPOSITORY} number:bigint url title body state closed:bool {_AUTHOR}",
    "created_at:timestamp updated_at:timestamp closed_at:timestamp",
    "reactions_total_count:bigint comments_total_count:bigint",
)
_STARGAZER_COLUMNS = _columns(f"{_REPOSITORY} {_USER} starred_at:timestamp")
_EVENT_COLUMNS = _columns(f"{_REPOSITORY} id type created_at:timestamp public:bool")
_REACTIONS = dlt.mark.make_nested_hints(columns=_columns(f"content created_at:timestamp {_USER}"))
_THREAD_CHILDREN: dict[str | Sequence[str], TResourceNestedHints] = {
    "reactions": _REACTIONS,
    "comments": dlt.mark.make_nested_hints(
        columns=_columns(f"id url body created_at:timestamp {_AUTHOR} reactions_total_count:bigint")
    ),
    ("comments", "reactions"): _REACTIONS,
}
# What changes while it is read comes twice in one load: the later state of it wins.
_THREAD_COLUMNS["updated_at"]["dedup_sort"] = "desc"
_STARGAZER_COLUMNS["starred_at"]["dedup_sort"] = "desc"
