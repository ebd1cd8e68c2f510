"""Paging as Relay describes it. A cursor names a place in the order and not an offset, so that rows which
come and go between two pages shift nothing."""

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
    """A row and its place; `row` is what it was made from (a star has a date, its node is a user)."""

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
    """One page of a connection and how many rows there are in all."""

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
    """The cursor of a place in an order."""
    return base64.b64encode(json.dumps([order, *key], separators=(",", ":")).encode()).decode()


def decode(cursor: str, order: str) -> Key:
    """The place that a cursor names. Raises GraphQLError for a text that is no cursor of this order."""
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
    """The page of `rows` (ascending by `key`) that is asked for. `order` names the order in the cursors."""
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
