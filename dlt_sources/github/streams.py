"""The rows of a repository that are new or changed since the last load."""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import dlt
from dlt.common import json, logger
from dlt.common.utils import digest128

from dlt_sources.github import helpers
from dlt_sources.github.helpers import GITHUB, GraphQL, Node, PageSize, rest_client


@dataclass(frozen=True)
class Stream:
    """A list of GitHub's, sorted by the time in the field `moment`."""

    query: str
    moment: str
    ascending: bool
    rows: Callable[[GraphQL, list[Node]], list[Node]]
    key: Callable[[Node], str]


class Cursor:
    """The newest time that was loaded from a repository, and the rows of that second.

    GitHub's times are whole seconds, so each load reads the second of the cursor again and leaves out the rows whose
    digest has not changed. dlt's `incremental` does not fit: it has one cursor per resource, and a second repository
    would begin where the first one ended.
    """

    def __init__(self, stream: Stream, saved: Mapping[str, Any]) -> None:
        self._stream = stream
        self.since: str | None = saved.get("cursor")
        self.loaded: Mapping[str, str] = saved.get("rows", {})  # key → digest
        self._newest = self.since
        self._rows_of_newest = dict(self.loaded)

    def may_be_new(self, item: Node) -> bool:
        """Whether the item is as new as the cursor."""
        return self.since is None or item[self._stream.moment] >= self.since

    def is_new(self, row: Node) -> bool:
        """Whether the row is not loaded in this state."""
        key = self._stream.key(row)
        return key not in self.loaded or self.loaded[key] != _digest(row)

    def advance(self, rows: list[Node]) -> None:
        """Move to the newest of the rows."""
        moment, key = self._stream.moment, self._stream.key
        newest = max((row[moment] for row in rows), default="")
        if newest > (self._newest or ""):
            self._newest, self._rows_of_newest = newest, {}
        self._rows_of_newest |= {key(row): _digest(row) for row in rows if row[moment] == self._newest}

    @property
    def state(self) -> Node | None:
        """What the next load begins with; None if there was never a row."""
        return {"cursor": self._newest, "rows": self._rows_of_newest} if self._newest else None


def read(api: GraphQL, stream: Stream, items_per_page: int, max_items: int | None, full_reload: bool) -> Iterator[Any]:
    """Pages of the rows that are new or changed since the last load of this repository, at most `max_items`."""
    cursors = dlt.current.resource_state()  # dlt discards it if the load fails
    cursor = Cursor(stream, {} if full_reload else cursors.get(api.repository, {}))
    left = sys.maxsize if max_items is None else max_items
    if left <= 0:
        return
    since = cursor.since if stream.ascending else None
    for page in api.pages(stream.query, PageSize(min(items_per_page, left)), since):
        items = _items(page, api.repository)
        recent = [item for item in items if cursor.may_be_new(item)]
        # Each row takes requests, so make no more than needed: at most `len(cursor.loaded)` of them are not new.
        wanted = recent[: left + len(cursor.loaded)]
        rows = [row for row in stream.rows(api, wanted) if cursor.is_new(row)]
        is_cut = len(wanted) < len(recent) or len(rows) > left
        rows = rows[:left]
        left -= len(rows)
        cursor.advance(rows)
        if rows:
            yield rows
        reaches_old_items = len(recent) < len(items)
        is_complete = not is_cut and (reaches_old_items or not page["pageInfo"]["hasNextPage"])
        # Newest first, rows are missing between these and the last load until the reading is complete.
        if cursor.state and (stream.ascending or is_complete):
            cursors[api.repository] = cursor.state
        if is_complete or not left:
            break
    if not cursor.state:  # the tables are created even if the repository is empty
        yield dlt.mark.materialize_table_schema()


def _digest(row: Node) -> str:
    return digest128(json.dumps(row))


def _items(page: Node, repository: str) -> list[Node]:
    """A page's items, without those that are null: a row needs its key."""
    items = page.get("nodes") or page.get("edges") or []
    known = [item for item in items if item and item.get("node", item)]
    if len(known) < len(items):
        logger.warning(f"{repository}: GitHub returned null for {len(items) - len(known)} items; they are left out.")
    return known


def _thread_rows(api: GraphQL, threads: list[Node]) -> list[Node]:
    for thread in threads:
        api.complete(thread, "reactions")
        api.complete(thread, "comments")
    comments = [comment for thread in threads for comment in thread["comments"]["nodes"] if comment]
    api.add_reactions([comment for comment in comments if _has_reactions(comment)])
    return [api.names | _thread(thread) for thread in threads]


def _has_reactions(comment: Node) -> bool:
    return any(group["createdAt"] for group in comment["reactionGroups"] or ())


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
    """A copy. GitHub has null for an author whose account was deleted, which becomes null in each of its columns."""
    return node | {"author": node.get("author") or {}}


def _reactions(connection: Node) -> Node:
    reactions = [reaction or {} for reaction in connection["nodes"]]
    return {
        "reactions_totalCount": connection["totalCount"],
        "reactions": [reaction | {"user": reaction.get("user") or {}} for reaction in reactions],
    }


def _stargazer_rows(api: GraphQL, stars: list[Node]) -> list[Node]:
    return [api.names | {"starredAt": star["starredAt"], "user": star["node"]} for star in stars]


def _number(row: Node) -> str:
    return str(row["number"])


def _login(row: Node) -> str:
    return str(row["user"]["login"])


ISSUES = Stream(helpers.ISSUES, "updatedAt", True, _thread_rows, _number)
PULL_REQUESTS = Stream(helpers.PULL_REQUESTS, "updatedAt", False, _thread_rows, _number)
STARGAZERS = Stream(helpers.STARGAZERS, "starredAt", False, _stargazer_rows, _login)


def read_events(owner: str, name: str, access_token: str | None, full_reload: bool) -> Iterator[Any]:
    """Pages of the events that are not loaded yet.

    Events appear late, so their times do not tell which are new. But the list is short: the state has the ids of all
    its events, by page, and each page's ETag. Every page is requested, as a late event may change only the last one;
    an unchanged page (304) does not count against the rate limit.
    """
    names = {"repository_owner": owner, "repository_name": name}
    state = dlt.current.resource_state()
    saved: list[Node] = [] if full_reload else state.get(f"{owner}/{name}", [])
    loaded = {event_id for page in saved for event_id in page["ids"]}
    pages: list[Node] = []
    client = rest_client(access_token)
    for index in count():
        known = saved[index] if index < len(saved) else {"etag": None, "ids": []}
        response = client.get(
            f"repos/{owner}/{name}/events",
            params={"per_page": 100, "page": index + 1},
            headers={"If-None-Match": known["etag"]} if known["etag"] else {},
        )
        if response.status_code == 304:
            pages.append(known)
            has_next = len(pages) < len(saved)
        else:
            events = [event for event in GITHUB.body(response) if event]
            pages.append({"etag": response.headers.get("ETag"), "ids": [event["id"] for event in events]})
            if rows := [_without_nulls(event) | names for event in events if event["id"] not in loaded]:
                yield rows
            has_next = "next" in response.links
        if not has_next:
            break
    state[f"{owner}/{name}"] = pages


def _without_nulls(value: Any) -> Any:
    """Payloads are full of nulls: for each, dlt would warn that a column has no type."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
