"""Thinkific: a site's courses, users, enrollments and course reviews.

Every table merges on `id`, so any load can be repeated. Only enrollments can be filtered by their last change: a load
reads those that changed since the previous load, and again those of the two days before it. Courses, users and reviews
are read completely each time.

What Thinkific does not report:

- Deletions. Deleted rows stay. They are the rows whose `_dlt_load_id` is older than the newest one of their table (for
  enrollments, after a load with `full_reload=True`, which reads them all).
- Changes around an enrollment. A renamed user or course and an expired access do not update it. Join `users` and
  `courses` and compare `expiry_date` rather than use `user_name`, `user_email`, `course_name` and `expired`.

Variables: SOURCES__THINKIFIC__API_KEY and SOURCES__THINKIFIC__SUBDOMAIN (`school` of https://school.thinkific.com);
optional SOURCES__THINKIFIC__API_BASE_URL, SOURCES__THINKIFIC__MAX_WAIT and SOURCES__THINKIFIC__TIMEOUT (seconds).
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import dlt
from dlt.common import logger
from dlt.common.configuration.specs import BaseConfiguration
from dlt.extract import DltResource
from dlt.sources.helpers.requests import Response
from dlt.sources.helpers.rest_client.auth import APIKeyAuth
from dlt.sources.helpers.rest_client.client import RESTClient

from dlt_sources.errors import PermanentSourceError, TransientSourceError
from dlt_sources.http import ApiClient, Limit, read_limit
from dlt_sources.thinkific.columns import COLUMNS

__all__ = ["thinkific", "thinkific_total"]

Row = dict[str, Any]

PAGE_SIZE = 250  # Thinkific's maximum
WINDOW = 60.0  # seconds of its rate limit
# Thinkific documents neither the time zone of "updated after" nor whether it means a moment or the end of a day. Two
# days cover both, clocks that differ, and changes that become visible late.
OVERLAP = timedelta(days=2)


def _read_limit(response: Response) -> Limit | None:
    """Bounds the wait by the rate limit's window: the unit of Thinkific's reset header is not documented clearly."""
    limit = read_limit(response)
    if limit is None or "Retry-After" in response.headers:
        return limit
    return Limit(limit.name, WINDOW if limit.wait is None else min(limit.wait, WINDOW))


THINKIFIC = ApiClient(
    source="thinkific",
    title="Thinkific",
    credential="api_key",
    companions=("subdomain",),
    base_url="https://api.thinkific.com/api/public/v1",
    permission="a plan that includes the API",
    read_limit=_read_limit,
)


# `spec=BaseConfiguration` switches dlt's injection off: it would take `api_key` from any variable named API_KEY.
@dlt.source(name="thinkific", section="thinkific", spec=BaseConfiguration)
def thinkific(
    subdomain: str | None = None, api_key: str | None = None, full_reload: bool = False
) -> Iterator[DltResource]:
    """Courses, users, enrollments and course reviews of the site at `<subdomain>.thinkific.com`."""

    @dlt.resource(write_disposition="merge", primary_key="id", columns=COLUMNS["courses"])
    def courses() -> Iterator[Any]:
        """Courses of a Thinkific site, one row each, with the ids of their chapters and administrators."""
        yield from _rows(_client(subdomain, api_key), "courses")

    @dlt.resource(write_disposition="merge", primary_key="id", columns=COLUMNS["users"])
    def users() -> Iterator[Any]:
        """Students and staff of a Thinkific site, one row each, with their roles and custom profile fields."""
        yield from _rows(_client(subdomain, api_key), "users")

    @dlt.resource(write_disposition="merge", primary_key="id", columns=COLUMNS["enrollments"])
    def enrollments() -> Iterator[Any]:
        """Who is enrolled in which Thinkific course and how far they got (0 to 1), one row per user and course."""
        client = _client(subdomain, api_key)
        # One cursor per site: the time at which reading began, as a row that changes during the reading may be on a
        # page that has been read already.
        cursors, began = dlt.current.resource_state(), datetime.now(UTC)
        site = THINKIFIC.setting("subdomain", subdomain)
        since = None if full_reload else cursors.get(site)
        if since:
            after = _text(datetime.fromisoformat(since) - OVERLAP)
            yield from _pages(client, "enrollments", {"query[updated_after]": after})
        else:
            yield from _rows(client, "enrollments")
        cursors[site] = began.isoformat()

    @dlt.transformer(data_from=courses, write_disposition="merge", primary_key="id", columns=COLUMNS["course_reviews"])
    def course_reviews(page: list[Row]) -> Iterator[Any]:
        """Reviews that users wrote of Thinkific courses (rating 1 to 5), one row each, approved or not."""
        client = _client(subdomain, api_key)
        for course in page:
            yield from _rows(client, "course_reviews", {"course_id": course["id"]})

    yield from (courses, users, enrollments, course_reviews)


def thinkific_total(
    table: str, subdomain: str | None = None, api_key: str | None = None, created_before: datetime | None = None
) -> int:
    """The number of rows that Thinkific counts in a table now, to check a load. Reviews take a request per course.

    Enrollments created after `created_before` are not counted; Thinkific cannot filter the other tables.
    """
    client = _client(subdomain, api_key)
    if table == "course_reviews":
        courses = [course["id"] for page in _pages(client, "courses") for course in page]
        return sum(_total(client, table, {"course_id": course}) for course in courses)
    created = created_before if table == "enrollments" else None
    return _total(client, table, {"query[created_before]": _text(created)} if created else {})


def _client(subdomain: str | None, api_key: str | None) -> RESTClient:
    client = THINKIFIC.rest_client(api_key, lambda key: APIKeyAuth(name="X-Auth-API-Key", api_key=key))
    client.headers = {"X-Auth-Subdomain": THINKIFIC.setting("subdomain", subdomain)}
    return client


def _rows(client: RESTClient, path: str, query: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """A complete list; its table is created even if the list is empty."""
    yield dlt.mark.materialize_table_schema()
    yield from _pages(client, path, query)


def _pages(client: RESTClient, path: str, query: Mapping[str, Any] | None = None) -> Iterator[list[Row]]:
    """The pages of a list, read a second time if rows may be missing.

    Thinkific pages by offset: when a row is deleted during the reading, later rows move onto pages already read.
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
    logger.warning(f"Thinkific counts up to {most} {path}, but lists {len(ids)}: they changed during the load.")


def _total(client: RESTClient, path: str, query: Mapping[str, Any]) -> int:
    _, total, _ = _page(client, path, {**query, "page": 1, "limit": 1})
    return total


def _page(client: RESTClient, path: str, query: Row) -> tuple[list[Row], int, int | None]:
    """A page's rows, the number of rows on all pages, and the number of the next page."""
    response = client.get(path, params=query, allow_redirects=False)  # a redirect would send the key to another host
    if response.is_redirect:
        raise PermanentSourceError(f"{response.url} redirects: check {THINKIFIC.variable('api_base_url')}.")
    body = THINKIFIC.body(response)
    try:
        pagination = body["meta"]["pagination"]
        return body["items"], pagination["total_items"], pagination["next_page"]
    except (KeyError, TypeError):
        raise TransientSourceError(f"Thinkific sent JSON that is not a list of {path} at {response.url}.") from None


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
