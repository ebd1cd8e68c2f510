"""The resource under the key `dlt`: it makes `yield from dlt.run(context=context)` safe."""

from collections.abc import Iterator, Mapping
from typing import Any

import dlt
from dagster import AssetExecutionContext, Failure, OpExecutionContext
from dagster_dlt import DagsterDltResource, DagsterDltTranslator
from dagster_dlt.constants import META_KEY_PIPELINE, META_KEY_SOURCE, META_KEY_TRANSLATOR
from dagster_dlt.dlt_event_iterator import DltEventIterator, DltEventType
from dlt.common.pipeline import LoadInfo
from dlt.common.runtime.collector import LogCollector, NullCollector
from dlt.destinations.exceptions import DestinationConnectionError
from dlt.extract.resource import DltResource
from dlt.extract.source import DltSource
from dlt.load.exceptions import LoadClientJobException
from dlt.pipeline.exceptions import PipelineStepFailed

from runtime.load.advice import missing_settings, without_secrets
from runtime.load.assets import dlt_objects
from runtime.load.cursors import prepare_cursors
from runtime.load.directories import data_directory
from runtime.load.locks import partition_lock, pipeline_lock
from runtime.load.metadata import resource_metadata
from runtime.load.partitions import needs_pipeline_alone, partition_label, time_interval, time_window
from runtime.load.pipeline import LoadFailed, run_pipeline
from runtime.load.retries import (
    ERRORS,
    causes,
    disable_run_retries,
    disk_is_full,
    is_operational,
    is_transient,
    retrying,
    unresolved_host,
)
from runtime.load.source_state import Reads
from runtime.load.sweep import sweep_files
from runtime.load.values.columns import ValueRefused
from runtime.load.values.duplicates import record_keys
from runtime.load.values.items import check_values
from runtime.load.warehouse import query_int

Context = OpExecutionContext | AssetExecutionContext

PROGRESS_SECONDS = 10.0


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

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Raises TypeError if a subclass would load without isolation."""
        super().__init_subclass__(**kwargs)
        if "_run" in vars(cls):
            raise TypeError(
                f"{cls.__name__} overrides _run, which isolates and retries loads. Override run() or "
                "extract_resource_metadata() instead."
            )

    def _run(
        self,
        context: Context,
        dlt_source: DltSource,
        dlt_pipeline: dlt.Pipeline,
        dagster_dlt_translator: DagsterDltTranslator,
        **kwargs: Any,
    ) -> Iterator[DltEventType]:
        op = context.op_execution_context if isinstance(context, AssetExecutionContext) else context
        reads = Reads(dlt_source)
        # A run has changed nothing before it loads, so it may start again from the beginning, if the source does, too.
        # A load retries itself. Seven attempts wait for about a minute: an API or a warehouse may come back.
        attempts = retrying(7, seconds=3, log=op.log.warning, unless=lambda: not reads.begin_anew())
        try:
            events = attempts(
                self._load_once, op, reads, context, dlt_source, dlt_pipeline, dagster_dlt_translator, **kwargs
            )
        except ERRORS as error:
            # A source that has been read begins anew only in a new process, in a restart of the run.
            if not is_transient(error) or reads.begin_anew():
                disable_run_retries(op)
            if sentence := explanation(error, dlt_pipeline):
                raise Failure(sentence) from error
            raise
        yield from events
        sweep_files(op.instance, op.log.warning)

    def _load_once(
        self,
        op: OpExecutionContext,
        reads: Reads,
        context: Context,
        dlt_source: DltSource,
        dlt_pipeline: dlt.Pipeline,
        dagster_dlt_translator: DagsterDltTranslator,
        **kwargs: Any,
    ) -> list[DltEventType]:
        """One attempt, from a new working directory to the events of a complete load."""
        lock = (
            pipeline_lock(op, dlt_pipeline)
            if needs_pipeline_alone(op, dlt_source)
            else partition_lock(op, dlt_pipeline, partition_label(op))
        )
        # All runs of this process share the source, and dlt writes what it infers into a source's schema.
        source = dlt_source.clone()
        reads.watch(source)
        prepare_cursors(source, time_window(op) is not None, kwargs.get("write_disposition"))
        with lock as confirm, run_pipeline(dlt_pipeline, op) as pipeline, time_interval(op):
            pipeline.confirm = confirm
            pipeline.fragile = check_values(source, pipeline)
            pipeline.keys = record_keys(source)
            if isinstance(pipeline.collector, NullCollector):
                pipeline.collector = Progress(PROGRESS_SECONDS, op.log, dump_system_stats=False)
            try:
                return list(super()._run(context, source, pipeline, dagster_dlt_translator, **kwargs))
            except Exception as error:
                reads.has_failed(error)
                if pipeline.has_loaded:  # another attempt would load all rows again
                    raise LoadFailed(error) from error
                raise

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
        if not (table := metadata.get("dagster/table_name")):  # none yet, or several: dynamic table names
            return {} if any(name.startswith("rows_loaded/") for name in metadata) else {"dagster/row_count": 0}
        try:
            # Quoted, because a table may be called `order`, and an unquoted `user` is a function in Postgres.
            name = self._dlt_pipeline.sql_client().make_qualified_table_name(table.split(".")[-1])
            return {"dagster/row_count": query_int(self._dlt_pipeline, f"SELECT count(*) FROM {name}") or 0}
        except Exception as error:  # everything is loaded, so the run must not fail
            self._context.log.warning(f"The rows of {table} could not be counted: {error}")
            return {}


class Progress(LogCollector):
    """Writes dlt's progress to the run's log, but only of steps that take long: Dagster keeps events for ever."""

    def _start(self, step: str) -> None:
        super()._start(step)
        self.last_log_time = self._clock()

    def _stop(self) -> None:
        """Writes no last line: the materialization reports the totals."""


def explanation(error: BaseException, pipeline: dlt.Pipeline) -> str | None:
    """The first line of a failed run: what failed, and what to do. None if the error's own line says it all."""
    if disk_is_full(error):
        return f"No space is left in {data_directory()}, where loads keep their files. Free some space."
    if sentence := missing_settings(error):
        return sentence
    if refused := next((cause for cause in causes(error) if isinstance(cause, ValueRefused)), None):
        return str(refused)
    if host := unresolved_host(error):
        return f"Cannot resolve {host}. Check the address, and that this container is online."
    if not isinstance(error, PipelineStepFailed | LoadFailed):
        return None
    if isinstance(error.exception, Failure):
        return error.exception.description
    # dlt's message starts with packages and paths. It stays in the log as the cause.
    return without_secrets(f"{_step(error, pipeline)}: {_reason(error.exception)}")


def _reason(error: BaseException) -> str:
    """What went wrong. Of a load job, the table and the words of the warehouse, in place of ids and tracebacks."""
    if not isinstance(error, LoadClientJobException):
        return str(error)
    table = error.job_id.partition(".")[0]
    *_, cause = causes(error)
    return f"table {table}: {' '.join(str(cause).split())}"


def _step(error: PipelineStepFailed | LoadFailed, pipeline: dlt.Pipeline) -> str:
    if error.step != "sync":
        return f"{error.step} failed"
    if not any(isinstance(cause, DestinationConnectionError) or is_operational(cause) for cause in causes(error)):
        return "Cannot read dlt's tables in the warehouse"
    name = pipeline.destination.destination_name
    return f"Cannot connect to the warehouse. Check that it is up, and DESTINATION__{name.upper()}__CREDENTIALS__…"
