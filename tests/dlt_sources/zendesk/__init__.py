"""Zendesk: support tickets. Variables: SOURCES__ZENDESK__ACCESS_TOKEN; optional SOURCES__ZENDESK__API_BASE_URL."""

from collections.abc import Iterator
from typing import Any

import dlt
from dlt.extract import DltResource
from dlt.sources.helpers.rest_client.paginators import JSONResponseCursorPaginator

from dlt_sources.http import ApiClient

ZENDESK = ApiClient(
    source="zendesk",
    title="Zendesk",
    credential="access_token",
    base_url="https://example.zendesk.com/api/v2",  # your account's
    permission="the scope tickets:read",
)


@dlt.source(section="zendesk")
def zendesk() -> DltResource:
    # The newest tickets are read again by the next load: others may have changed in the same second.
    newest = dlt.sources.incremental[str]("updated_at", initial_value="2010-01-01T00:00:00Z", primary_key=())

    @dlt.resource(write_disposition="merge", primary_key="id")
    def tickets(updated_at: dlt.sources.incremental[str] = newest) -> Iterator[Any]:
        """Support tickets, one row each, brought up to date as they change."""
        yield from ZENDESK.rest_client().paginate(
            "search/export",
            params={"filter[type]": "ticket", "query": f"updated>={updated_at.last_value}", "page[size]": 100},
            paginator=JSONResponseCursorPaginator("meta.after_cursor", "page[after]", has_more_path="meta.has_more"),
            data_selector="results",
        )

    return tickets
