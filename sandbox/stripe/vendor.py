"""Stripe as the server mounts it: who may ask, how often, the lists, and errors as Stripe words them."""

from __future__ import annotations

import base64
import json
import operator
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sandbox.control import endpoint
from sandbox.stripe.shapes import Object, shown
from sandbox.stripe.store import VERSION, Account, Size, Store
from sandbox.traffic import Call, Fault, Settings

MAX_PAGE = 100
LINES = re.compile(r"invoices/(\w+)/lines")
COMPARE: dict[str, Callable[[int, int], bool]] = {
    "created": operator.eq,
    "created[gt]": operator.gt,
    "created[gte]": operator.ge,
    "created[lt]": operator.lt,
    "created[lte]": operator.le,
}
# Fields of an object that its list can be filtered by.
FILTERS = {
    "events": ("type",),
    "invoices": ("customer", "status"),
    "subscription_items": ("subscription",),
    "subscriptions": ("customer", "status"),
}


class RefusedError(Exception):
    """A request that is answered with this status and `error`."""

    def __init__(self, status: int, message: str, **details: str) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, "type": "invalid_request_error"} | details


BUSY = {
    "stripe_rate_limit": RefusedError(
        429,
        "Request rate limit exceeded. Learn more about rate limits here https://stripe.com/docs/rate-limits.",
        code="rate_limit",
    ),
    "stripe_lock_timeout": RefusedError(
        409,
        "This object cannot be accessed right now because another API request or Stripe process is currently "
        "accessing it.",
        code="lock_timeout",
    ),
}


class Stripe:
    """The vendor: its ASGI app, its control routes and its faults."""

    name = "stripe"
    kinds: Sequence[str] = tuple(BUSY)

    def __init__(self, token: str, seed: int) -> None:
        self.store = Store(token, seed)
        self.configure(Settings())
        self.app: ASGIApp = self.serve
        self.control = [endpoint("/accounts", self._create), endpoint("/changes", self._change)]

    def configure(self, settings: Settings) -> None:
        """Begin anew with this limit."""
        self.per_second, self._second, self._taken = settings.stripe_requests_per_second, 0, 0

    def reset(self) -> None:
        """The data as at the start."""
        self.store.reset()

    def describe(self, call: Call) -> None:
        """A request's path says it all."""

    def meets(self, fault: Fault, call: Call) -> bool:
        """Stripe's faults meet any request."""
        return True

    def answer(self, fault: Fault, call: Call) -> Response:
        """Stripe is busy."""
        return refusal(BUSY[fault.kind], call)

    def alter(self, fault: Fault, body: bytes) -> bytes:
        """No fault changes an answer."""
        return body

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Key, version, limit, then the object or the list that the path names."""
        request, call = Request(scope, receive), scope["sandbox.call"]
        try:
            account = self._account(request)
            content = answer(account, request)
            response = json_response(content, call)
        except RefusedError as error:
            response = refusal(error, call)
        await response(scope, receive, send)

    def _account(self, request: Request) -> Account:
        key = key_of(request.headers.get("authorization", ""))
        if not key:
            message = "You did not provide an API key. You need to provide your API key in the Authorization header."
            raise RefusedError(401, message)
        account = self.store.account(key)
        if account is None:
            raise RefusedError(401, f"Invalid API Key provided: {key[:4]}****{key[-4:]}")
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._taken = second, 0
        self._taken += 1
        if self._taken > self.per_second:
            raise BUSY["stripe_rate_limit"]
        version = request.headers.get("stripe-version", "")
        if version != VERSION:  # Stripe would take an account's own version for none
            raise RefusedError(400, f"Invalid Stripe API version: {version!r}. The sandbox has {VERSION} alone.")
        return account

    def _create(self, arguments: dict[str, Any]) -> Any:
        key = arguments.pop("key", None)
        known = [field.name for field in fields(Size) if field.type == "int"]
        if not isinstance(key, str) or not key.startswith(f"{self.store.token}-"):
            raise ValueError(f"key has to be one that begins with {self.store.token}-")
        for name, value in arguments.items():
            if name not in known:
                raise ValueError(f"there is no size {name!r}; known: {', '.join(known)}")
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 100_000:
                raise ValueError(f"{name} has to be a whole number from 0 to 100,000, not {value!r}")
        return {resource: len(rows) for resource, rows in self.store.create(key, Size(**arguments)).rows.items()}

    def _change(self, arguments: dict[str, Any]) -> Any:
        kind = str(arguments.pop("kind", None))
        return self.store.change(kind, str(arguments.pop("key", self.store.token)), arguments)


def key_of(authorization: str) -> str:
    """The secret key: a bearer token, or the user name of basic authentication."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    try:
        return base64.b64decode(value).decode().partition(":")[0] if scheme.lower() == "basic" else ""
    except ValueError:
        return ""


def answer(account: Account, request: Request) -> Object:
    """The object or the page that the address asks for. Raises RefusedError."""
    path = request.url.path.removeprefix(request.scope["root_path"])
    resource, _, id = path.removeprefix("/v1/").partition("/")
    lines = LINES.fullmatch(path.removeprefix("/v1/"))
    if not path.startswith("/v1/") or resource not in account.rows or ("/" in id and not lines):
        raise RefusedError(404, f"Unrecognized request URL ({request.method}: {path}).")
    if request.method != "GET":
        raise RefusedError(405, f"The sandbox is for reading: {request.method} is not what it does.")
    found = account.find(resource, lines[1] if lines else id) if id else None
    if id and found is None:
        message = f"No such {resource.removesuffix('s')}: '{lines[1] if lines else id}'"
        raise RefusedError(404, message, code="resource_missing", param="id")
    if lines and found:
        return page(found["lines"]["data"], "line_item", path, dict(request.query_params))
    if found:
        return shown(found)
    params = dict(request.query_params)
    rows = account.rows[resource]
    for name in FILTERS.get(resource, ()):
        value = params.pop(name, None)
        if value and value != "all":
            rows = [row for row in rows if row[name] == value]
        elif resource == "subscriptions" and name == "status" and not value:  # Stripe's default leaves them out
            rows = [row for row in rows if row["status"] != "canceled"]
    # An invoice's lines and a subscription's items come in their order, all else newest first.
    return page(rows if resource == "subscription_items" else rows[::-1], resource.removesuffix("s"), path, params)


def page(rows: list[Object], kind: str, path: str, params: dict[str, str]) -> Object:
    """A list as Stripe pages it."""
    limit = whole(params, "limit", 10)
    if not 1 <= limit <= MAX_PAGE:
        message = f"This value must be between 1 and {MAX_PAGE}."
        raise RefusedError(400, message, code="parameter_invalid_integer", param="limit")
    after, before = (params.pop(name, None) for name in ("starting_after", "ending_before"))
    params.pop("limit", None)
    dated = COMPARE if kind != "line_item" else {}
    bounds = [(dated[name], whole(params, name, 0)) for name in params if name in dated]
    if unknown := [name for name in params if name not in dated]:
        message = f"Received unknown parameter: {unknown[0]}"
        raise RefusedError(400, message, code="parameter_unknown", param=unknown[0])
    start = place(rows, kind, "starting_after", after) + 1 if after else 0
    end = place(rows, kind, "ending_before", before) if before else len(rows)
    found = [row for row in rows[start:end] if all(compare(row["created"], bound) for compare, bound in bounds)]
    shown_rows = found[-limit:] if before else found[:limit]
    data = [shown(row) for row in shown_rows]
    return {"object": "list", "data": data, "has_more": len(found) > limit, "url": path}


def place(rows: list[Object], kind: str, param: str, id: str) -> int:
    for number, row in enumerate(rows):
        if row["id"] == id:
            return number
    raise RefusedError(400, f"No such {kind}: '{id}'", code="resource_missing", param=param)


def whole(params: dict[str, str], name: str, default: int) -> int:
    text = params.get(name, str(default))
    if not re.fullmatch(r"-?\d+", text, re.ASCII):
        raise RefusedError(400, f"Invalid integer: {text}", code="parameter_invalid_integer", param=name)
    return int(text)


def json_response(content: Any, call: Call, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON as Stripe sends it, with the headers that every answer has."""
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    every = {"request-id": f"req_sandbox{call.number:06}", "stripe-version": VERSION}
    return Response(body, status, every | (headers or {}), media_type="application/json")


def refusal(error: RefusedError, call: Call) -> Response:
    reason = {"stripe-rate-limited-reason": "global-rate"} if error.status == 429 else None
    return json_response({"error": error.error}, call, error.status, reason)
