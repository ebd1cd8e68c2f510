"""The fake Thinkific API: authentication, the rate limit, and lists with filters and pages."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from sandbox.arguments import check_known, check_sizes
from sandbox.control import endpoint
from sandbox.fake_api import Call, FakeApi, Fault, Settings
from sandbox.limits import Budget
from sandbox.thinkific.site import TABLES, Row, Site, Size, text

SUBDOMAIN = "sandbox"
MAX_LIMIT = 250
FORBIDDEN = "Access to Apps is not available on your plan. Upgrade to gain access"
NOT_FOUND = "Record not found."

COMPARISONS: dict[str, Callable[[str, str], bool]] = {
    "on": lambda value, given: value[:10] == given[:10],
    "before": lambda value, given: value < given,
    "on_or_before": lambda value, given: value <= given,
    "after": lambda value, given: value > given,
    "on_or_after": lambda value, given: value >= given,
}
# As documented for `GET /enrollments`, which has no `updated_on_or_after`.
MOMENTS = {f"created_{when}": ("created_at", compare) for when, compare in COMPARISONS.items()} | {
    f"updated_{when}": ("updated_at", COMPARISONS[when]) for when in ("on", "before", "on_or_before", "after")
}


class UnprocessableError(Exception):
    """A request that Thinkific rejects with status 422."""

    def __init__(self, parameter: str, reason: str) -> None:
        super().__init__(parameter, reason)
        self.errors = {parameter: [reason]}


class FakeThinkific(FakeApi):
    name = "thinkific"
    fault_kinds: Sequence[str] = ("thinkific_limit", "thinkific_forbidden")

    def __init__(self, token: str, seed: int) -> None:
        self.token, self.seed = token, seed
        self.configure(Settings())
        routes = []
        for table in TABLES:
            routes += [Route(f"/{table}", self._list), Route(f"/{table}/{{id:int}}", self._one)]
        self.router = Router(routes, redirect_slashes=False)
        self.control = [endpoint("/site", self._create), endpoint("/changes", self._change)]

    def configure(self, settings: Settings) -> None:
        self.budget = Budget(settings.thinkific_requests, settings.thinkific_window_seconds)

    @cached_property
    def site(self) -> Site:
        """The data. It is generated when first requested, so that a reset is fast."""
        return Site(self.seed, Size())

    def reset(self) -> None:
        vars(self).pop("site", None)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the key and the limit, run the route, and convert errors to Thinkific's format."""
        headers = Request(scope).headers
        if (headers.get("x-auth-api-key"), headers.get("x-auth-subdomain")) != (self.token, SUBDOMAIN):
            await problem(401, "Authentication Error")(scope, receive, send)
        elif not self.budget.take(1):
            await too_many(self.budget.reset)(scope, receive, send)
        else:
            try:
                await self.router(scope, receive, send)
            except UnprocessableError as error:
                await JSONResponse({"errors": error.errors}, 422)(scope, receive, send)
            except HTTPException as error:
                await problem(error.status_code, NOT_FOUND)(scope, receive, send)

    def fault_response(self, fault: Fault, call: Call) -> Response:
        """The rate limit, which ends after `seconds`, or a plan without access to the API."""
        if fault.kind == "thinkific_limit":
            return too_many(math.ceil(time.time() + fault.options.get("seconds", 1)))
        return problem(403, FORBIDDEN)

    async def _one(self, request: Request) -> Response:
        table = request.url.path.split("/")[-2]
        row = self.site.tables[table].get(request.path_params["id"])
        return JSONResponse(self.site.serialize(table, row)) if row else problem(404, NOT_FOUND)

    async def _list(self, request: Request) -> Response:
        table, query = request.url.path.split("/")[-1], request.query_params
        rows: Iterable[Row] = self.site.tables[table].values()
        if table == "course_reviews":
            course = number(query.get("course_id"))
            if course is None:
                raise UnprocessableError("course_id", "can't be blank")
            if course not in self.site.tables["courses"]:
                return problem(404, NOT_FOUND)
            approved_only = query.get("approved") == "true"
            rows = [r for r in rows if r["course_id"] == course and (r["approved"] or not approved_only)]
        filters = {name[6:-1]: value for name, value in query.items() if name.startswith("query[")}
        for test in self._tests(table, filters):
            rows = [row for row in rows if test(row)]
        limit = min(max(number(query.get("limit")) or 25, 1), MAX_LIMIT)
        page = max(number(query.get("page")) or 1, 1)
        return JSONResponse(self._page(table, list(rows), page, limit))

    def _page(self, table: str, rows: list[Row], page: int, limit: int) -> Row:
        first, pages = (page - 1) * limit, math.ceil(len(rows) / limit)
        items = [self.site.serialize(table, row) for row in rows[first : first + limit]]
        return {
            "items": items,
            "meta": {
                "pagination": {
                    "current_page": page,
                    "next_page": page + 1 if page < pages else None,
                    "prev_page": page - 1 if page > 1 else None,
                    "total_pages": pages,
                    "total_items": len(rows),
                    "entries_info": f"{first + 1 if items else 0}-{first + len(items)} of {len(rows)}",
                }
            },
        }

    def _tests(self, table: str, filters: dict[str, str]) -> Iterable[Callable[[Row], bool]]:
        """The documented filters of a table as tests of a row. Thinkific ignores unknown filters."""
        if table == "enrollments":
            yield from self._enrollment_tests(filters)
        elif table == "users":
            for name in ("email", "external_source"):
                if name in filters:
                    yield lambda row, name=name: row[name] == filters[name]  # type: ignore[misc]
            if "role" in filters:
                yield lambda row: filters["role"] in row["roles"]
            label, value = filters.get("custom_profile_field_label"), filters.get("custom_profile_field_value")
            if label is not None and value is not None:
                yield lambda row: any((f["label"], f["value"]) == (label, value) for f in row["custom_profile_fields"])

    def _enrollment_tests(self, filters: dict[str, str]) -> Iterable[Callable[[Row], bool]]:
        for name in ("user_id", "course_id"):
            if name in filters:
                yield lambda row, name=name: row[name] == number(filters[name])  # type: ignore[misc]
        if "email" in filters:
            yield lambda row: self.site.tables["users"][row["user_id"]]["email"] == filters["email"]
        for name, holds in {
            "free_trial": lambda row: row["is_free_trial"],
            "full": lambda row: not row["is_free_trial"],
            "completed": lambda row: row["completed"],
            "expired": lambda row: row["expired"],
        }.items():
            if filters.get(name) == "true":
                yield holds
        for name, (field, compare) in MOMENTS.items():
            if name in filters:
                given = moment(name, filters[name])
                yield lambda row, field=field, compare=compare, given=given: compare(row[field], given)  # type: ignore[misc]

    def _create(self, sizes: dict[str, Any]) -> Any:
        check_sizes(sizes, TABLES, 1_000_000)
        self.site = Site(self.seed, Size(**sizes))
        return {table: len(rows) for table, rows in self.site.tables.items()}

    def _change(self, arguments: dict[str, Any]) -> Any:
        kinds: dict[Any, Callable[..., Row]] = {
            "new": self._new,
            "edit": self._edit,
            "progress": self._progress,
            "delete": self._delete,
        }
        kind = arguments.pop("kind", None)
        check_known("change", kind, kinds)
        table = arguments.get("table", "enrollments")
        check_known("table", table, TABLES)
        return kinds[kind](**arguments)

    def _new(self, table: str, user_id: int | None = None, course_id: int | None = None, hours_ago: float = 0) -> Row:
        when = datetime.now(UTC) - timedelta(hours=hours_ago)
        site, enrollments = self.site, self.site.tables["enrollments"].values()
        if table == "courses":
            return site.add_course()
        if table == "users":
            return site.add_user(when)
        if table == "course_reviews":
            enrolled = [row for row in enrollments if course_id in (None, row["course_id"])]
            if not enrolled:
                raise ValueError("no enrollment exists for which a review could be written")
            return site.add_review(enrolled[0], when)
        user, course = self._row("users", user_id), self._row("courses", course_id)
        if any((row["user_id"], row["course_id"]) == (user["id"], course["id"]) for row in enrollments):
            raise ValueError(f"user {user['id']} is already enrolled in course {course['id']}")
        return site.serialize("enrollments", site.add_enrollment(user["id"], course["id"], when))

    def _edit(self, table: str, id: int | None = None, **values: Any) -> Row:
        row = self._row(table, id)
        for name in values:
            check_known("column", name, row)
        row |= values
        return self.site.serialize(table, row)

    def _progress(self, id: int | None = None, percentage: float = 1, hours_ago: float = 0) -> Row:
        row = self._row("enrollments", id)
        self.site.progress(row, percentage, datetime.now(UTC) - timedelta(hours=hours_ago))
        return self.site.serialize("enrollments", row)

    def _delete(self, table: str, id: int | None = None) -> Row:
        row = self.site.serialize(table, self._row(table, id))
        self.site.delete(table, row["id"])
        return row

    def _row(self, table: str, row_id: int | None) -> Row:
        """The row with this id; without an id, the first row."""
        rows = self.site.tables[table]
        found = next(iter(rows.values()), None) if row_id is None else rows.get(row_id)
        if found is None:
            raise ValueError(f"{table} has no row {row_id}" if row_id else f"{table} is empty")
        return found


def problem(status: int, message: str) -> Response:
    """An error response of Thinkific."""
    return JSONResponse({"error": message}, status)


def too_many(reset: int) -> Response:
    """The response beyond the rate limit; the header has the Unix time at which the limit ends."""
    return JSONResponse({"error": "Too many requests"}, 429, {"RateLimit-Reset": str(reset)})


def number(value: str | None) -> int | None:
    """A whole number; None for any other text."""
    return int(value) if value and value.isdecimal() else None


def moment(name: str, value: str) -> str:
    """A filter's date or time in the format that rows have."""
    try:
        given = datetime.fromisoformat(value)
    except ValueError:
        raise UnprocessableError(name, "is not a date") from None
    return text(given if given.tzinfo else given.replace(tzinfo=UTC))
