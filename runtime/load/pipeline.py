"""The pipeline of one run: a private copy of the pipeline that the asset names."""

import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import Any

import dlt
from dagster import OpExecutionContext
from dlt.common.exceptions import TerminalException
from dlt.common.pipeline import ExtractInfo, LoadInfo, NormalizeInfo
from dlt.extract.source import DltSource

from runtime.load.directories import data_directory
from runtime.load.guards import (
    check_appends,
    check_destination,
    check_first_load_of_partition,
    check_first_load_of_window,
    check_machines,
    check_run,
    check_try_out,
)
from runtime.load.locks import Confirm, duckdb_file_lock, iceberg_lock, staging_client
from runtime.load.partitions import named_partition
from runtime.load.providers import settings_of
from runtime.load.retries import ERRORS, disk_is_full, record_append, retrying
from runtime.load.sweep import staging_folder, staging_layout, sweep_staged_files, sweep_staging
from runtime.load.values.columns import check_columns
from runtime.load.values.duplicates import Hashes, keep_last_rows
from runtime.load.values.formats import Fragile, keep_fragile
from runtime.load.values.normalizer import strict_values
from runtime.load.warehouse import stored_schemas


class LoadFailed(TerminalException):
    """A load that was retried in vain, cannot succeed, or is complete. The run must not start again from the beginning.

    Has the attributes of a PipelineStepFailed that name the step and its error.
    """

    step = "load"

    def __init__(self, exception: BaseException) -> None:
        super().__init__(str(exception))
        self.exception = exception


class RunPipeline(dlt.Pipeline):
    """A dlt pipeline that checks what it is about to do, waits for DuckDB's file and retries loads.

    `pipeline.run()` syncs, extracts, normalizes and loads. Only sync and load touch the warehouse, so runs keep
    extracting while another run loads.
    """

    op: OpExecutionContext
    template: dlt.Pipeline
    source: DltSource
    keys: Hashes
    fragile: Fragile
    appends = False
    has_loaded = False
    max_items = 0
    confirm: Confirm  # that this run still has its lock
    arguments: Mapping[str, Any]

    def run(self, data: Any = None, max_items: int = 0, **arguments: Any) -> LoadInfo:
        """As in dlt. With `max_items`, a try-out: reads about so many rows of each table, and leaves cursors alone."""
        asked = {**arguments, "refresh": arguments.get("refresh") or self.refresh}
        check_machines(self.op, self)
        check_run(self.op, data, asked)
        if max_items:
            check_try_out(data, asked)
            for resource in data.resources.extracted:
                if not resource.is_transformer:
                    resource.add_limit(max_items, count_rows=True)
            self.op.log.warning(f"Reads only about {max_items} rows of each table. Cursors stay where they are.")
        self.source, self.arguments, self.max_items = data, arguments, max_items
        return super().run(data, **arguments)

    def _sync_destination(self, *args: Any, **kwargs: Any) -> None:
        with duckdb_file_lock(self, self.op.log.info):
            super()._sync_destination(*args, **kwargs)
            check_first_load_of_window(self.op, self, self.source, self.arguments)
            if self.pipeline_name != self.template.pipeline_name and self.source.name not in self.schemas:
                check_first_load_of_partition(self, self.template.pipeline_name, self.source, self.arguments)
                if schema := next(stored_schemas(self, self.source.name), None):  # of the other partitions' tables
                    self.schemas.save_schema(schema, link_import_schema=False)
                    # Loading takes over a file in import_schema_path that has changed since.
                    self.schemas.save_schema(self.schemas.load_schema(schema.name), link_import_schema=False)

    def extract(self, *args: Any, **kwargs: Any) -> ExtractInfo:
        stores_state = self.config.restore_from_destination
        try:
            self.config.restore_from_destination = stores_state and not self.max_items  # false: dlt stores no state
            return super().extract(*args, **kwargs)
        finally:
            self.config.restore_from_destination = stores_state

    def normalize(self, *args: Any, **kwargs: Any) -> NormalizeInfo:
        keep_last_rows(self, self.keys)
        keep_fragile(self, self.fragile)
        with strict_values(self):
            return super().normalize(*args, **kwargs)

    def load(self, *args: Any, **kwargs: Any) -> LoadInfo:
        check_destination(self)
        self.appends = check_appends(self.op, self, self.max_items)
        # A retry resumes the same package and skips completed jobs, so no row loads twice, whatever the write
        # disposition. Ten attempts: of n first loads that create a table together, the slowest fails n - 1 times.
        try:
            info = retrying(attempts=10, seconds=0.2, log=self.op.log.info)(self.load_once, *args, **kwargs)
        except Exception as failure:
            raise LoadFailed(getattr(failure, "exception", failure)) from failure
        self.has_loaded = True
        return info

    def load_once(self, *args: Any, **kwargs: Any) -> LoadInfo:
        """One attempt of `load`."""
        with duckdb_file_lock(self, self.op.log.info), iceberg_lock(self.op, self):
            self.confirm()
            check_columns(self)
            if self.appends:
                record_append(self.op)
            return super().load(*args, **kwargs)


@contextmanager
def run_pipeline(template: dlt.Pipeline, op: OpExecutionContext) -> Iterator[RunPipeline]:
    """Yields a copy of `template` that shares nothing with any other run, and cleans up afterwards.

    The working directory is private because dagster-dlt wipes it before each run, including the packages of other
    runs. The staging dataset is private because dlt truncates it, including rows that another run is about to merge.
    Both names contain the run's id, so that leftovers of a crash can be told from what a running load needs.
    """
    run_id, step_key = op.run.run_id, str(op.op_handle).replace(".", "_")
    directory = Path(tempfile.mkdtemp(prefix=f"{step_key}-", dir=data_directory("runs", run_id)))
    name = state_name(template, named_partition(op))
    destination = _copied(template.destination)
    if destination.destination_type.endswith("sqlalchemy"):
        from runtime.load.values import mysql

        mysql.register()
    capabilities = destination.capabilities()
    if capabilities.supports_ddl_transactions and capabilities.supports_transactions is None:
        # dlt would commit a merge's DELETE before its INSERT, and rows be lost if that one fails.
        destination.caps_params["supports_transactions"] = True
    if template.dataset_name:  # a custom destination may have none, and stages nothing
        staging = staging_layout(template.dataset_name, run_id, step_key)
        destination.config_params["staging_dataset_name_layout"] = staging
    schemas = template.schemas.config
    with settings_of(template.pipeline_name, name):
        pipeline = RunPipeline(
            pipeline_name=name,
            pipelines_dir=str(directory),
            pipeline_salt=template.pipeline_salt,
            destination=destination,
            staging=_copied(template.staging) if template.staging else template.staging,
            dataset_name=template.dataset_name,
            import_schema_path=schemas.import_schema_path or "",
            export_schema_path=schemas.export_schema_path or "",
            dev_mode=False,
            progress=template.collector,
            must_attach_to_local_pipeline=False,
            config=copy(template.config),
            refresh=template.refresh,
        )
        pipeline.dataset_name = template.dataset_name  # the constructor applies dataset_name_layout a second time
        pipeline.op, pipeline.template = op, template
        if files := staging_client(pipeline):  # dlt deletes what is in a table's folder before it writes there
            pipeline.staging.config_params["layout"] = f"{staging_folder(run_id, step_key)}/{files.config.layout}"
        try:
            yield pipeline
            _publish(pipeline, template)
            for attempt in directory.parent.glob(f"{step_key}-*"):  # this attempt and those that failed before it
                shutil.rmtree(attempt, ignore_errors=True)
            with suppress(OSError):  # another op of the run still works in it
                directory.parent.rmdir()
        except ERRORS as error:
            if disk_is_full(error):  # the files are incomplete and the space is needed
                shutil.rmtree(directory, ignore_errors=True)
            raise
        finally:
            if pipeline.is_active:
                pipeline.deactivate()
            if pipeline.default_schema_name:  # otherwise nothing was extracted or staged
                for what, sweep in {"datasets": sweep_staging, "files": sweep_staged_files}.items():
                    try:
                        sweep(pipeline, op.instance, op.log.info)
                    except Exception as error:  # must neither fail a load nor hide why it failed
                        op.log.info(f"Staging {what} stay, because they could not be dropped: {error}")


def _publish(pipeline: dlt.Pipeline, template: Any) -> None:
    """Shows the load to those who ask the asset's pipeline for it: `last_trace`, `default_schema`, `dataset()`."""
    template._last_trace = pipeline.last_trace
    template.default_schema_name = pipeline.default_schema_name
    for schema in pipeline.schemas.values():
        template.schemas.set_live_schema(schema)


def _copied(destination: Any) -> Any:
    """A destination whose parameters can be set. They may hold what cannot be copied, for example a connection."""
    copied = copy(destination)
    copied.config_params, copied.caps_params = dict(destination.config_params), dict(destination.caps_params)
    return copied


def state_name(template: dlt.Pipeline, state_scope: str | None) -> str:
    """The pipeline name under which dlt keeps the state of `state_scope`, for example a named partition.

    dlt keeps one state per pipeline name and the last writer wins: parallel partitions would overwrite each other's
    cursors. Each scope therefore gets a pipeline name of its own.
    """
    if state_scope is None:
        return template.pipeline_name
    readable = re.sub(r"\W+", "_", state_scope).strip("_").lower()[:40]
    return f"{template.pipeline_name}__{readable}_{zlib.crc32(state_scope.encode()):08x}"
