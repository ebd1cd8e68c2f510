"""Zendesk: support tickets. Variables: SOURCES__ZENDESK__ACCESS_TOKEN; optional SOURCES__ZENDESK__API_BASE_URL."""

from collections.abc import Iterator
from typing import Any

import dlt
from dlt.extract import DltResource
from dlt.sources.helpers.rest_client.paginators import JSONLinkPaginator

from dlt_sources.http import ApiClient

ZENDESK = ApiClient(
    source="zendesk",
    title="Zendesk",
    credential="access_token",
    base_url="https://example.zendesk.com/api/v2",  # your account's: edit it, or set SOURCES__ZENDESK__API_BASE_URL
    permission="the scope tickets:read and the role of an admin",
)


@dlt.source(section="zendesk")
def zendesk() -> Iterator[DltResource]:
    # dedup_sort: a ticket that changes during the load is on two pages. The newer version is kept.
    @dlt.resource(write_disposition="merge", primary_key="id", columns={"updated_at": {"dedup_sort": "desc"}})
    def tickets() -> Iterator[Any]:
        """Support tickets, one row each, as of the last load. Deleted tickets have the status `deleted`."""
        yield from _changes("tickets")

    yield tickets


def _changes(table: str) -> Iterator[Any]:
    """What changed since the last load. The cursor is Zendesk's own, and leaves out the last minute."""
    state = dlt.current.resource_state()  # of the resource that calls this. dlt discards it if the load fails
    since = {"cursor": state["cursor"]} if state.get("cursor") else {"start_time": 0}
    paginator = JSONLinkPaginator("after_url")
    path = f"incremental/{table}/cursor.json"
    for page in ZENDESK.rest_client().paginate(path, params=since, paginator=paginator, data_selector=table):
        yield page
        body = page.response.json()
        state["cursor"] = body["after_cursor"] or state.get("cursor")
        if body["end_of_stream"]:
            return
