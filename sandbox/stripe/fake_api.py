"""The fake Stripe API: keys, API version, rate limit, lists, and Stripe's error messages."""

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
from starlette.types import Receive, Scope, Send

from sandbox.arguments import check_sizes
from sandbox.control import endpoint
from sandbox.fake_api import Call, FakeApi, Fault, Settings
from sandbox.stripe.shapes import Object, serialize
from sandbox.stripe.store import VERSION, Account, Size, Store

MAX_PAGE = 100
LINES = re.compile(r"invoices/(\w+)/lines")
COMPARE: dict[str, Callable[[int, int], bool]] = {
    "created": operator.eq,
    "created[gt]": operator.gt,
    "created[gte]": operator.ge,
    "created[lt]": operator.lt,
    "created[lte]": operator.le,
}
# Fields by which a list can be filtered.
FILTERS = {
    "events": ("type",),
    "invoices": ("customer", "status"),
    "subscription_items": ("subscription",),
    "subscriptions": ("customer", "status"),
}


class RefusedError(Exception):
    """A request that is rejected with this status and `error`."""

    def __init__(self, status: int, message: str, **details: str) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, "type": "invalid_request_error"} | details


FAULTS = {
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


class FakeStripe(FakeApi):
    name = "stripe"
    fault_kinds: Sequence[str] = tuple(FAULTS)

    def __init__(self, token: str, seed: int) -> None:
        self.store = Store(token, seed)
        self.configure(Settings())
        self.control = [endpoint("/accounts", self._create), endpoint("/changes", self._change)]

    def configure(self, settings: Settings) -> None:
        self.per_second, self._second, self._taken = settings.stripe_requests_per_second, 0, 0

    def reset(self) -> None:
        self.store.reset()

    def fault_response(self, fault: Fault, call: Call) -> Response:
        """The rate limit, or an object that another request has locked."""
        return refusal(FAULTS[fault.kind], call)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the key, the limit and the version, then return the object or the list that the path names."""
        request, call = Request(scope, receive), scope["sandbox.call"]
        try:
            account = self._account(request)
            content = content_of(account, request)
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
            raise FAULTS["stripe_rate_limit"]
        version = request.headers.get("stripe-version", "")
        if version != VERSION:  # without a version, Stripe would take the account's default
            raise RefusedError(400, f"Invalid Stripe API version: {version!r}. The sandbox supports only {VERSION}.")
        return account

    def _create(self, arguments: dict[str, Any]) -> Any:
        key = arguments.pop("key", None)
        known = [field.name for field in fields(Size) if field.type == "int"]
        if not isinstance(key, str) or not key.startswith(f"{self.store.token}-"):
            raise ValueError(f"key must begin with {self.store.token}-")
        check_sizes(arguments, known, 100_000)
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


def content_of(account: Account, request: Request) -> Object:
    """The object or the page of a list at the request's path. Raises RefusedError."""
    path = request.url.path.removeprefix(request.scope["root_path"])
    resource, _, id = path.removeprefix("/v1/").partition("/")
    lines = LINES.fullmatch(path.removeprefix("/v1/"))
    if not path.startswith("/v1/") or resource not in account.rows or ("/" in id and not lines):
        raise RefusedError(404, f"Unrecognized request URL ({request.method}: {path}).")
    if request.method != "GET":
        raise RefusedError(405, f"The sandbox is read only and does not support {request.method}.")
    found = account.find(resource, lines[1] if lines else id) if id else None
    if id and found is None:
        message = f"No such {resource.removesuffix('s')}: '{lines[1] if lines else id}'"
        raise RefusedError(404, message, code="resource_missing", param="id")
    if lines and found:
        return page(found["lines"]["data"], "line_item", path, dict(request.query_params))
    if found:
        return serialize(found)
    params = dict(request.query_params)
    rows = account.rows[resource]
    for name in FILTERS.get(resource, ()):
        value = params.pop(name, None)
        if value and value != "all":
            rows = [row for row in rows if row[name] == value]
        elif resource == "subscriptions" and name == "status" and not value:  # by default Stripe omits cancelled ones
            rows = [row for row in rows if row["status"] != "canceled"]
    # Subscription items are in their own order, everything else is newest first.
    return page(rows if resource == "subscription_items" else rows[::-1], resource.removesuffix("s"), path, params)


def page(rows: list[Object], kind: str, path: str, params: dict[str, str]) -> Object:
    """A page of a list."""
    limit = whole_number(params, "limit", 10)
    if not 1 <= limit <= MAX_PAGE:
        message = f"This value must be between 1 and {MAX_PAGE}."
        raise RefusedError(400, message, code="parameter_invalid_integer", param="limit")
    after, before = (params.pop(name, None) for name in ("starting_after", "ending_before"))
    params.pop("limit", None)
    dated = COMPARE if kind != "line_item" else {}
    bounds = [(dated[name], whole_number(params, name, 0)) for name in params if name in dated]
    if unknown := [name for name in params if name not in dated]:
        message = f"Received unknown parameter: {unknown[0]}"
        raise RefusedError(400, message, code="parameter_unknown", param=unknown[0])
    start = position(rows, kind, "starting_after", after) + 1 if after else 0
    end = position(rows, kind, "ending_before", before) if before else len(rows)
    found = [row for row in rows[start:end] if all(compare(row["created"], bound) for compare, bound in bounds)]
    data = [serialize(row) for row in (found[-limit:] if before else found[:limit])]
    return {"object": "list", "data": data, "has_more": len(found) > limit, "url": path}


def position(rows: list[Object], kind: str, param: str, id: str) -> int:
    for number, row in enumerate(rows):
        if row["id"] == id:
            return number
    raise RefusedError(400, f"No such {kind}: '{id}'", code="resource_missing", param=param)


def whole_number(params: dict[str, str], name: str, default: int) -> int:
    text = params.get(name, str(default))
    if not re.fullmatch(r"-?\d+", text, re.ASCII):
        raise RefusedError(400, f"Invalid integer: {text}", code="parameter_invalid_integer", param=name)
    return int(text)


def json_response(content: Any, call: Call, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON with the headers that every response has."""
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    every = {"request-id": f"req_sandbox{call.number:06}", "stripe-version": VERSION}
    return Response(body, status, every | (headers or {}), media_type="application/json")


def refusal(error: RefusedError, call: Call) -> Response:
    reason = {"stripe-rate-limited-reason": "global-rate"} if error.status == 429 else None
    return json_response({"error": error.error}, call, error.status, reason)
