"""The pipeline of one run: a private copy of the one that the asset names."""

import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import dlt
from dagster import DagsterInstance
from dlt.common.destination.client import WithStateSync
from dlt.common.destination.utils import resolve_merge_strategy
from dlt.common.exceptions import TerminalException
from dlt.common.pipeline import LoadInfo
from dlt.common.schema.utils import get_merge_strategy
from dlt.extract.source import DltSource
from dlt.pipeline.exceptions import PipelineStepFailed

from runtime import normalize  # noqa: F401  # dlt takes its normalizer from there
from runtime.retries import disk_is_full, retrying
from runtime.sweep import staging_layout, sweep_staging
from runtime.warehouse import data_directory, waiting_lock, warehouse_turn

Log = Callable[[str], None]
Check = Callable[[DltSource, Mapping[str, Any]], None]


class LoadFailed(TerminalException):
    """A load that no further try can mend, or that was tried in vain. Never to be started from the beginning."""

    step = "load"

    def __init__(self, failure: PipelineStepFailed) -> None:
        super().__init__(str(failure))
        self.exception = failure.exception


class DestinationUnfit(TerminalException):
    """A load that this destination would not keep right."""


class RunPipeline(dlt.Pipeline):
    """A dlt pipeline that waits for its turn on the warehouse and tries a load again where that is safe.

    `pipeline.run()` syncs, extracts, normalizes and loads; only the first and the last touch the warehouse, so
    runs go on extracting while another one loads.
    """

    log: Log
    check: Check

    def run(self, data: Any = None, **arguments: Any) -> LoadInfo:
        self.check(data, {**arguments, "refresh": arguments.get("refresh") or self.refresh})
        return super().run(data, **arguments)

    def _sync_destination(self, *args: Any, **kwargs: Any) -> None:
        with warehouse_turn(self, self.log):
            super()._sync_destination(*args, **kwargs)

    def load(self, *args: Any, **kwargs: Any) -> LoadInfo:
        self._refuse_unfit_destination()
        # Asked again, dlt goes on with the same package and leaves out the jobs that are done: nothing loads twice,
        # whatever the write disposition. Ten attempts: of n first loads at once, one may lose n - 1 races.
        try:
            for attempt in retrying(attempts=10, seconds=0.2, log=self.log):
                with attempt, warehouse_turn(self, self.log):
                    return super().load(*args, **kwargs)
        except PipelineStepFailed as failure:
            raise LoadFailed(failure) from failure
        raise AssertionError("tenacity either returns or raises")

    def _refuse_unfit_destination(self) -> None:
        """Raises DestinationUnfit if cursors would be gone with the working directory, or a merge would append."""
        client, name = self.destination_client(), self.destination.destination_name  # not connected: it is not our turn
        keeps_state, capabilities = isinstance(client, WithStateSync), client.capabilities
        if self.state.get("sources") and not (keeps_state and self.config.restore_from_destination):
            where = (
                "RESTORE_FROM_DESTINATION=false keeps from being read back" if keeps_state else f"{name} cannot keep"
            )
            raise DestinationUnfit(
                f"The source has cursors or other state, which {where}: each run would load everything again. Use a "
                "destination that dlt can store state in, or a source without state. Nothing was loaded."
            )
        merged = [
            str(table["name"])
            for schema in self.schemas.values()
            for table in schema.data_tables()
            if table.get("write_disposition") == "merge"
            and capabilities.supported_merge_strategies  # a destination of the user's own may merge by itself
            and resolve_merge_strategy(schema.tables, table, capabilities)
            != (get_merge_strategy(schema.tables, str(table["name"])) or "delete-insert")  # dlt's default
        ]
        if merged:
            raise DestinationUnfit(
                f"{name} cannot merge {', '.join(merged)} as they are: dlt would append the rows again with each load "
                "or, in Delta and Iceberg, keep children that are gone and rows whose key came twice. Use another "
                "warehouse. Nothing was loaded."
            )


@contextmanager
def run_pipeline(
    template: dlt.Pipeline,
    instance: DagsterInstance,
    run_id: str,
    step_key: str,
    lineage: str | None,
    log: Log,
    check: Check,
) -> Iterator[RunPipeline]:
    """Yields a copy of `template` that shares nothing with any other run, and cleans up after it.

    Private are the working directory (dagster-dlt wipes it before each run, the packages of other runs included) and
    the staging dataset (dlt truncates the common one, and with it the rows that another run is about to merge). Both
    carry the run's id, so that what a crash leaves can be told apart from what a living run needs.

    `lineage` gives the cursors of a named partition a history of their own: dlt keeps one state per pipeline name and
    the last writer wins, so partitions that load at once would throw away each other's cursors.
    """
    directory = Path(tempfile.mkdtemp(prefix=f"{step_key}-", dir=data_directory("runs", run_id)))
    destination = deepcopy(template.destination)
    staging = destination.config_params["staging_dataset_name_layout"] = staging_layout(run_id, step_key)
    schemas = template._schema_storage_config
    pipeline = RunPipeline(
        pipeline_name=_lineage_name(template.pipeline_name, lineage),
        pipelines_dir=str(directory),
        pipeline_salt=template.pipeline_salt,
        destination=destination,
        staging=deepcopy(template.staging),
        dataset_name=template.dataset_name,
        import_schema_path=schemas.import_schema_path or "",
        export_schema_path=schemas.export_schema_path or "",
        dev_mode=False,
        progress=template.collector,
        must_attach_to_local_pipeline=False,
        config=template.config,
        refresh=template.refresh,
    )
    pipeline.dataset_name = template.dataset_name  # a configured dataset_name_layout was applied to it already
    pipeline.log, pipeline.check = log, check
    full = False
    try:
        yield pipeline
        for attempt in directory.parent.glob(f"{step_key}-*"):  # this one, and those that failed before it
            shutil.rmtree(attempt, ignore_errors=True)
        with suppress(OSError):  # another op of the run is still at work below it
            directory.parent.rmdir()
    except (Exception, TerminalException) as error:  # dlt's is no Exception
        full = disk_is_full(error)
        raise
    finally:
        if pipeline.is_active:
            pipeline.deactivate()
        try:
            if pipeline.default_schema_name:  # else nothing was extracted, nothing was staged
                sweep_staging(pipeline, staging, instance, log)
        except Exception as error:  # it must neither fail a load nor hide why one failed
            log(f"Staging datasets stay for a later run to sweep: {error}")
        if full:  # half a file tells nobody anything, and its room is needed
            shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def one_at_a_time(template: dlt.Pipeline, partition: str, log: Log) -> Iterator[None]:
    """Waits while another run loads the same partition through the same pipeline.

    Both would start from the same cursor. The one that loads last would put back the older rows that it had read, while
    the newer cursor of the other stays: an update lost for good. Other partitions are not held up. The lock is a file
    beside the working directories, so it reaches as far as one location's container; the operating system frees
    it when the process dies.
    """
    name = _lineage_name(template.pipeline_name, partition)
    with waiting_lock(data_directory("locks") / f"{name}.lock", f"another run loads {name}", log):
        yield


def _lineage_name(pipeline_name: str, lineage: str | None) -> str:
    if lineage is None:
        return pipeline_name
    readable = re.sub(r"\W+", "_", lineage).strip("_").lower()[:40]
    return f"{pipeline_name}__{readable}_{zlib.crc32(lineage.encode()):08x}"
