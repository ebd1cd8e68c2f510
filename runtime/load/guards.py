"""Loads that would lose or duplicate rows fail before anything changes, with a sentence that says what to do."""

from collections.abc import Mapping
from typing import Any

import dlt
from dagster import Failure, OpExecutionContext
from dlt.common.destination.client import WithStateSync
from dlt.common.destination.utils import resolve_merge_strategy
from dlt.common.exceptions import TerminalException
from dlt.common.schema.utils import get_merge_strategy
from dlt.extract.source import DltSource

from runtime.load.partitions import partition_label

RETRY_NUMBER_TAG = "dagster/retry_number"
PIPELINE_OPTIONS = ("destination", "staging", "dataset_name", "credentials")


class UnsupportedDestination(TerminalException):
    """The destination cannot load this source correctly."""


def check_run(context: OpExecutionContext, source: DltSource, arguments: Mapping[str, Any]) -> None:
    """Raises Failure if `dlt.run(context, **arguments)` could lose or duplicate rows. Called before extraction.

    `source` holds the resources that the run has selected; `arguments` are those of `dlt.Pipeline.run`.
    """
    given = [name for name in PIPELINE_OPTIONS if arguments.get(name) is not None]
    if given:
        raise _failure(
            f"{', '.join(given)} cannot be set for a single run, because the run is isolated for the pipeline's own. "
            "Set it on the pipeline of @dlt_assets."
        )
    if exhausted := [name for name in source.selected_resources if source.with_resources(name).exhausted]:
        raise _failure(
            f"{', '.join(exhausted)} of {source.name} cannot be read again in this process: dlt.resource was given a "
            "generator object. Give it the generator function, or call the source in the asset: "
            f"dlt.run(context, dlt_source={source.name}(…))."
        )
    if int(context.run.tags.get(RETRY_NUMBER_TAG, 0)):
        _check_append_after_restart(context, _with_disposition("append", source, arguments))
    if partition := partition_label(context):
        _check_other_partitions(partition, source, arguments)


def check_destination(pipeline: dlt.Pipeline) -> None:
    """Raises UnsupportedDestination if state would be lost, or if a merge would append. Called before the load."""
    client, name = pipeline.destination_client(), pipeline.destination.destination_name  # does not connect
    keeps_state, capabilities = isinstance(client, WithStateSync), client.capabilities
    if pipeline.state.get("sources") and not (keeps_state and pipeline.config.restore_from_destination):
        where = "are not read back with RESTORE_FROM_DESTINATION=false" if keeps_state else f"{name} cannot store"
        raise UnsupportedDestination(
            f"The source keeps cursors or other state, which {where}: each run would load everything again. Use a "
            "destination that dlt can store state in, or a source without state. Nothing was loaded."
        )
    merged = [
        str(table["name"])
        for schema in pipeline.schemas.values()
        for table in schema.data_tables()
        if table.get("write_disposition") == "merge"
        and capabilities.supported_merge_strategies  # a custom destination may merge by itself
        and resolve_merge_strategy(schema.tables, table, capabilities)
        != (get_merge_strategy(schema.tables, str(table["name"])) or "delete-insert")  # dlt's default
    ]
    if merged:
        raise UnsupportedDestination(
            f"{name} cannot merge {', '.join(merged)}: dlt would append the rows again with each load or, in Delta "
            "and Iceberg, keep deleted children and duplicate keys. Use another warehouse. Nothing was loaded."
        )


def _check_append_after_restart(context: OpExecutionContext, names: list[str]) -> None:
    """Dagster restarted this run, and the lost run may have loaded some rows.

    A merge replaces those rows. After an append nobody can tell them from the rows that are still missing.
    """
    if names:
        raise _failure(
            f"{', '.join(names)} would append rows that the lost run {context.run.parent_run_id} may have loaded "
            "already. Delete the rows whose _dlt_load_id is not in _dlt_loads, then the rows of child tables whose "
            "_dlt_parent_id has no parent row, and launch the run again; "
            'or give the resource a primary key and write_disposition="merge", which is safe to repeat.'
        )


def _check_other_partitions(partition: str, source: DltSource, arguments: Mapping[str, Any]) -> None:
    if names := _with_disposition("replace", source, arguments):
        raise _failure(
            f"{', '.join(names)} would replace the whole table, including the rows of all other partitions, with the "
            f'rows of {partition}. Give it a primary key and write_disposition="merge", or move it to assets without '
            "partitions."
        )
    if refresh := arguments.get("refresh"):
        raise _failure(
            f"refresh={refresh!r} would drop the rows of all partitions, not only those of {partition}. Delete those "
            "rows in the warehouse and load the partition again, or refresh in a run without a partition."
        )


def _with_disposition(disposition: str, source: DltSource, arguments: Mapping[str, Any]) -> list[str]:
    """The names of the selected resources with this write disposition."""
    chosen = arguments.get("write_disposition")
    return [
        resource.name
        for resource in source.selected_resources.values()
        if _disposition_name(chosen or resource.write_disposition) == disposition
    ]


def _disposition_name(disposition: Any) -> Any:
    return disposition.get("disposition") if isinstance(disposition, dict) else disposition


def _failure(sentence: str) -> Failure:
    return Failure(sentence, allow_retries=False)
