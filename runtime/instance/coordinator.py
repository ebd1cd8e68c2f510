"""Queues runs and, where people log in, records who launched them in the tag `user`, which the UI shows."""

import os
from typing import TYPE_CHECKING, Any

from dagster import DagsterRun
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext
from dagster._core.storage.tags import REPORTING_USER_TAG, USER_TAG
from dagster._core.workspace.context import BaseWorkspaceRequestContext, WorkspaceRequestContext

from runtime.instance import backfills

if TYPE_CHECKING:
    from dagster._core.execution.backfill import PartitionBackfill
    from dagster_graphql.schema.util import ResolveInfo

UNKNOWN = "unknown"

backfills.install()  # for `make dev`, whose daemon is Dagster's own


class UserRunCoordinator(QueuedRunCoordinator[Any]):
    """Dagster's queue. It trusts the header that USER_HEADER names, so only a webserver behind a login may have it set.

    There, no tag `user` of a client counts, nor one that a re-execution copies from the first run: a request without
    the header, which did not come through the login, is by `unknown`. Elsewhere tags stay as they are, so that the
    daemon's runs of a backfill, and its retries, keep their user.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if user_header():
            tag_backfills()

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        if header := user_header():
            user = context.get_request_header(header) or UNKNOWN
            self._instance.add_run_tags(context.dagster_run.run_id, {USER_TAG: user})
        return super().submit_run(context)


def user_header() -> str | None:
    return os.environ.get("USER_HEADER")


def tag_backfills() -> None:
    """Lets a webserver tag backfills, and materializations that are reported, with the user of the request."""
    from dagster_graphql.schema.roots import mutation

    WorkspaceRequestContext.get_viewer_tags = lambda self: user_tags(self, USER_TAG)  # type: ignore[method-assign]
    WorkspaceRequestContext.get_reporting_user_tags = (  # type: ignore[method-assign]
        lambda self: user_tags(self, REPORTING_USER_TAG)
    )
    mutation.retry_partition_backfill = retry_partition_backfill  # type: ignore[attr-defined]


def user_tags(context: BaseWorkspaceRequestContext, tag: str) -> dict[str, str]:
    header = user_header()
    headers = getattr(getattr(context, "source", None), "headers", {})
    return {tag: headers.get(header) or UNKNOWN} if header else {}


def retry_partition_backfill(graphene_info: "ResolveInfo", backfill_id: str, strategy: str) -> Any:
    """Re-executes a backfill as the user of the request. Dagster copies the first backfill's tags, user included."""
    from dagster_graphql.implementation.execution import retry_partition_backfill as retry

    context = graphene_info.context

    def add_backfill(backfill: "PartitionBackfill") -> None:
        context.instance.add_backfill(backfill._replace(tags={**backfill.tags, **context.get_viewer_tags()}))

    instance = Replaced(context.instance, add_backfill=add_backfill)
    info: Any = Replaced(graphene_info, context=Replaced(context, instance=instance))
    return retry(info, backfill_id, strategy)


class Replaced:
    """An object with some attributes replaced."""

    def __init__(self, original: Any, **attributes: Any) -> None:
        self._original = original
        vars(self).update(attributes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)
