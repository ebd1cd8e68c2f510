"""Paging as the Relay specification defines it. A cursor is a sort key and not an offset, so that rows added or
removed between two pages move no other row."""

from __future__ import annotations

import base64
import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from graphql import GraphQLError

Key = tuple[Any, ...]


@dataclass(slots=True)
class Edge:
    """A row and its sort key. `row` is what `node` was taken from: for a star, which has a date, `node` is the user."""

    node: Any
    row: Any
    key: Key
    order: str

    @property
    def cursor(self) -> str:
        return encode(self.order, self.key)


@dataclass(slots=True)
class PageInfo:
    """The fields of GitHub's `PageInfo`."""

    has_next_page: bool
    has_previous_page: bool
    start_cursor: str | None
    end_cursor: str | None


@dataclass(slots=True)
class Connection:
    """A page of a connection, and the total number of rows."""

    edges: list[Edge]
    total_count: int
    has_next: bool
    has_previous: bool

    @property
    def nodes(self) -> list[Any]:
        return [edge.node for edge in self.edges]

    @property
    def page_info(self) -> PageInfo:
        start = self.edges[0].cursor if self.edges else None
        end = self.edges[-1].cursor if self.edges else None
        return PageInfo(self.has_next, self.has_previous, start, end)


def encode(order: str, key: Key) -> str:
    """The cursor for a sort key of an order."""
    return base64.b64encode(json.dumps([order, *key], separators=(",", ":")).encode()).decode()


def decode(cursor: str, order: str) -> Key:
    """The sort key in a cursor. Raises GraphQLError if the text is not a cursor of this order."""
    try:
        found, *key = json.loads(base64.b64decode(cursor, validate=True))
    except (ValueError, TypeError):
        found, key = None, []
    if found != order:
        message = f"`{cursor}` does not appear to be a valid cursor."
        raise GraphQLError(message, extensions={"type": "INVALID_CURSOR_ARGUMENTS"})
    return tuple(key)


def page(
    rows: Sequence[Any],
    key: Callable[[Any], Key],
    order: str,
    *,
    node: Callable[[Any], Any] | None = None,
    first: int | None = None,
    last: int | None = None,
    after: str | None = None,
    before: str | None = None,
    descending: bool = False,
) -> Connection:
    """The requested page of `rows`, which are ascending by `key`. `order` is the order's name in the cursors."""
    low, high = 0, len(rows)
    if after is not None:
        place = decode(after, order)
        if descending:
            high = bisect_left(rows, place, key=key)
        else:
            low = bisect_right(rows, place, key=key)
    if before is not None:
        place = decode(before, order)
        if descending:
            low = max(low, bisect_right(rows, place, key=key))
        else:
            high = min(high, bisect_left(rows, place, key=key))
    high = max(low, high)
    from_low_end = (first is not None) != descending
    count = first if first is not None else last
    if count is not None and count < high - low:
        low, high = (low, low + count) if from_low_end else (high - count, high)
    window = rows[low:high]
    edges = [Edge(node(row) if node else row, row, key(row), order) for row in window]
    below, above = low > 0, high < len(rows)
    if descending:
        edges.reverse()
        below, above = above, below
    return Connection(edges, len(rows), above, below)
