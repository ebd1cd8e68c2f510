"""Thinkific: a site's courses, users, enrollments and course reviews.

All of it merges on `id`, so a load may run again at any time. Only enrollments tell when they changed: a load brings
what changed since the load before, and once more what changed in the two days before that one. Courses, users and
reviews are read whole.

What Thinkific does not report stays unseen. Deleted rows remain: a row whose `_dlt_load_id` is older than the newest of
its table is one (of enrollments after a load with `full_reload=True`, which reads them all). A new name of a user or a
course, and the passing of an expiry date, do not change an enrollment: join `users` and `courses`, and compare
`expiry_date`, instead of trusting its `user_name`, `user_email`, `course_name` and `expired`.

Variables: SOURCES__THINKIFIC__API_KEY and SOURCES__THINKIFIC__SUBDOMAIN (`school` of https://school.thinkific.com);
optional SOURCES__THINKIFIC__API_BASE_URL, SOURCES__THINKIFIC__MAX_WAIT and SOURCES__THINKIFIC__TIMEOUT (seconds).
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import dlt
from dlt.common import logger
from dlt.common.configuration.specs import BaseConfiguration
from dlt.common.schema.typing import TTableSchemaColumns
from dlt.extract import DltResource
from dlt.sources.helpers.requests import Response
from dlt.sources.helpers.rest_client.auth import APIKeyAuth
from dlt.sources.helpers.rest_client.client import RESTClient

from dlt_sources.http import Limit, PermanentSourceError, TransientSourceError, Vendor, read_limit

__all__ = ["thinkific", "thinkific_total"]

Row = dict[str, Any]

PAGE_SIZE = 250  # Thinkific's most
WINDOW = 60.0  # seconds of its rate limit
# Thinkific does not say whether "updated after" means the moment or the end of its day, nor in which time zone. Two
# days cover all of it, and clocks that differ, and a change that shows up late.
OVERLAP = timedelta(days=2)


def _read_limit(response: Response) -> Limit | None:
    """Thinkific's limit is one of a minute; its reset header is described as an epoch and as milliseconds."""
    limit = read_limit(response)
    if limit is None or "Retry-After" in response.headers:
        return limit
    return Limit(limit.name, WINDOW if limit.wait is None else min(limit.wait, WINDOW))


THINKIFIC = Vendor(
    source="thinkific",
    title="Thinkific",
    credential="api_key",
    companions=("subdomain",),
    base_url="https://api.thinkific.com/api/public/v1",
    permission="a plan that includes the API",
    read_limit=_read_limit,
)


# `spec=BaseConfiguration` switches dlt's injection off: it would fill `api_key` from a bare API_KEY, whoever's it is.
@dlt.source(name="thinkific", section="thinkific", spec=BaseConfiguration)
def thinkific(
    subdomain: str | None = None, api_key: str | None = None, full_reload: bool = False
) -> Iterator[DltResource]:
    """Courses, users, enrollments and course reviews of the site at `<subdomain>.thinkific.com`."""

    def courses() -> Iterator[Any]:
        """Courses of a Thinkific site, one row each, with the ids of their chapters and administrators."""
        yield from _rows(_client(subdomain, api_key), "courses")

    def users() -> Iterator[Any]:
        """Students and staff of a Thinkific site, one row each, with their roles and custom profile fields."""
        yield from _rows(_client(subdomain, api_key), "users")

    def enrollments() -> Iterator[Any]:
        """Who is enrolled in which Thinkific course and how far they got (0 to 1), one row per user and course."""
        client = _client(subdomain, api_key)
        # A cursor for each site, so that another subdomain begins at its beginning. It is the time at which reading
        # began: what changes while pages are read may have been passed already, and is not in them.
        read_at, began = dlt.current.resource_state(), datetime.now(UTC)
        site = THINKIFIC.setting("subdomain", subdomain)
        since = None if full_reload else read_at.get(site)
        if since:
            after = _text(datetime.fromisoformat(since) - OVERLAP)
            yield from _pages(client, "enrollments", {"query[updated_after]": after})
        else:
            yield from _rows(client, "enrollments")
        read_at[site] = began.isoformat()

    def course_reviews(page: list[Row]) -> Iterator[Any]:
        """Reviews that users wrote of Thinkific courses (rating 1 to 5), one row each, approved or not."""
        client = _client(subdomain, api_key)
        for course in page:
            yield from _rows(client, "course_reviews", {"course_id": course["id"]})

    resources = {
        function.__name__: dlt.resource(
            function, write_disposition="merge", primary_key="id", columns=_COLUMNS[function.__name__]
        )
        for function in (courses, users, enrollments)
    }
    yield from resources.values()
    yield dlt.transformer(
        course_reviews,
        data_from=resources["courses"],
        write_disposition="merge",
        primary_key="id",
        columns=_COLUMNS["course_reviews"],
    )


def thinkific_total(
    table: str, subdomain: str | None = None, api_key: str | None = None, created_before: datetime | None = None
) -> int:
    """How many rows of a table Thinkific counts now, to check a load against. Reviews cost a request per course.

    Enrollments created later than `created_before` do not count; of the other tables Thinkific cannot tell.
    """
    client = _client(subdomain, api_key)
    if table == "course_reviews":
        courses = [course["id"] for page in _pages(client, "courses") for course in page]
        return sum(_total(client, table, {"course_id": course}) for course in courses)
    created = created_before if table == "enrollments" else None
    return _total(client, table, {"query[created_before]": _text(created)} if created else {})


def _client(subdomain: str | None, api_key: str | None) -> RESTClient:
    key = THINKIFIC.secret(api_key)
    client = THINKIFIC.client(key, APIKeyAuth(name="X-Auth-API-Key", api_key=key, location="header"))
    client.headers = {"X-Auth-Subdomain": THINKIFIC.setting("subdomain", subdomain)}
    return client


def _rows(client: RESTClient, path: str, query: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """A whole list; its table is made even if there is nothing in it."""
    yield dlt.mark.materialize_table_schema()
    yield from _pages(client, path, query)


def _pages(client: RESTClient, path: str, query: Mapping[str, Any] | None = None) -> Iterator[list[Row]]:
    """The pages of a list, once more from the first if rows may be missing at the end.

    Pages are cut anew at each request: a row that is deleted meanwhile draws the later ones forward, past the reader.
    """
    for _ in range(2):
        ids: set[int] = set()
        most = 0
        page: int | None = 1
        while page:
            items, total, page = _page(client, path, {**(query or {}), "page": page, "limit": PAGE_SIZE})
            if items:
                yield items
            ids.update(item["id"] for item in items)
            most = max(most, total)
        if most <= min(len(ids), total):
            return
    logger.warning(f"Thinkific counts up to {most} {path}, but lists {len(ids)}: they change while they are read.")


def _total(client: RESTClient, path: str, query: Mapping[str, Any]) -> int:
    _, total, _ = _page(client, path, {**query, "page": 1, "limit": 1})
    return total


def _page(client: RESTClient, path: str, query: Row) -> tuple[list[Row], int, int | None]:
    """A page's rows, the number of rows of all pages, and the next page."""
    response = client.get(path, params=query, allow_redirects=False)  # to another host the key would go along
    if response.is_redirect:
        raise PermanentSourceError(f"{response.url} leads elsewhere: check {THINKIFIC.variable('api_base_url')}.")
    body = THINKIFIC.body(response)
    try:
        pagination = body["meta"]["pagination"]
        return body["items"], pagination["total_items"], pagination["next_page"]
    except (KeyError, TypeError):
        raise TransientSourceError(f"Thinkific sent JSON that is no list of {path} at {response.url}.") from None


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _columns(**names: str) -> TTableSchemaColumns:
    """Columns by type: typed, so that they exist even while they are null."""
    return {name: {"data_type": kind} for kind, found in names.items() for name in found.split()}  # type: ignore[typeddict-item]


_COLUMNS: Mapping[str, TTableSchemaColumns] = {
    "courses": _columns(
        bigint="id product_id user_id instructor_id",
        text="name slug subtitle description keywords duration course_card_text contact_information "
        "intro_video_youtube intro_video_wistia_identifier banner_image_url course_card_image_url",
        bool="reviews_enabled",
    ),
    "users": _columns(
        bigint="id",
        text="first_name last_name full_name email company headline bio avatar_url external_source affiliate_code "
        "affiliate_commission_type affiliate_payout_email",
        double="affiliate_commission",
        timestamp="created_at",
    ),
    "enrollments": _columns(
        bigint="id user_id course_id",
        text="user_name user_email course_name",
        double="percentage_completed",
        bool="completed expired is_free_trial",
        timestamp="activated_at started_at completed_at expiry_date updated_at",
    ),
    "course_reviews": _columns(
        bigint="id course_id user_id",
        double="rating",
        text="title review_text",
        bool="approved",
        timestamp="created_at",
    ),
}
