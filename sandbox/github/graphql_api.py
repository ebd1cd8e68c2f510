"""`POST …/graphql`: parsing, limits, execution, and errors in GitHub's format."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from graphql import (
    DocumentNode,
    FragmentDefinitionNode,
    GraphQLError,
    OperationDefinitionNode,
    execute_sync,
    get_operation_ast,
    parse,
    validate,
)
from graphql.execution.values import get_variable_values

from sandbox.github.limits import Analysis, Analyst, PrimaryLimit
from sandbox.github.model import Actor
from sandbox.github.schema import Execution, executable_schema
from sandbox.github.store import VIEWER, Store

Json = dict[str, Any]
CACHED_DOCUMENTS = 256


@dataclass
class Query:
    """A parsed, validated and analysed request."""

    document: DocumentNode | None = None
    operation: str | None = None
    variables: Json | None = None
    analysis: Analysis | None = None
    errors: tuple[GraphQLError, ...] = ()
    problem: str | None = None  # why the body is not a GraphQL request


@dataclass
class Context:
    """What resolvers have access to."""

    store: Store
    budget: PrimaryLimit
    analysis: Analysis
    viewer: Actor = VIEWER

    def rate_limit(self) -> Any:
        """`Query.rateLimit`, after this query was charged."""
        return RateLimit(
            self.analysis.cost,
            self.budget.limit,
            self.analysis.nodes,
            self.budget.remaining,
            datetime.fromtimestamp(self.budget.reset, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            self.budget.used,
        )


@dataclass
class RateLimit:
    """GitHub's `RateLimit`."""

    cost: int
    limit: int
    node_count: int
    remaining: int
    reset_at: str
    used: int


class GraphQL:
    """Parses and executes GraphQL requests; caches validated documents."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.schema = executable_schema()
        self._documents: OrderedDict[str, tuple[DocumentNode | None, tuple[GraphQLError, ...]]] = OrderedDict()

    def _document(self, text: str) -> tuple[DocumentNode | None, tuple[GraphQLError, ...]]:
        if text in self._documents:
            self._documents.move_to_end(text)
            return self._documents[text]
        try:
            document = parse(text)
            found = document, tuple(validate(self.schema, document))
        except GraphQLError as error:
            found = None, (error,)  # type: ignore[assignment]
        self._documents[text] = found
        if len(self._documents) > CACHED_DOCUMENTS:
            self._documents.popitem(last=False)
        return found

    def parse_request(self, body: bytes) -> Query:
        """Parse, validate and analyse a request. Never raises: errors are in the result."""
        try:
            request = json.loads(body)
        except ValueError:
            return Query(problem="Problems parsing JSON")
        if not isinstance(request, dict) or not isinstance(request.get("query"), str):
            return Query(problem="A query attribute must be specified and must be a string.")
        document, errors = self._document(request["query"])
        if document is None or errors:
            return Query(errors=errors)
        name = request.get("operationName")
        operation = get_operation_ast(document, name)
        if operation is None:
            return Query(errors=(GraphQLError("An operation name is required to choose one of the operations."),))
        return self._analyse(document, operation, request.get("variables") or {}, name)

    def _analyse(
        self, document: DocumentNode, operation: OperationDefinitionNode, variables: Json, name: str | None
    ) -> Query:
        coerced = get_variable_values(self.schema, operation.variable_definitions, variables)
        operation_name = operation.name.value if operation.name else None
        if isinstance(coerced, list):
            return Query(operation=operation_name, errors=tuple(coerced))
        fragments = {
            definition.name.value: definition
            for definition in document.definitions
            if isinstance(definition, FragmentDefinitionNode)
        }
        analysis = Analyst(self.schema, fragments, coerced).run(operation)
        errors = (analysis.error,) if analysis.error else ()
        return Query(document, operation_name, variables, analysis, errors)

    def execute(self, query: Query, budget: PrimaryLimit) -> Json:
        """The response to a parsed request. Charges the budget; if it is exhausted, the response is RATE_LIMITED."""
        budget.refresh()
        if query.errors or query.document is None or query.analysis is None:
            answer: Json = {"data": None} if query.analysis else {}
            return answer | {"errors": [formatted(error) for error in query.errors]}
        if not budget.take(query.analysis.cost):
            message = f"API rate limit exceeded for user ID {VIEWER.database_id}."
            return {"errors": [{"type": "RATE_LIMITED", "code": "graphql_rate_limit", "message": message}]}
        result = execute_sync(
            self.schema,
            query.document,
            context_value=Context(self.store, budget, query.analysis),
            variable_values=query.variables,
            operation_name=query.operation,
            execution_context_class=Execution,
        )
        answer = {"data": result.data}
        if result.errors:
            answer["errors"] = [formatted(error) for error in result.errors]
        return answer


def formatted(error: GraphQLError) -> Json:
    """An error in GitHub's format: the type is beside the message and not in `extensions`."""
    shape: Json = {}
    if error.extensions and "type" in error.extensions:
        shape["type"] = error.extensions["type"]
    if error.path:
        shape["path"] = error.path
    if error.locations:
        shape["locations"] = [{"line": place.line, "column": place.column} for place in error.locations]
    return shape | {"message": error.message}
