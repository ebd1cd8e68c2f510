"""The resource under the key `dlt`: it makes `yield from dlt.run(context=context)` safe."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import dlt
from dagster import AssetExecutionContext, Failure, OpExecutionContext
from dagster_dlt import DagsterDltResource, DagsterDltTranslator
from dagster_dlt.constants import META_KEY_PIPELINE, META_KEY_SOURCE, META_KEY_TRANSLATOR
from dagster_dlt.dlt_event_iterator import DltEventIterator, DltEventType
from dlt.common.exceptions import TerminalException
from dlt.common.pipeline import LoadInfo
from dlt.common.runtime.collector import LogCollector, NullCollector
from dlt.extract.resource import DltResource
from dlt.extract.source import DltSource
from dlt.pipeline.exceptions import PipelineStepFailed

from runtime.load.advice import missing_settings
from runtime.load.assets import dlt_objects
from runtime.load.directories import data_directory
from runtime.load.locks import partition_lock
from runtime.load.metadata import resource_metadata
from runtime.load.partitions import partition_label, time_interval
from runtime.load.pipeline import LoadFailed, run_pipeline, state_name
from runtime.load.retries import disk_is_full, retrying
from runtime.load.sweep import sweep_files
from runtime.load.warehouse import count

Context = OpExecutionContext | AssetExecutionContext

PROGRESS_SECONDS = 10.0
RETRY_ON_FAILURE_TAG = "dagster/retry_on_asset_or_op_failure"


class IsolatedDltResource(DagsterDltResource):
    """A drop-in `DagsterDltResource` that is safe when runs load at the same time: same arguments, same events.

    Each run gets its own source and its own pipeline. `runtime.load.pipeline` says what is private and why.
    """

    def run(
        self,
        context: Context,
        dlt_source: DltSource | None = None,
        dlt_pipeline: dlt.Pipeline | None = None,
        dagster_dlt_translator: DagsterDltTranslator | None = None,
        **kwargs: Any,
    ) -> DltEventIterator[DltEventType]:
        """Loads, and yields one event per asset. Takes the arguments of `DagsterDltResource.run`."""
        own = dlt_objects(context.assets_def) if isinstance(context, AssetExecutionContext) else {}
        events = super().run(
            context,
            dlt_source or own.get(META_KEY_SOURCE),
            dlt_pipeline or own.get(META_KEY_PIPELINE),
            dagster_dlt_translator or own.get(META_KEY_TRANSLATOR),
            **kwargs,
        )
        return CountingEventIterator(events, context, events._dlt_pipeline)

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
            # A run has changed nothing before it loads, so it may start again from the beginning. A load retries
            # itself. Seven attempts wait for at least a minute: an API, a warehouse or disk space may come back.
            for attempt in retrying(attempts=7, seconds=3, log=op.log.warning):
                with attempt:
                    events = self._load_once(op, context, dlt_source, dlt_pipeline, dagster_dlt_translator, **kwargs)
        except (Exception, TerminalException) as error:  # dlt's TerminalException is no Exception
            disable_run_retries(op)
            if disk_is_full(error):
                raise Failure(
                    f"No space is left in {data_directory()}, where loads keep their files. Free some space."
                ) from error
            if sentence := missing_settings(error):
                raise Failure(sentence) from error
            if isinstance(error, PipelineStepFailed | LoadFailed):
                # dlt's message starts with packages and paths. It stays in the log as the cause.
                raise Failure(f"{summary(error, dlt_pipeline)}: {error.exception}") from error
            raise
        yield from events
        clean_up(op)

    def _load_once(
        self,
        op: OpExecutionContext,
        context: Context,
        dlt_source: DltSource,
        dlt_pipeline: dlt.Pipeline,
        dagster_dlt_translator: DagsterDltTranslator,
        **kwargs: Any,
    ) -> list[DltEventType]:
        """One attempt, from a new working directory to the events of a complete load."""
        with (
            partition_lock(state_name(dlt_pipeline, partition_label(op)), op.log.info),
            run_pipeline(dlt_pipeline, op) as pipeline,
            time_interval(op),
        ):
            if isinstance(pipeline.collector, NullCollector):
                pipeline.collector = Progress(PROGRESS_SECONDS, op.log, dump_system_stats=False)
            # All runs of this process share the source, and dlt writes what it infers into a source's schema.
            source = dlt_source.clone()
            return list(super()._run(context, source, pipeline, dagster_dlt_translator, **kwargs))

    def extract_resource_metadata(
        self, context: Context, resource: DltResource, load_info: LoadInfo, dlt_pipeline: dlt.Pipeline
    ) -> Mapping[str, Any]:
        """The metadata of one asset's materialization, for the resource's tables and their children."""
        return resource_metadata(resource, load_info, dlt_pipeline)


class CountingEventIterator(DltEventIterator[DltEventType]):
    """What `dlt.run` returns. dagster-dlt's `fetch_row_count` fails on an empty load and on DuckDB's file lock."""

    def fetch_row_count(self) -> DltEventIterator[DltEventType]:
        """Adds the number of rows that each asset's table has, or that its partition sent."""

        def counted() -> Iterator[DltEventType]:
            for event in self:
                metadata: dict[str, Any] = dict(event.metadata or {})
                yield event._replace(metadata=metadata | self._row_count(metadata))

        return CountingEventIterator(counted(), self._context, self._dlt_pipeline)

    def _row_count(self, metadata: dict[str, Any]) -> dict[str, int]:
        if self._context.has_partition_key:
            return {"dagster/partition_row_count": metadata["rows_loaded"].value}
        if not (table := metadata.get("dagster/table_name")):
            return {"dagster/row_count": 0}
        # Quoted, because a table may be called `order`, and an unquoted `user` is a function in Postgres.
        name = self._dlt_pipeline.sql_client().make_qualified_table_name(table.split(".")[-1])
        return {"dagster/row_count": count(self._dlt_pipeline, f"SELECT count(*) FROM {name}") or 0}


class Progress(LogCollector):
    """Writes dlt's progress to the run's log, but only of steps that take long: Dagster keeps events for ever."""

    def _start(self, step: str) -> None:
        super()._start(step)
        self.last_log_time = self._clock()

    def _stop(self) -> None:
        """Writes no last line: the materialization reports the totals."""


def disable_run_retries(context: OpExecutionContext) -> None:
    """Keeps Dagster from restarting a run whose load failed: everything worth a retry was retried within the run."""
    with suppress(Exception):  # Dagster's own database is away, which is a reason to restart the run
        context.instance.add_run_tags(context.run.run_id, {RETRY_ON_FAILURE_TAG: "false"})


def clean_up(context: OpExecutionContext) -> None:
    """Removes old files of failed runs. This run has loaded, so an error here must not fail it."""
    try:
        sweep_files(context.instance)
    except Exception as error:
        context.log.warning(f"Files of failed runs stay until a later run removes them: {error}")


def summary(error: PipelineStepFailed | LoadFailed, pipeline: dlt.Pipeline) -> str:
    """The first words of a failure: the step, or how to reach the warehouse if the run could not even sync."""
    if error.step != "sync":
        return f"{error.step} failed"
    name = pipeline.destination.destination_name
    return f"Cannot connect to the warehouse. Check that it is up, and DESTINATION__{name.upper()}__CREDENTIALS__…"
