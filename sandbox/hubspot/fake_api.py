"""The fake HubSpot API: authentication, rate limits, the CRM's routes, and faults that only HubSpot has."""

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
from starlette.types import Message, Receive, Scope, Send

from sandbox.arguments import check_sizes
from sandbox.control import endpoint
from sandbox.fake_api import Call, FakeApi, Fault, Settings, url_of_api
from sandbox.hubspot.properties import ASSOCIATED, DEFAULTS, KINDS, SINGULAR, TYPE_IDS
from sandbox.hubspot.search import RefusedError, search, select
from sandbox.hubspot.store import Record, Store, text
from sandbox.limits import Rolling

MAX_LIST, MAX_LIST_WITH_HISTORY, MAX_OWNERS = 100, 50, 500
MAX_ASSOCIATION_INPUTS = 1_000
ASSOCIATIONS_IN_AN_OBJECT, ASSOCIATIONS_IN_A_PAGE = 100, 500
MAX_URL = 8_000
POLICIES = {"TEN_SECONDLY_ROLLING": "ten_secondly_rolling", "SECONDLY": "secondly", "DAILY": "daily"}
DAILY = 500_000
# HubSpot accepts a type of objects by its plural, its singular and its id.
TYPES = {name: kind for kind in KINDS for name in (kind, SINGULAR[kind], TYPE_IDS[kind])}


class FakeHubSpot(FakeApi):
    name = "hubspot"
    fault_kinds: Sequence[str] = ("hubspot_limit", "hubspot_scope")

    def __init__(self, token: str, seed: int) -> None:
        self.token = token
        self.store = Store(seed)
        self.configure(Settings())
        self.router = Router(
            [
                Route("/crm/v3/objects/{kind}", self._list),
                Route("/crm/v3/objects/{kind}/search", self._search, methods=["POST"]),
                Route("/crm/v3/objects/{kind}/batch/read", self._batch, methods=["POST"]),
                Route("/crm/v3/objects/{kind}/{id}", self._object),
                Route("/crm/v3/objects/{kind}/{id}/associations/{to}", self._associations),
                Route("/crm/v4/associations/{kind}/{to}/batch/read", self._batch_of_associations, methods=["POST"]),
                Route("/crm/v3/properties/{kind}", self._properties),
                Route("/crm/v3/properties/{kind}/{name}", self._property),
                Route("/crm/v3/pipelines/{kind}", self._pipelines),
                Route("/crm/v3/owners", self._owners),
                Route("/crm/v3/owners/", self._owners),  # as dlt's verified source asks for it
            ],
            redirect_slashes=False,
        )
        self.control = [endpoint("/account", self._fill), endpoint("/changes", self._change)]

    def configure(self, settings: Settings) -> None:
        self.rolling = Policy(settings.hubspot_requests, settings.hubspot_window_seconds, name="TEN_SECONDLY_ROLLING")
        self.secondly = Policy(settings.hubspot_searches_per_second, 1, name="SECONDLY")

    def reset(self) -> None:
        self.store.reset()

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the token and the limits, run the route, and add the headers that all responses but searches have."""
        call: Call = scope["sandbox.call"]
        is_search = call.path.endswith("/search")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start" and not is_search:
                extra = self.rolling.headers()
                message["headers"] += [(name.encode(), value.encode()) for name, value in extra.items()]
            await send(message)

        try:
            self._admit(Request(scope), call, is_search)
            # A slash at the end of a path is optional.
            await self.router({**scope, "path": scope["path"].rstrip("/")}, receive, send_with_headers)
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

    def _admit(self, request: Request, call: Call, is_search: bool) -> None:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            message = "Authentication credentials not found. This API supports OAuth 2.0 authentication."
            raise RefusedError(message, 401, "INVALID_AUTHENTICATION")
        if len(call.path) + len(call.query) > MAX_URL:
            raise RefusedError("The URI is too long", 414, "URI_TOO_LONG")
        for limit in [self.rolling, self.secondly] if is_search else [self.rolling]:
            if not limit.take():
                raise LimitReached(limit.name)

    async def _list(self, request: Request) -> Response:
        kind, query = known(request.path_params["kind"]), request.query_params
        most = MAX_LIST_WITH_HISTORY if names(query.getlist("propertiesWithHistory")) else MAX_LIST
        limit = int(query.get("limit", 10))
        if not 0 < limit <= most:
            raise RefusedError(f"limit must be from 1 to {most}, not {limit}")
        archived, after = query.get("archived") == "true", int(query.get("after", 0))
        records = [
            record
            for record in self.store.records[kind].values()
            if bool(record.archived_at) is archived and int(record.id) > after
        ]
        rows = [self._with_associations(record, request) for record in records[:limit]]
        return JSONResponse(page(rows, len(records) > limit, request))

    async def _object(self, request: Request) -> Response:
        record = self._record(request)
        if bool(record.archived_at) is not (request.query_params.get("archived") == "true"):
            raise RefusedError("resource not found", 404, "OBJECT_NOT_FOUND")
        return JSONResponse(self._with_associations(record, request))

    def _record(self, request: Request) -> Record:
        record = self.store.records[known(request.path_params["kind"])].get(request.path_params["id"])
        if record is None:
            raise RefusedError("resource not found", 404, "OBJECT_NOT_FOUND")
        return record

    def _with_associations(self, record: Record, request: Request) -> dict[str, Any]:
        query = request.query_params
        row = self._serialize(record, names(query.getlist("properties")), names(query.getlist("propertiesWithHistory")))
        pages = {
            other: self._page_of_associations(record, other, ASSOCIATIONS_IN_AN_OBJECT, request)
            for other in map(known, names(query.getlist("associations")))
        }
        if found := {other: page for other, page in pages.items() if page["results"]}:
            row["associations"] = found
        return row

    async def _associations(self, request: Request) -> Response:
        """The other pages of the associations in an object."""
        record, other = self._record(request), known(request.path_params["to"])
        limit = int(request.query_params.get("limit", ASSOCIATIONS_IN_A_PAGE))
        if not 0 < limit <= ASSOCIATIONS_IN_A_PAGE:
            raise RefusedError(f"limit must be from 1 to {ASSOCIATIONS_IN_A_PAGE}, not {limit}")
        after = request.query_params.get("after")
        return JSONResponse(self._page_of_associations(record, other, limit, request, after))

    def _page_of_associations(
        self, record: Record, other: str, limit: int, request: Request, after: str | None = None
    ) -> dict[str, Any]:
        """A page of associations; its cursor is the id of the next page's first object."""
        ids = self.store.linked(record, other)
        start = ids.index(after) if after else 0
        types = association_types(f"{SINGULAR[record.kind]}_to_{SINGULAR[other]}")
        found: dict[str, Any] = {
            "results": [{"id": id_, "type": type_} for id_ in ids[start : start + limit] for type_ in types]
        }
        if start + limit < len(ids):
            after = ids[start + limit]
            address = f"{url_of_api(request)}/crm/v3/objects/{record.kind}/{record.id}/associations/{other}"
            found["paging"] = {"next": {"after": after, "link": f"{address}?after={after}"}}
        return found

    async def _search(self, request: Request) -> Response:
        body = await request.body()
        return JSONResponse(search(self.store, known(request.path_params["kind"]), json.loads(body), len(body)))

    async def _batch(self, request: Request) -> Response:
        kind, body = known(request.path_params["kind"]), await request.json()
        history, inputs = body.get("propertiesWithHistory") or [], [str(one["id"]) for one in body["inputs"]]
        most = MAX_LIST_WITH_HISTORY if history else MAX_LIST
        if not 0 < len(inputs) <= most:
            raise RefusedError(f"The number of inputs must be from 1 to {most}, not {len(inputs)}")
        archived = request.query_params.get("archived") == "true"
        records = [self.store.records[kind].get(id_) for id_ in inputs]
        rows = [
            self._serialize(record, body.get("properties") or [], history)
            for record in records
            if record and bool(record.archived_at) is archived
        ]
        missing = [id_ for id_ in inputs if id_ not in {row["id"] for row in rows}]
        errors = [standard_error("OBJECT_NOT_FOUND", "Could not get some objects", {"ids": missing})] if missing else []
        return batch(rows, errors)

    async def _batch_of_associations(self, request: Request) -> Response:
        kind, to = known(request.path_params["kind"]), known(request.path_params["to"])
        inputs = (await request.json())["inputs"]
        if to not in ASSOCIATED[kind]:
            raise RefusedError(f"{kind} are not associated with {to}")
        if not 0 < len(inputs) <= MAX_ASSOCIATION_INPUTS:
            raise RefusedError(f"The number of inputs must be from 1 to {MAX_ASSOCIATION_INPUTS}, not {len(inputs)}")
        rows, without = [], []
        for one in inputs:
            record = self.store.records[kind].get(str(one["id"]))
            ids = self.store.linked(record, to) if record else []
            if not ids:
                without.append(str(one["id"]))
                continue
            start = int(one.get("after") or 0)
            end = start + ASSOCIATIONS_IN_A_PAGE
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
        return JSONResponse({"results": list(self.store.definitions[known(request.path_params["kind"])].values())})

    async def _property(self, request: Request) -> Response:
        found = self.store.definitions[known(request.path_params["kind"])].get(request.path_params["name"])
        if found is None:
            raise RefusedError(f"Property {request.path_params['name']} does not exist", 404, "OBJECT_NOT_FOUND")
        return JSONResponse(found)

    async def _pipelines(self, request: Request) -> Response:
        return JSONResponse({"results": self.store.pipelines.get(known(request.path_params["kind"]), [])})

    async def _owners(self, request: Request) -> Response:
        query = request.query_params
        limit = int(query.get("limit", 100))
        if not 0 < limit <= MAX_OWNERS:
            raise RefusedError(f"limit must be from 1 to {MAX_OWNERS}, not {limit}")
        archived, after = query.get("archived") == "true", int(query.get("after", 0))
        owners = [one for one in self.store.owners if one["archived"] is archived and int(one["id"]) > after]
        return JSONResponse(page(owners[:limit], len(owners) > limit, request))

    def _serialize(self, record: Record, properties: list[str], history: list[str]) -> dict[str, Any]:
        """An object as the API returns it, without associations."""
        wanted = [*(properties or DEFAULTS[record.kind]), *history, "hs_object_id"]
        row: dict[str, Any] = {
            "id": record.id,
            "properties": select(record.properties, wanted, self.store, record.kind),
            "createdAt": record.created_at,
            "updatedAt": record.updated_at,
            "archived": bool(record.archived_at),
        }
        if record.archived_at:
            row["archivedAt"] = record.archived_at
        if history:
            row["propertiesWithHistory"] = {name: record.history[name] for name in history if name in record.history}
        return row

    def fault_response(self, fault: Fault, call: Call) -> Response:
        """A rate limit, or a scope that the token lacks."""
        if fault.kind == "hubspot_limit":
            return limit_reached(fault.options.get("policy", "TEN_SECONDLY_ROLLING"), call)
        scope = fault.options.get("scope", "crm.objects.companies.read")
        error = {"message": f"One or more of the following scopes are required: {scope}"}
        message = "This app hasn't been granted all required scopes to make this call."
        return problem(403, "MISSING_SCOPES", message, call, [error | {"context": {"requiredGranularScopes": [scope]}}])

    def _fill(self, sizes: dict[str, Any]) -> Any:
        check_sizes(sizes, KINDS, 100_000)
        self.store.fill(sizes)
        return {kind: len(records) for kind, records in self.store.records.items()}

    def _change(self, arguments: dict[str, Any]) -> Any:
        return self.store.change(str(arguments.pop("kind", None)), arguments)


class LimitReached(Exception):
    """The client has sent too many requests."""

    def __init__(self, policy: str) -> None:
        super().__init__(policy)
        self.policy = policy


@dataclass
class Policy(Rolling):
    """A rate limit with HubSpot's name for it."""

    name: str = ""

    def headers(self) -> dict[str, str]:
        """The headers `x-hubspot-ratelimit-*`."""
        return {
            "x-hubspot-ratelimit-daily": str(DAILY),
            "x-hubspot-ratelimit-daily-remaining": str(DAILY - len(self.taken)),
            "x-hubspot-ratelimit-interval-milliseconds": str(round(self.seconds * 1000)),
            "x-hubspot-ratelimit-max": str(self.limit),
            "x-hubspot-ratelimit-remaining": str(max(0, self.limit - len(self.taken))),
        }


def known(name: str) -> str:
    """The plural of a type of objects."""
    if name not in TYPES:
        raise RefusedError(f"Unable to infer object type from: {name}")
    return TYPES[name]


def names(values: list[str]) -> list[str]:
    """The values of a query parameter that is repeated or has commas."""
    return [name for value in values for name in value.split(",") if name]


def association_types(link: str) -> list[str]:
    """The types of an association, which appears once for each: companies have two, as with labels."""
    return [link, f"{link}_unlabeled"] if link.endswith("to_company") else [link]


def page(rows: list[dict[str, Any]], more: bool, request: Request) -> dict[str, Any]:
    """A page of a list; its cursor is the id of its last row."""
    if not more:
        return {"results": rows}
    after = rows[-1]["id"]
    return {
        "results": rows,
        "paging": {"next": {"after": after, "link": str(request.url.include_query_params(after=after))}},
    }


def batch(rows: list[dict[str, Any]], errors: list[dict[str, Any]]) -> Response:
    """The response to a batch request: status 207 if part of it failed."""
    now = text(datetime.now(UTC))
    body: dict[str, Any] = {"status": "COMPLETE", "results": rows, "startedAt": now, "completedAt": now}
    return JSONResponse(body | {"numErrors": len(errors), "errors": errors} if errors else body, 207 if errors else 200)


def standard_error(category: str, message: str, context: dict[str, list[str]]) -> dict[str, Any]:
    """An entry of `errors` in a batch response."""
    found = {"status": "error", "category": category, "message": message, "context": context}
    return found | {"errors": [], "links": {}}


def correlation_id(call: Call) -> str:
    """The id that identifies a request to HubSpot's support."""
    return str(UUID(int=call.number))


def problem(status: int, category: str, message: str, call: Call, errors: Sequence[Any] = ()) -> Response:
    """An error response of HubSpot."""
    body = {"status": "error", "message": message, "correlationId": correlation_id(call), "category": category}
    return JSONResponse(body | ({"errors": list(errors)} if errors else {}), status)


def limit_reached(policy: str, call: Call) -> Response:
    """Status 429. The policy says which limit was reached; the response does not say until when."""
    body = {
        "status": "error",
        "message": f"You have reached your {POLICIES.get(policy, policy.lower())} limit.",
        "errorType": "RATE_LIMIT",
        "correlationId": correlation_id(call),
        "policyName": policy,
    }
    return JSONResponse(body, 429)
