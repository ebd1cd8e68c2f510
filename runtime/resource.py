"""The resource under the key `dlt`: all that makes `yield from dlt.run(context=context)` safe."""

from collections.abc import Iterator, Mapping
from typing import Any

import dlt
from dagster import (
    AssetExecutionContext,
    Failure,
    MultiPartitionKey,
    MultiPartitionsDefinition,
    OpExecutionContext,
    TimeWindowPartitionsDefinition,
)
from dagster_dlt import DagsterDltResource, DagsterDltTranslator
from dagster_dlt.dlt_event_iterator import DltEventType
from dlt.common.pipeline import LoadInfo
from dlt.extract.resource import DltResource
from dlt.extract.source import DltSource
from dlt.pipeline.exceptions import PipelineStepFailed

from runtime.metadata import resource_metadata
from runtime.pipeline import run_pipeline

Context = OpExecutionContext | AssetExecutionContext


class IsolatedDltResource(DagsterDltResource):
    """dagster-dlt's resource, made safe for runs at the same time. Drop-in: same arguments, same events.

    Each run gets a source and a pipeline of its own. See `runtime.pipeline` for what is private and why.
    """

    def _run(
        self,
        context: Context,
        dlt_source: DltSource,
        dlt_pipeline: dlt.Pipeline,
        dagster_dlt_translator: DagsterDltTranslator,
        **kwargs: Any,
    ) -> Iterator[DltEventType]:
        op = context.op_execution_context if isinstance(context, AssetExecutionContext) else context
        with run_pipeline(
            dlt_pipeline,
            run_id=op.run.run_id,
            step_key=str(op.op_handle).replace(".", "_"),
            lineage=named_partition(op),
            log=context.log.info,
        ) as pipeline:
            # The source is shared by all runs of the process; dlt writes what it infers into a source's schema.
            try:
                yield from super()._run(context, dlt_source.clone(), pipeline, dagster_dlt_translator, **kwargs)
            except PipelineStepFailed as error:
                # The reason alone, where dlt's message starts with packages and paths. Its whole story is the cause.
                raise Failure(f"{error.step} failed: {error.exception}") from error

    def extract_resource_metadata(
        self, context: Context, resource: DltResource, load_info: LoadInfo, dlt_pipeline: dlt.Pipeline
    ) -> Mapping[str, Any]:
        """What one asset's materialization says. Tables of a resource are its own and their children."""
        return resource_metadata(resource, load_info, dlt_pipeline)


def named_partition(context: OpExecutionContext) -> str | None:
    """The part of the run's partition key that is not a time window, or None.

    A time window bounds what is read and leaves cursors alone; a name selects another history.
    """
    if not context.has_partition_key:
        return None
    key = context.partition_key
    partitions_def = context.assets_def.partitions_def if context.has_assets_def else None
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
