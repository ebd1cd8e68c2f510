"""The REST API: repositories, events, stargazers, issues and comments, with paging (`Link`) and `ETag`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.fake_api import url_of_api
from sandbox.github import shapes
from sandbox.github.limits import PrimaryLimit
from sandbox.github.model import API, Repository, Thread
from sandbox.github.schema import parse_time
from sandbox.github.store import Store

DOCUMENTATION = "https://docs.github.com/rest"
MAX_EVENTS = 300
STAR_TYPE = "star+json"
Rows = tuple[list[Any], Callable[[Any, str], Any]]


class RefusedError(Exception):
    """A request that is rejected with this status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Rest:
    """The routes. They have no state of their own."""

    def __init__(self, store: Store, limits: Callable[[], tuple[PrimaryLimit, PrimaryLimit]]) -> None:
        self.store, self.limits = store, limits
        self.routes = [
            Route("/rate_limit", self.rate_limit),
            Route("/repos/{owner}/{name}", self.repository),
            Route("/repos/{owner}/{name}/events", self._list(self.events)),
            Route("/repos/{owner}/{name}/stargazers", self._list(self.stargazers)),
            Route("/repos/{owner}/{name}/issues", self._list(self.issues)),
            Route("/repos/{owner}/{name}/issues/comments", self._list(self.all_comments)),
            Route("/repos/{owner}/{name}/issues/{number:int}", self.issue),
            Route("/repos/{owner}/{name}/issues/{number:int}/comments", self._list(self.comments)),
        ]

    def _repository(self, request: Request) -> Repository:
        found = self.store.repository(request.path_params["owner"], request.path_params["name"])
        if found is None:
            raise RefusedError(404, "Not Found")
        return found

    def _thread(self, request: Request) -> Thread:
        found = self._repository(request).threads.get(request.path_params["number"])
        if found is None:
            raise RefusedError(404, "Not Found")
        return found

    async def rate_limit(self, request: Request) -> Response:
        """`GET /rate_limit`, which does not count against the limit."""
        core, graphql = (budget.overview() for budget in self.limits())
        search = {"limit": 30, "used": 0, "remaining": 30, "reset": core["reset"]}
        resources = {"core": core, "graphql": graphql, "search": search}
        return json_response(request, {"resources": resources, "rate": core})

    async def repository(self, request: Request) -> Response:
        """`GET /repos/{owner}/{name}`."""
        return json_response(request, shapes.repository(self._repository(request), url_of_api(request)))

    async def issue(self, request: Request) -> Response:
        """`GET /repos/{owner}/{name}/issues/{number}`."""
        return json_response(request, shapes.issue(self._thread(request), url_of_api(request)))

    def events(self, request: Request) -> Rows:
        """The newest 300 events."""
        repository = self._repository(request)
        newest = repository.events[::-1][:MAX_EVENTS]
        return newest, lambda row, api: shapes.event(row, repository, api)

    def stargazers(self, request: Request) -> Rows:
        """Stargazers, oldest first; with the date if the star media type is requested."""
        stars = self._repository(request).stars
        if STAR_TYPE in request.headers.get("accept", ""):
            return stars, shapes.stargazer
        return stars, lambda star, api: shapes.user(star.user, api)

    def issues(self, request: Request) -> Rows:
        """Issues and pull requests, newest first by default."""
        state = choice(request, "state", ("open", "closed", "all"))
        sort = choice(request, "sort", ("created", "updated", "comments"))
        rows = list(self._repository(request).threads.values())
        if state != "all":
            rows = [row for row in rows if row.closed == (state == "closed")]
        if since := since_of(request):
            rows = [row for row in rows if row.updated_at >= since]
        keys: dict[str, Callable[[Thread], Any]] = {
            "created": lambda row: (row.created_at, row.number),
            "updated": lambda row: (row.updated_at, row.number),
            "comments": lambda row: (len(row.comments), row.number),
        }
        rows.sort(key=keys[sort], reverse=choice(request, "direction", ("desc", "asc")) == "desc")
        return rows, shapes.issue

    def comments(self, request: Request) -> Rows:
        """The comments on an issue or pull request, oldest first."""
        since = since_of(request)
        return [row for row in self._thread(request).comments if row.updated_at >= since], shapes.comment

    def all_comments(self, request: Request) -> Rows:
        """The comments on all issues and pull requests, by id."""
        since, threads = since_of(request), self._repository(request).threads.values()
        rows = [row for thread in threads for row in thread.comments if row.updated_at >= since]
        sort = choice(request, "sort", ("created", "updated"))
        descending = choice(request, "direction", ("asc", "desc")) == "desc"
        rows.sort(
            key=lambda row: (row.updated_at if sort == "updated" else row.created_at, row.database_id),
            reverse=descending,
        )
        return rows, shapes.comment

    def _list(self, rows_of: Callable[[Request], Rows]) -> Callable[[Request], Awaitable[Response]]:
        async def serve(request: Request) -> Response:
            rows, shape = rows_of(request)
            size, number = positive_number(request, "per_page", 30, 100), positive_number(request, "page", 1)
            page = rows[(number - 1) * size : number * size]
            response = json_response(request, [shape(row, url_of_api(request)) for row in page])
            if link := links(request, number, -(-len(rows) // size)):
                response.headers["link"] = link
            if request.url.path.endswith("/events"):
                response.headers["x-poll-interval"] = "60"
            return response

        return serve


def json_response(request: Request, content: Any) -> Response:
    """JSON with an ETag; status 304 if the client already has this version."""
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace(API, url_of_api(request)).encode()
    etag = f'W/"{hashlib.sha256(body).hexdigest()}"'
    headers = {
        "etag": etag,
        "cache-control": "private, max-age=60, s-maxage=60",
        "vary": "Accept, Authorization",
    }
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if etag.removeprefix("W/") in known:
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json; charset=utf-8")


def links(request: Request, number: int, last: int) -> str:
    """The value of the `Link` header; empty if there is only one page."""
    pages = {}
    if number > 1:
        pages["prev"] = min(number - 1, max(last, 1))
    if number < last:
        pages |= {"next": number + 1, "last": last}
    if number > 1:
        pages["first"] = 1
    address = f"{url_of_api(request)}{request.url.path.removeprefix(request.scope['root_path'])}"
    others = [(name, value) for name, value in parse_qsl(request.url.query) if name != "page"]
    return ", ".join(
        f'<{address}?{urlencode([*others, ("page", page)])}>; rel="{relation}"' for relation, page in pages.items()
    )


def positive_number(request: Request, name: str, default: int, most: int | None = None) -> int:
    """A positive number from the query. As on GitHub, an invalid number is ignored and a large one is capped."""
    text = request.query_params.get(name, "")
    number = int(text) if text.isascii() and text.isdigit() else default
    number = number or default
    return min(number, most) if most else number


def choice(request: Request, name: str, known: tuple[str, ...]) -> str:
    """A parameter with a fixed set of values; the first is the default. Raises RefusedError for any other value."""
    value = request.query_params.get(name) or known[0]
    if value not in known:
        raise RefusedError(422, "Validation Failed")
    return value


def since_of(request: Request) -> str:
    """The parameter `since` in the format that rows have; empty if absent."""
    text = request.query_params.get("since")
    if not text:
        return ""
    try:
        return parse_time(text)
    except ValueError as error:
        raise RefusedError(422, "Validation Failed") from error
