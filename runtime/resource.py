"""The resource under the key `dlt`: all that makes `yield from dlt.run(context=context)` safe."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import dlt
from dagster import AssetExecutionContext, Failure, OpExecutionContext
from dagster._core.definitions.metadata.metadata_set import TableMetadataSet
from dagster._core.storage.tags import RETRY_ON_ASSET_OR_OP_FAILURE_TAG
from dagster_dlt import DagsterDltResource, DagsterDltTranslator
from dagster_dlt.dlt_event_iterator import DltEventIterator, DltEventType
from dlt.common.exceptions import TerminalException
from dlt.common.pipeline import LoadInfo
from dlt.common.runtime.collector import LogCollector, NullCollector
from dlt.extract.resource import DltResource
from dlt.extract.source import DltSource
from dlt.pipeline.exceptions import PipelineStepFailed

from runtime.metadata import resource_metadata
from runtime.missing_secrets import missing_secrets
from runtime.partitions import named_partition, partition_label, time_interval
from runtime.pipeline import LoadFailed, one_at_a_time, run_pipeline
from runtime.refusals import refuse_unsafe
from runtime.retries import disk_is_full, retrying
from runtime.sweep import sweep_files
from runtime.warehouse import count, data_directory

Context = OpExecutionContext | AssetExecutionContext

PROGRESS_SECONDS = 10.0


class Progress(LogCollector):
    """dlt's progress lines in the run's log: only of steps that take their time, as events are never purged."""

    def _start(self, step: str) -> None:
        super()._start(step)
        self.last_log_time = self._clock()

    def _stop(self) -> None:
        """Without dlt's last line: the materialization says it all."""


class RowCounts(DltEventIterator[DltEventType]):
    """What `dlt.run` returns. dagster-dlt's own `fetch_row_count` fails on an empty load, and on DuckDB's lock."""

    def fetch_row_count(self) -> DltEventIterator[DltEventType]:
        """Adds the rows that each asset's table has now: of the whole table, or those that its partition has sent."""

        def counted() -> Iterator[DltEventType]:
            for event in self:
                metadata: dict[str, Any] = dict(event.metadata or {})
                yield event._replace(metadata=metadata | dict(self._row_count(metadata)))

        return RowCounts(counted(), self._context, self._dlt_pipeline)

    def _row_count(self, metadata: dict[str, Any]) -> TableMetadataSet:
        table = TableMetadataSet.extract(metadata).table_name
        if self._context.has_partition_key:
            return TableMetadataSet(partition_row_count=metadata["rows_loaded"].value)
        if not table:
            return TableMetadataSet(row_count=0)
        # Quoted: `order` is a word of SQL, and Postgres finds one row in `user`, whatever the table has.
        name = self._dlt_pipeline.sql_client().make_qualified_table_name(table.split(".")[-1])
        return TableMetadataSet(row_count=count(self._dlt_pipeline, f"SELECT count(*) FROM {name}") or 0)


class IsolatedDltResource(DagsterDltResource):
    """dagster-dlt's resource, made safe for runs at the same time. Drop-in: same arguments, same events.

    Each run gets a source and a pipeline of its own. See `runtime.pipeline` for what is private and why.
    """

    def run(self, context: Context, *args: Any, **kwargs: Any) -> DltEventIterator[DltEventType]:
        """Loads, and yields one event per asset. Arguments as those of `DagsterDltResource.run`."""
        events = super().run(context, *args, **kwargs)
        return RowCounts(events, context, events._dlt_pipeline)

    def _run(
        self,
        context: Context,
        dlt_source: DltSource,
        dlt_pipeline: dlt.Pipeline,
        dagster_dlt_translator: DagsterDltTranslator,
        **kwargs: Any,
    ) -> Iterator[DltEventType]:
        op = context.op_execution_context if isinstance(context, AssetExecutionContext) else context
        try:
            # Until it loads, a run has changed nothing and may start from the beginning. A load retries itself.
            # Seven attempts wait for a minute or more: an API, a warehouse or a full disk may come back in it.
            for attempt in retrying(attempts=7, seconds=3, log=op.log.warning):
                with (
                    attempt,
                    missing_secrets.demand(dlt_source),
                    one_at_a_time(dlt_pipeline, partition_label(op), op.log.info),
                    run_pipeline(
                        dlt_pipeline,
                        op.instance,
                        run_id=op.run.run_id,
                        step_key=str(op.op_handle).replace(".", "_"),
                        lineage=named_partition(op),
                        log=op.log.info,
                        check=partial(refuse_unsafe, op),
                    ) as pipeline,
                    time_interval(op),
                ):
                    if isinstance(pipeline.collector, NullCollector):
                        pipeline.collector = Progress(PROGRESS_SECONDS, op.log, dump_system_stats=False)
                    # All runs of the process share the source; dlt writes what it infers into a source's schema.
                    source = dlt_source.clone()
                    events = list(super()._run(context, source, pipeline, dagster_dlt_translator, **kwargs))
        except (Exception, TerminalException) as error:  # dlt's is no Exception
            fail_for_good(op)
            if disk_is_full(error):
                raise Failure(
                    f"No space is left in {data_directory()}, where loads keep their files: free some"
                ) from error
            if isinstance(error, PipelineStepFailed | LoadFailed):
                # The reason alone, where dlt's message starts with packages and paths. Its whole story is the cause.
                raise Failure(f"{explain(error, dlt_pipeline)}: {error.exception}") from error
            raise
        yield from events
        clean_up(op)

    def extract_resource_metadata(
        self, context: Context, resource: DltResource, load_info: LoadInfo, dlt_pipeline: dlt.Pipeline
    ) -> Mapping[str, Any]:
        """What one asset's materialization says. Tables of a resource are its own and their children."""
        return resource_metadata(resource, load_info, dlt_pipeline)


def fail_for_good(context: OpExecutionContext) -> None:
    """Keeps run retries from a load that failed: all that was worth another try has had it inside the run."""
    with suppress(Exception):  # Dagster's own database is away: a reason to start the run again
        context.instance.add_run_tags(context.run.run_id, {RETRY_ON_ASSET_OR_OP_FAILURE_TAG: "false"})


def clean_up(context: OpExecutionContext) -> None:
    """Removes the files of other runs. This run has loaded: nothing that happens here may fail it."""
    try:
        sweep_files(context.instance)
    except Exception as error:
        context.log.warning(f"Files that failed runs have left stay for a later run to sweep: {error}")


def explain(error: PipelineStepFailed | LoadFailed, pipeline: dlt.Pipeline) -> str:
    if error.step != "sync":
        return f"{error.step} failed"
    # The first thing that a run does, and all it does there is to reach the warehouse.
    name = pipeline.destination.destination_name
    return f"The warehouse cannot be used; is it up, and are DESTINATION__{name.upper()}__CREDENTIALS__… right? It says"
