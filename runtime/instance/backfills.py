"""Backfills over assets of several locations, such as a mart with all of its upstream."""

from collections.abc import Collection, Sequence
from typing import Any

from dagster import RunRequest
from dagster._core.definitions.automation_tick_evaluation_context import build_run_requests_with_backfill_policies
from dagster._core.execution import asset_backfill


def requests_by_location(asset_partitions: Collection[Any], asset_graph: Any, **options: Any) -> Sequence[RunRequest]:
    """The runs of one iteration of a backfill, each with assets of one location.

    Dagster puts assets without partitions, and those with the same partitions and backfill policy, into one run
    whatever their location is. A run is in one location, so the whole backfill fails: "Failed to target asset
    selection".
    """
    keys = {partition.asset_key for partition in asset_partitions}
    return [
        request
        for of_location in asset_graph.split_entity_keys_by_repository(keys)
        for request in build_run_requests_with_backfill_policies(
            [partition for partition in asset_partitions if partition.asset_key in of_location], asset_graph, **options
        )
    ]


def install() -> None:
    """Has Dagster's daemon use it."""
    setattr(asset_backfill, "build_run_requests_with_backfill_policies", requests_by_location)  # noqa: B010
