"""What a run's partition means to dlt: a time window is an interval; a name has cursors of its own."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from dagster import (
    MultiPartitionKey,
    MultiPartitionsDefinition,
    OpExecutionContext,
    TimeWindow,
    TimeWindowPartitionsDefinition,
)
from dlt.common.configuration.container import Container
from dlt.extract.incremental.context import TimeIntervalContext
from dlt.extract.source import DltSource

from runtime.load.cursors import incrementals, reads_window


def time_interval(context: OpExecutionContext) -> AbstractContextManager[Any]:
    """Within it, cursors read the run's time window `[start, end)`, and their stored values stay.

    dagster-dlt does not pass the partition to dlt: each day would load everything since the cursor. A range of days
    in one run is one window. Cursors that `reads_window` rejects load as in dagster-dlt.
    """
    window = time_window(context)
    if window is None:
        return nullcontext()
    interval = TimeIntervalContext(interval=(window.start, window.end), allow_external_schedulers=True)
    return Container().injectable_context(interval)


def time_window(context: OpExecutionContext) -> TimeWindow | None:
    """The run's time window, or None if its partitions are not time windows."""
    if not (context.has_partition_key or context.has_partition_key_range) or _time_dimension(context) is None:
        return None
    return context.partition_time_window


def needs_pipeline_alone(context: OpExecutionContext, source: DltSource) -> bool:
    """Whether a run of time windows must not load beside any other run of the pipeline.

    A range overlaps with others. A cursor that does not read the window moves on with each run, whatever its window.
    """
    if time_window(context) is None:
        return False
    if context.partition_key_range.start != context.partition_key_range.end:
        return True
    return any(not reads_window(found) and found.end_value is None for _, found in incrementals(source))


def partition_label(context: OpExecutionContext) -> str:
    """The run's partition or range of partitions of any kind. No two runs may load the same one at the same time."""
    if context.has_partition_key:
        return context.partition_key
    if context.has_partition_key_range:
        first, last = context.partition_key_range
        return first if first == last else f"{first}...{last}"
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
    return context.assets_def.partitions_def if context.has_assets_def else context.job_def.partitions_def
