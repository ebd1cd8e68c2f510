"""HubSpot as the server mounts it: its addresses, who may ask and how often, and the faults that are its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sandbox.control import endpoint
from sandbox.hubspot.properties import ASSOCIATED, DEFAULTS, KINDS, SINGULAR
from sandbox.hubspot.search import RefusedError, search, shown
from sandbox.hubspot.store import Record, Store, text
from sandbox.limits import Rolling
from sandbox.traffic import Call, Fault, Settings

MAX_LIST, MAX_LIST_WITH_HISTORY, MAX_OWNERS = 100, 50, 500
MAX_ASSOCIATION_INPUTS = 1_000
ASSOCIATIONS_IN_A_LIST, ASSOCIATIONS_IN_A_BATCH = 100, 500
MAX_URL = 8_000
POLICIES = {"TEN_SECONDLY_ROLLING": "ten_secondly_rolling", "SECONDLY": "secondly", "DAILY": "daily"}
DAILY = 500_000


class HubSpot:
    """The vendor: its ASGI app, its control routes and its faults."""

    name = "hubspot"
    kinds: Sequence[str] = ("hubspot_limit", "hubspot_scope")

    def __init__(self, token: str, seed: int) -> None:
        self.token = token
        self.store = Store(seed)
        self.configure(Settings())
        self.router = Router(
            [
                Route("/crm/v3/objects/{kind}", self._list),
                Route("/crm/v3/objects/{kind}/search", self._search, methods=["POST"]),
                Route("/crm/v3/objects/{kind}/batch/read", self._batch, methods=["POST"]),
                Route("/crm/v4/associations/{kind}/{to}/batch/read", self._associations, methods=["POST"]),
                Route("/crm/v3/properties/{kind}", self._properties),
                Route("/crm/v3/pipelines/{kind}", self._pipelines),
                Route("/crm/v3/owners", self._owners),
            ],
            redirect_slashes=False,
        )
        self.app: ASGIApp = self.serve
        self.control = [endpoint("/account", self._fill), endpoint("/changes", self._change)]

    def configure(self, settings: Settings) -> None:
        """Begin anew with these limits."""
        self.rolling = Policy(settings.hubspot_requests, settings.hubspot_window_seconds, name="TEN_SECONDLY_ROLLING")
        self.secondly = Policy(settings.hubspot_searches_per_second, 1, name="SECONDLY")

    def reset(self) -> None:
        """The data as at the start."""
        self.store.reset()

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Token, limits, the routes, and the headers that every answer but the search's has."""
        call: Call = scope["sandbox.call"]
        searches = call.path.endswith("/search")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start" and not searches:
                extra = self.rolling.headers()
                message["headers"] += [(name.encode(), value.encode()) for name, value in extra.items()]
            await send(message)

        try:
            self._admit(Request(scope), call, searches)
            await self.router(scope, receive, send_with_headers)
            return
        except LimitReached as error:
            refusal = limit_reached(error.policy, call)
        except RefusedError as error:
            refusal = problem(error.status, error.category, error.message, call)
        except HTTPException as error:
            refusal = problem(error.status_code, "OBJECT_NOT_FOUND", error.detail, call)
        except (KeyError, TypeError, ValueError) as error:
            refusal = problem(400, "VALIDATION_ERROR", f"Invalid input: {error!r}", call)
        await refusal(scope, receive, send_with_headers)

    def _admit(self, request: Request, call: Call, searches: bool) -> None:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            message = "Authentication credentials not found. This API supports OAuth 2.0 authentication."
            raise RefusedError(message, 401, "INVALID_AUTHENTICATION")
        if len(call.path) + len(call.query) > MAX_URL:
            raise RefusedError("The URI is too long", 414, "URI_TOO_LONG")
        for limit in [self.rolling, self.secondly] if searches else [self.rolling]:
            if not limit.take():
                raise LimitReached(limit.name)

    async def _list(self, request: Request) -> Response:
        kind, query = known(request.path_params["kind"]), request.query_params
        history = names(query.getlist("propertiesWithHistory"))
        most = MAX_LIST_WITH_HISTORY if history else MAX_LIST
        limit = int(query.get("limit", 10))
        if not 0 < limit <= most:
            raise RefusedError(f"limit has to be from 1 to {most}, not {limit}")
        archived, after = query.get("archived") == "true", int(query.get("after", 0))
        records = [
            record
            for record in self.store.records[kind].values()
            if bool(record.archived_at) is archived and int(record.id) > after
        ]
        to = [known(name) for name in names(query.getlist("associations"))]
        wanted = names(query.getlist("properties"))
        rows = []
        for record in records[:limit]:
            row = self._shown(record, wanted, history)
            found = {other: self._page_of_links(record, other) for other in to}
            if any(page["results"] for page in found.values()):
                row["associations"] = {other: page for other, page in found.items() if page["results"]}
            rows.append(row)
        return JSONResponse(page(rows, len(records) > limit, request))

    def _page_of_links(self, record: Record, other: str) -> dict[str, Any]:
        ids = self.store.linked(record, other)
        link = f"{SINGULAR[record.kind]}_to_{SINGULAR[other]}"
        shown = [{"id": id_, "type": type_} for id_ in ids[:ASSOCIATIONS_IN_A_LIST] for type_ in types(link)]
        more = len(ids) > ASSOCIATIONS_IN_A_LIST
        return {"results": shown} | ({"paging": {"next": {"after": ids[ASSOCIATIONS_IN_A_LIST]}}} if more else {})

    async def _search(self, request: Request) -> Response:
        body = await request.body()
        return JSONResponse(search(self.store, known(request.path_params["kind"]), json.loads(body), len(body)))

    async def _batch(self, request: Request) -> Response:
        kind, body = known(request.path_params["kind"]), await request.json()
        history, inputs = body.get("propertiesWithHistory") or [], [str(one["id"]) for one in body["inputs"]]
        most = MAX_LIST_WITH_HISTORY if history else MAX_LIST
        if not 0 < len(inputs) <= most:
            raise RefusedError(f"inputs have to be from 1 to {most}, not {len(inputs)}")
        archived = request.query_params.get("archived") == "true"
        records = [self.store.records[kind].get(id_) for id_ in inputs]
        rows = [
            self._shown(record, body.get("properties") or [], history)
            for record in records
            if record and bool(record.archived_at) is archived
        ]
        missing = [id_ for id_ in inputs if id_ not in {row["id"] for row in rows}]
        errors = [standard_error("OBJECT_NOT_FOUND", "Could not get some objects", {"ids": missing})] if missing else []
        return batch(rows, errors)

    async def _associations(self, request: Request) -> Response:
        kind, to = known(request.path_params["kind"]), known(request.path_params["to"])
        inputs = (await request.json())["inputs"]
        if to not in ASSOCIATED[kind]:
            raise RefusedError(f"{kind} are not associated with {to}")
        if not 0 < len(inputs) <= MAX_ASSOCIATION_INPUTS:
            raise RefusedError(f"inputs have to be from 1 to {MAX_ASSOCIATION_INPUTS}, not {len(inputs)}")
        rows, without = [], []
        for one in inputs:
            record = self.store.records[kind].get(str(one["id"]))
            ids = self.store.linked(record, to) if record else []
            if not ids:
                without.append(str(one["id"]))
                continue
            start = int(one.get("after") or 0)
            end = start + ASSOCIATIONS_IN_A_BATCH
            association = [{"category": "HUBSPOT_DEFINED", "typeId": 4, "label": None}]
            links = [{"toObjectId": int(id_), "associationTypes": association} for id_ in ids[start:end]]
            more = {"paging": {"next": {"after": str(end), "link": "deprecated"}}} if end < len(ids) else {}
            rows.append({"from": {"id": str(one["id"])}, "to": links} | more)
        message = f"No {SINGULAR[to]} is associated with {SINGULAR[kind]} "
        errors = [
            standard_error("OBJECT_NOT_FOUND", message + id_, {"fromObjectId": [id_]})
            | {"subCategory": "crm.associations.NO_ASSOCIATIONS_FOUND"}
            for id_ in without
        ]
        return batch(rows, errors)

    async def _properties(self, request: Request) -> Response:
        kind = known(request.path_params["kind"])
        return JSONResponse({"results": list(self.store.definitions[kind].values())})

    async def _pipelines(self, request: Request) -> Response:
        return JSONResponse({"results": self.store.pipelines.get(request.path_params["kind"], [])})

    async def _owners(self, request: Request) -> Response:
        query = request.query_params
        limit = int(query.get("limit", 100))
        if not 0 < limit <= MAX_OWNERS:
            raise RefusedError(f"limit has to be from 1 to {MAX_OWNERS}, not {limit}")
        archived, after = query.get("archived") == "true", int(query.get("after", 0))
        owners = [one for one in self.store.owners if one["archived"] is archived and int(one["id"]) > after]
        return JSONResponse(page(owners[:limit], len(owners) > limit, request))

    def _shown(self, record: Record, wanted: list[str], history: list[str]) -> dict[str, Any]:
        asked = [*(wanted or DEFAULTS[record.kind]), *history, "hs_object_id"]
        row: dict[str, Any] = {
            "id": record.id,
            "properties": shown(record.properties, asked, self.store, record.kind),
            "createdAt": record.created_at,
            "updatedAt": record.updated_at,
            "archived": bool(record.archived_at),
        }
        if record.archived_at:
            row["archivedAt"] = record.archived_at
        if history:
            row["propertiesWithHistory"] = {name: record.history[name] for name in history if name in record.history}
        return row

    def describe(self, call: Call) -> None:
        """Nothing: the path says it all."""

    def meets(self, fault: Fault, call: Call) -> bool:
        """HubSpot's faults meet every request."""
        return True

    def answer(self, fault: Fault, call: Call) -> Response | None:
        """A limit, or a scope that the token lacks."""
        if fault.kind == "hubspot_limit":
            return limit_reached(fault.options.get("policy", "TEN_SECONDLY_ROLLING"), call)
        scope = fault.options.get("scope", "crm.objects.companies.read")
        error = {"message": f"One or more of the following scopes are required: {scope}"}
        message = "This app hasn't been granted all required scopes to make this call."
        return problem(403, "MISSING_SCOPES", message, call, [error | {"context": {"requiredGranularScopes": [scope]}}])

    def alter(self, fault: Fault, body: bytes) -> bytes:
        """No fault of HubSpot's own changes a body."""
        return body

    def _fill(self, sizes: dict[str, Any]) -> Any:
        for kind, size in sizes.items():
            known(kind, ValueError)
            if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= 100_000:
                raise ValueError(f"{kind} has to be a whole number from 0 to 100,000, not {size!r}")
        self.store.fill(sizes)
        return {kind: len(records) for kind, records in self.store.records.items()}

    def _change(self, arguments: dict[str, Any]) -> Any:
        return self.store.change(str(arguments.pop("kind", None)), arguments)


class LimitReached(Exception):
    """There were too many requests of late."""

    def __init__(self, policy: str) -> None:
        super().__init__(policy)
        self.policy = policy


@dataclass
class Policy(Rolling):
    """A limit with the name that HubSpot calls it by."""

    name: str = ""

    def headers(self) -> dict[str, str]:
        """HubSpot's `x-hubspot-ratelimit-*`."""
        return {
            "x-hubspot-ratelimit-daily": str(DAILY),
            "x-hubspot-ratelimit-daily-remaining": str(DAILY - len(self.taken)),
            "x-hubspot-ratelimit-interval-milliseconds": str(round(self.seconds * 1000)),
            "x-hubspot-ratelimit-max": str(self.limit),
            "x-hubspot-ratelimit-remaining": str(max(0, self.limit - len(self.taken))),
        }


def known(kind: str, error: type[Exception] = RefusedError) -> str:
    """The name of a type of objects, if it is one."""
    if kind not in KINDS:
        raise error(f"Unable to infer object type from: {kind}")
    return kind


def names(values: list[str]) -> list[str]:
    """A list in a query: repeated, or separated by commas."""
    return [name for value in values for name in value.split(",") if name]


def types(link: str) -> list[str]:
    """An association shows up once for each of its types: here for some, as with labels or a primary company."""
    return [link, f"{link}_unlabeled"] if link.endswith("to_company") else [link]


def page(rows: list[dict[str, Any]], more: bool, request: Request) -> dict[str, Any]:
    """A page of a list whose cursor is the id of its last row."""
    if not more:
        return {"results": rows}
    after = rows[-1]["id"]
    return {
        "results": rows,
        "paging": {"next": {"after": after, "link": str(request.url.include_query_params(after=after))}},
    }


def batch(rows: list[dict[str, Any]], errors: list[dict[str, Any]]) -> Response:
    """The answer to a batch: 207 if some of it failed."""
    now = text(datetime.now(UTC))
    body: dict[str, Any] = {"status": "COMPLETE", "results": rows, "startedAt": now, "completedAt": now}
    return JSONResponse(body | {"numErrors": len(errors), "errors": errors} if errors else body, 207 if errors else 200)


def standard_error(category: str, message: str, context: dict[str, list[str]]) -> dict[str, Any]:
    """An entry of a batch's `errors`."""
    found = {"status": "error", "category": category, "message": message, "context": context}
    return found | {"errors": [], "links": {}}


def correlation_id(call: Call) -> str:
    """What HubSpot's support asks for."""
    return str(UUID(int=call.number))


def problem(status: int, category: str, message: str, call: Call, errors: Sequence[Any] = ()) -> Response:
    """An error as HubSpot writes it."""
    body = {"status": "error", "message": message, "correlationId": correlation_id(call), "category": category}
    return JSONResponse(body | ({"errors": list(errors)} if errors else {}), status)


def limit_reached(policy: str, call: Call) -> Response:
    """A 429: the policy says which limit, nothing says until when."""
    body = {
        "status": "error",
        "message": f"You have reached your {POLICIES.get(policy, policy.lower())} limit.",
        "errorType": "RATE_LIMIT",
        "correlationId": correlation_id(call),
        "policyName": policy,
    }
    return JSONResponse(body, 429)
