"""What a run's partition means to dlt: a time window is an interval; a name has cursors of its own."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from dagster import MultiPartitionKey, MultiPartitionsDefinition, OpExecutionContext, TimeWindowPartitionsDefinition
from dlt.common.configuration.container import Container
from dlt.extract.incremental.context import TimeIntervalContext


def time_interval(context: OpExecutionContext) -> AbstractContextManager[Any]:
    """Within it, every incremental of a source reads the run's time window `[start, end)` and keeps its cursor.

    dagster-dlt does not pass the partition to dlt: each day would load everything since the cursor. A range of days
    in one run is one window.
    """
    if not (context.has_partition_key or context.has_partition_key_range) or _time_dimension(context) is None:
        return nullcontext()
    window = context.partition_time_window
    interval = TimeIntervalContext(interval=(window.start, window.end), allow_external_schedulers=True)
    return Container().injectable_context(interval)


def partition_label(context: OpExecutionContext) -> str:
    """The run's partition or range of partitions of any kind. No two runs may load the same one at the same time."""
    if context.has_partition_key:
        return context.partition_key
    if context.has_partition_key_range:
        return f"{context.partition_key_range.start}...{context.partition_key_range.end}"
    return ""


def named_partition(context: OpExecutionContext) -> str | None:
    """The part of the run's partition key that is not a time window, or None if there is none."""
    if not context.has_partition_key:
        return None
    key, partitions_def = context.partition_key, _partitions_def(context)
    if isinstance(partitions_def, TimeWindowPartitionsDefinition):
        return None
    if isinstance(partitions_def, MultiPartitionsDefinition) and isinstance(key, MultiPartitionKey):
        names = [
            key.keys_by_dimension[dimension.name]
            for dimension in partitions_def.partitions_defs
            if not isinstance(dimension.partitions_def, TimeWindowPartitionsDefinition)
        ]
        return "|".join(names) or None
    return key


def _time_dimension(context: OpExecutionContext) -> TimeWindowPartitionsDefinition | None:
    partitions_def = _partitions_def(context)
    parts = (
        [dimension.partitions_def for dimension in partitions_def.partitions_defs]
        if isinstance(partitions_def, MultiPartitionsDefinition)
        else [partitions_def]
    )
    return next((part for part in parts if isinstance(part, TimeWindowPartitionsDefinition)), None)


def _partitions_def(context: OpExecutionContext) -> Any:
    return context.assets_def.partitions_def if context.has_assets_def else None
