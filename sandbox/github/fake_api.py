"""The fake GitHub API: authentication, rate limits, routes, and faults that only GitHub has."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, Router
from starlette.types import Message, Receive, Scope, Send

from sandbox.arguments import check_sizes
from sandbox.control import endpoint
from sandbox.fake_api import Call, FakeApi, Fault, Settings
from sandbox.github.generate import Size
from sandbox.github.graphql_api import GraphQL, Query
from sandbox.github.limits import PrimaryLimit
from sandbox.github.rest import DOCUMENTATION, RefusedError, Rest
from sandbox.github.store import VIEWER, Store
from sandbox.limits import Rolling

TIMEOUT = (
    "Something went wrong while executing your query. This may be the result of a timeout, or it could be "
    "a GitHub bug. Please include `SANDBOX` when reporting this issue."
)
SECONDARY = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
PRIMARY = f"API rate limit exceeded for user ID {VIEWER.database_id}."
MESSAGES = {
    "RATE_LIMITED": PRIMARY,
    "NOT_FOUND": "Could not resolve to a Repository with the name 'sandbox/handbook'.",
    "FORBIDDEN": "Resource not accessible by personal access token",
    "TIMEOUT": TIMEOUT,
}


class FakeGitHub(FakeApi):
    name = "github"
    fault_kinds: Sequence[str] = ("heavy_page", "secondary_limit", "primary_limit", "graphql_error", "null_node")

    def __init__(self, token: str, seed: int, archives: Sequence[Path]) -> None:
        self.token = token
        self.store = Store(seed, archives)
        self.graphql = GraphQL(self.store)
        self.configure(Settings())
        rest = Rest(self.store, lambda: (self.core, self.points)).routes
        graphql = [Route(path, self._graphql, methods=["POST"]) for path in ("/graphql", "/api/graphql")]
        self.router = Router([*graphql, Mount("/api/v3", routes=rest), *rest], redirect_slashes=False)
        self.control = [endpoint("/repositories", self._create), endpoint("/changes", self._change)]

    def configure(self, settings: Settings) -> None:
        self.points = PrimaryLimit(settings.graphql_points, settings.window_seconds, resource="graphql")
        self.core = PrimaryLimit(settings.rest_requests, settings.window_seconds, resource="core")
        self.points_per_minute = Rolling(settings.graphql_points_per_minute, 60)
        self.requests_per_minute = Rolling(settings.rest_requests_per_minute, 60)

    def reset(self) -> None:
        self.store.reset()

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the token and the limits, run the route, and add the headers that every response has."""
        request = Request(scope, receive)
        call: Call = scope["sandbox.call"]
        asks_graphql = call.details is not None
        budget = self.points if asks_graphql else self.core
        free = call.path.endswith("/rate_limit")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] == 304:
                    budget.used -= 1
                extra = budget.headers() | {"x-github-request-id": request_id(call)}
                message["headers"] += [(name.encode(), value.encode()) for name, value in extra.items()]
            await send(message)

        refusal = self._refuse(request, asks_graphql, free)
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
            return
        try:
            await self.router(scope, receive, send_with_headers)
        except RefusedError as error:
            await problem(error.status, error.message)(scope, receive, send_with_headers)
        except HTTPException as error:
            await problem(error.status_code, error.detail)(scope, receive, send_with_headers)

    def _refuse(self, request: Request, asks_graphql: bool, free: bool) -> Response | None:
        (self.points if asks_graphql else self.core).refresh()
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() not in ("bearer", "token") or token.strip() != self.token:
            return problem(401, "Bad credentials")
        per_minute = self.points_per_minute if asks_graphql else self.requests_per_minute
        if not free and not per_minute.take():
            return problem(403, SECONDARY, {"retry-after": str(per_minute.wait())})
        if not (asks_graphql or free) and not self.core.take(1):
            return problem(403, PRIMARY)
        return None

    async def _graphql(self, request: Request) -> Response:
        query: Query = request.scope["sandbox.call"].details
        if query.problem:
            return problem(400, query.problem)
        return json_response(self.graphql.execute(query, self.points))

    def inspect(self, call: Call) -> None:
        """For GraphQL: the operation's name, its cost, and how many rows it requests."""
        if call.method != "POST" or not call.path.endswith("/graphql"):
            return
        query = self.graphql.parse_request(call.body)
        call.details, call.operation = query, query.operation
        if query.analysis:
            call.cost, call.nodes = query.analysis.cost, query.analysis.nodes
            call.page = query.analysis.page

    def accepts(self, fault: Fault, call: Call) -> bool:
        """GraphQL faults apply to GraphQL requests only, and `heavy_page` only to those that request too much."""
        if fault.kind in ("secondary_limit", "primary_limit"):
            return True
        if call.details is None:
            return False
        if fault.kind != "heavy_page":
            return True
        page, nodes = fault.options.get("first", math.inf), fault.options.get("nodes", math.inf)
        return page == nodes == math.inf or bool((call.page or 0) > page or (call.nodes or 0) > nodes)

    def fault_response(self, fault: Fault, call: Call) -> Response | None:
        """Rate limits, the timeout of a heavy page, and GraphQL errors, which have status 200."""
        options, headers = fault.options, {"x-github-request-id": request_id(call)}
        budget = self.points if call.details is not None else self.core
        exhausted = budget.headers() | {
            "x-ratelimit-remaining": "0",
            "x-ratelimit-used": str(budget.limit),
            "x-ratelimit-reset": str(math.ceil(time.time() + options.get("seconds", 1))),
        }
        match fault.kind:
            case "heavy_page":
                return json_response({"data": None, "errors": [{"message": TIMEOUT}]}, 502, headers)
            case "secondary_limit":
                retry_after = str(options.get("seconds", 1))
                return problem(403, SECONDARY, headers | budget.headers() | {"retry-after": retry_after})
            case "primary_limit":
                return problem(403, PRIMARY, headers | exhausted)
            case "graphql_error" if not options.get("partial"):
                limited = options.get("type") == "RATE_LIMITED"
                headers |= exhausted if limited else budget.headers()
                return json_response({"data": options.get("data"), "errors": [self._error(options)]}, 200, headers)
        return None

    @staticmethod
    def _error(options: dict[str, Any]) -> dict[str, Any]:
        kind = options.get("type", "TIMEOUT")
        error: dict[str, Any] = {} if kind == "TIMEOUT" else {"type": kind}
        if "path" in options or kind in ("NOT_FOUND", "FORBIDDEN"):
            error["path"] = options.get("path", ["repository"])
        return error | {"message": options.get("message", MESSAGES.get(kind, kind))}

    def alter(self, fault: Fault, body: bytes) -> bytes:
        """Replace a node by null, or add an error to the real data."""
        content = json.loads(body)
        if fault.kind == "null_node":
            put_null(content.get("data"), fault.options.get("connection"), fault.options.get("index", 0))
        elif fault.kind == "graphql_error":
            content.setdefault("errors", []).append(self._error(fault.options))
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()

    def _create(self, arguments: dict[str, Any]) -> Any:
        name = arguments.pop("name", None)
        known = [field.name for field in fields(Size) if field.type == "int"]
        if not isinstance(name, str) or not name.replace("-", "").isalnum():
            raise ValueError("name must consist of letters, digits and hyphens")
        check_sizes(arguments, known, 1_000_000)
        repository = self.store.create(name, Size(**arguments))
        return {"owner": repository.owner.login, "name": repository.name, "id": repository.id}

    def _change(self, arguments: dict[str, Any]) -> Any:
        kind = str(arguments.pop("kind", None))
        return self.store.change(kind, str(arguments.pop("repository", "sandbox/handbook")), arguments)


def request_id(call: Call) -> str:
    """The `x-github-request-id` of a call."""
    return f"SAND:{call.number:08X}"


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Compact JSON in UTF-8."""
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, status, headers, media_type="application/json; charset=utf-8")


def problem(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """An error response of the REST API."""
    body = {"message": message, "documentation_url": DOCUMENTATION, "status": str(status)}
    return JSONResponse(body, status, headers)


def put_null(data: Any, connection: str | None, index: int) -> bool:
    """Replace a node of the first connection (of that name, if given) by null. Returns False if there is none."""
    if isinstance(data, list):
        return any(put_null(item, connection, index) for item in data)
    if not isinstance(data, dict):
        return False
    for name, value in data.items():
        if isinstance(value, dict) and connection in (None, name):
            for rows in (value.get("nodes"), value.get("edges")):
                if rows and index < len(rows):
                    rows[index] = None
                    return True
        if put_null(value, connection, index):
            return True
    return False
