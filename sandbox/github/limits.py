"""GitHub's limits: a query's cost, its size, and the primary rate limit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from graphql import (
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLSchema,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
    Undefined,
    get_named_type,
    value_from_ast_untyped,
)

from sandbox.limits import Budget

MAX_PAGE = 100
MAX_NODES = 500_000


@dataclass
class Analysis:
    """What a query requests: at most so many `nodes`, in so many inner `requests`. `page` is the largest `first` or
    `last` of its outermost connections."""

    nodes: int = 0
    requests: int = 0
    page: int = 0
    error: GraphQLError | None = None

    @property
    def cost(self) -> int:
        """Points of the hourly limit: a hundredth of the inner requests, at least one."""
        return max(1, math.floor(self.requests / 100 + 0.5))


class Analyst:
    """Walks an operation and counts its connections, each as often as its parents can occur."""

    def __init__(
        self,
        schema: GraphQLSchema,
        fragments: Mapping[str, FragmentDefinitionNode],
        variables: dict[str, Any],
    ) -> None:
        self.schema, self.fragments, self.variables = schema, fragments, variables
        self.found = Analysis()

    def run(self, operation: OperationDefinitionNode) -> Analysis:
        """The analysis of a validated operation; `error` is the first limit that it exceeds."""
        self._walk(operation.selection_set, self.schema.query_type, 1, [], outer=True)
        if self.found.nodes > MAX_NODES and self.found.error is None:
            self._fail(
                "MAX_NODE_LIMIT_EXCEEDED",
                f"This query requests up to {self.found.nodes:,} possible nodes "
                f"which exceeds the maximum limit of {MAX_NODES:,}.",
            )
        return self.found

    def _fields(self, selections: SelectionSetNode, parent: Any) -> Iterator[tuple[FieldNode, Any]]:
        """The fields of a selection, each with its parent type; fragments are resolved."""
        for selection in selections.selections:
            if isinstance(selection, FieldNode):
                yield selection, parent
            elif isinstance(selection, FragmentSpreadNode):
                fragment = self.fragments[selection.name.value]
                yield from self._fields(
                    fragment.selection_set, self.schema.type_map[fragment.type_condition.name.value]
                )
            elif isinstance(selection, InlineFragmentNode):
                condition = selection.type_condition
                on = self.schema.type_map[condition.name.value] if condition else parent
                yield from self._fields(selection.selection_set, on)

    def _walk(self, selections: SelectionSetNode, parent: Any, times: int, path: list[str], *, outer: bool) -> None:
        for node, on in self._fields(selections, parent):
            definition = getattr(on, "fields", {}).get(node.name.value)
            if definition is None or node.selection_set is None:
                continue
            returned = get_named_type(definition.type)
            here = [*path, node.alias.value if node.alias else node.name.value]
            if on is self.schema.query_type and node.name.value == "nodes":
                ids = self._argument(node, "ids")
                self._walk(node.selection_set, returned, times * len(ids or ()), here, outer=outer)
            elif returned.name.endswith("Connection"):
                inner = self._connection(node, times, here, outer=outer)
                self._walk(node.selection_set, returned, inner, here, outer=False)
            else:
                self._walk(node.selection_set, returned, times, here, outer=outer)

    def _connection(self, node: FieldNode, times: int, path: list[str], *, outer: bool) -> int:
        """Count one connection; returns how often its contents can occur."""
        name, first, last = node.name.value, self._argument(node, "first"), self._argument(node, "last")
        of = f"the `{name}` connection"
        if first is None and last is None:
            assert node.selection_set is not None
            chosen = {field.name.value for field, _ in self._fields(node.selection_set, None)}
            if chosen & {"nodes", "edges", "pageInfo"}:
                message = f"You must provide a `first` or `last` value to properly paginate {of}."
                self._fail("MISSING_PAGINATION_BOUNDARIES", message, node, path)
            return 0
        if first is not None and last is not None:
            message = f"Passing both `first` and `last` to paginate {of} is not supported."
            self._fail("INVALID_PAGINATION_BOUNDARIES", message, node, path)
        which, count = ("first", first) if first is not None else ("last", last)
        if count > MAX_PAGE:
            message = f"Requesting {count} records on {of} exceeds the `{which}` limit of {MAX_PAGE} records."
            self._fail("EXCESSIVE_PAGINATION", message, node, path)
        if count < 0:
            message = f"`{which}` on {of} cannot be less than zero."
            self._fail("INVALID_PAGINATION_BOUNDARIES", message, node, path)
            count = 0
        self.found.requests += times
        self.found.nodes += times * count
        if outer:
            self.found.page = max(self.found.page, count)
        return int(times * count)

    def _argument(self, node: FieldNode, name: str) -> Any:
        """The value of an argument, with variables resolved; None if it is absent."""
        for argument in node.arguments:
            if argument.name.value == name:
                value = value_from_ast_untyped(argument.value, self.variables)
                return None if value is Undefined else value
        return None

    def _fail(self, kind: str, message: str, node: FieldNode | None = None, path: list[str] | None = None) -> None:
        if self.found.error is None:
            self.found.error = GraphQLError(message, node, path=path, extensions={"type": kind})


@dataclass
class PrimaryLimit(Budget):
    """The primary rate limit of one of GitHub's resources."""

    resource: str = ""

    def headers(self) -> dict[str, str]:
        """The headers `x-ratelimit-*`."""
        return {
            "x-ratelimit-limit": str(self.limit),
            "x-ratelimit-remaining": str(self.remaining),
            "x-ratelimit-used": str(self.used),
            "x-ratelimit-reset": str(self.reset),
            "x-ratelimit-resource": self.resource,
        }

    def overview(self) -> dict[str, int]:
        """`rate-limit` of the REST API's description."""
        self.refresh()
        return {"limit": self.limit, "used": self.used, "remaining": self.remaining, "reset": self.reset}
