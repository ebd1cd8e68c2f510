"""GitHub: a repository's issues and pull requests with comments and reactions, its stargazers and its events.

Every table merges on a key, so any load can be repeated. What GitHub does not report:

- Deletions. Rows of deleted or transferred issues and of withdrawn stars stay.
- New reactions. They do not move `updated_at`: they are loaded with the next change of their issue, or with
  `full_reload=True`, which reads a repository from the beginning.

Variables: SOURCES__GITHUB__ACCESS_TOKEN; optional SOURCES__GITHUB__API_BASE_URL, SOURCES__GITHUB__MAX_WAIT and
SOURCES__GITHUB__TIMEOUT (seconds).
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dlt
from dlt.common.configuration.specs import BaseConfiguration
from dlt.extract import DltResource

from dlt_sources.github import streams
from dlt_sources.github.columns import EVENT, STARGAZER, THREAD, THREAD_CHILDREN
from dlt_sources.github.helpers import NEWEST, GraphQL, PageSize

__all__ = ["github_reactions", "github_repo_events", "github_stargazers", "github_totals"]

# `spec=BaseConfiguration` switches dlt's injection off: it would take `access_token`, `name` or `max_items` from any
# variable of that name. The sources share a dataset, but each has its own schema: dlt stores schemas by name, and two
# concurrent loads under one name would overwrite each other's changes.


@dlt.source(name="github_reactions", section="github", spec=BaseConfiguration)
def github_reactions(
    owner: str,
    name: str,
    access_token: str | None = None,
    items_per_page: int = 100,
    max_items: int | None = None,
    full_reload: bool = False,
) -> Iterator[DltResource]:
    """Issues and pull requests of a repository, each with all its comments and reactions.

    `max_items` bounds the rows of one load, per resource. Issues are read by the time of their last change, oldest
    first: the next load continues where this one stopped. GitHub cannot list pull requests since a time, so they are
    read newest first. If `max_items` cuts them, the cursor does not move: a load without the bound reads the rest.
    """
    _check(items_per_page)

    def issues() -> Iterator[Any]:
        """Issues of a GitHub repository, one row per repository and number, brought up to date as they change."""
        api = GraphQL(owner, name, access_token)
        yield from streams.read(api, streams.ISSUES, items_per_page, max_items, full_reload)

    def pull_requests() -> Iterator[Any]:
        """Pull requests of a GitHub repository, one row per repository and number, updated as they change."""
        api = GraphQL(owner, name, access_token)
        yield from streams.read(api, streams.PULL_REQUESTS, items_per_page, max_items, full_reload)

    for resource in (issues, pull_requests):
        yield dlt.resource(
            resource,
            write_disposition="merge",
            primary_key=["repository_owner", "repository_name", "number"],
            columns=THREAD,
            nested_hints=THREAD_CHILDREN,
        )


@dlt.source(name="github_stargazers", section="github", spec=BaseConfiguration)
def github_stargazers(
    owner: str,
    name: str,
    access_token: str | None = None,
    items_per_page: int = 100,
    max_items: int | None = None,
    full_reload: bool = False,
) -> DltResource:
    """Who starred a repository, and when; `max_items` works as for pull requests."""
    _check(items_per_page)

    def stargazers() -> Iterator[Any]:
        """Users who starred a GitHub repository, one row per repository and user, with the time of the star."""
        api = GraphQL(owner, name, access_token)
        yield from streams.read(api, streams.STARGAZERS, items_per_page, max_items, full_reload)

    return dlt.resource(
        stargazers,
        write_disposition="merge",
        primary_key=["repository_owner", "repository_name", "user__login"],
        columns=STARGAZER,
    )


@dlt.source(name="github_repo_events", section="github", spec=BaseConfiguration, max_table_nesting=2)
def github_repo_events(
    owner: str, name: str, access_token: str | None = None, full_reload: bool = False
) -> DltResource:
    """Recent events of a repository, with one table per type (`push_event`, `watch_event`, …).

    GitHub lists only the last 300 events, some of them up to six hours late: load before 300 more have happened.
    """

    def repo_events() -> Iterator[Any]:
        """Events of a GitHub repository (pushes, comments, stars, …), one row each, in one table per type."""
        yield from streams.read_events(owner, name, access_token, full_reload)

    return dlt.resource(
        repo_events,
        write_disposition="merge",
        primary_key="id",
        table_name=lambda event: event.get("type") or "UnknownEvent",
        columns=EVENT,
    )


def github_totals(
    owner: str, name: str, access_token: str | None = None, created_before: datetime | None = None
) -> dict[str, int]:
    """The numbers of `issues`, `pull_requests` and `stargazers` that GitHub counts now, to check a load.

    Those created or starred after `created_before`, when the load began, are not counted.
    """
    api = GraphQL(owner, name, access_token)
    before = created_before
    if before and before.tzinfo is None:
        before = before.replace(tzinfo=UTC)
    totals = {}
    for resource, query in NEWEST.items():
        newer = 0
        for page in api.pages(query, PageSize(100 if before else 1)):
            items = [item for item in page.get("nodes") or page.get("edges") or () if item]
            times = [datetime.fromisoformat(item.get("createdAt") or item["starredAt"]) for item in items]
            late = sum(time > before for time in times) if before else 0
            newer += late
            if not before or late < len(items):
                break
        totals[resource] = page["totalCount"] - newer
    return totals


def _check(items_per_page: int) -> None:
    if not 1 <= items_per_page <= 100:
        raise ValueError(f"items_per_page must be from 1 to 100, GitHub's maximum, not {items_per_page}.")
