"""What would lose rows or load them twice is refused before anything is read, and says what to do instead."""

from collections.abc import Mapping
from typing import Any

from dagster import Failure, OpExecutionContext
from dagster._core.storage.tags import RETRY_NUMBER_TAG
from dlt.extract.source import DltSource

from runtime.partitions import partition_label

OF_THE_PIPELINE = ("destination", "staging", "dataset_name", "credentials")


def refuse_unsafe(context: OpExecutionContext, source: DltSource, arguments: Mapping[str, Any]) -> None:
    """Raises Failure where `dlt.run(context, **arguments)` could not keep the runtime's promises.

    `source` has the resources that the run has selected, `arguments` are those of `dlt.Pipeline.run`.
    """
    given = [name for name in OF_THE_PIPELINE if arguments.get(name) is not None]
    if given:
        raise _failure(
            f"{', '.join(given)} cannot be chosen for a single run, as its isolation was made for the pipeline's own. "
            "Give it to the pipeline of @dlt_assets."
        )
    if int(context.run.tags.get(RETRY_NUMBER_TAG, 0)):
        _refuse_to_append_again(context, _with_disposition("append", source, arguments))
    if partition := partition_label(context):
        _refuse_to_drop_other_partitions(partition, source, arguments)


def _refuse_to_append_again(context: OpExecutionContext, names: list[str]) -> None:
    """Dagster started this run again by itself, and the lost one may have loaded some rows. A merge replaces them; for
    an append nobody can tell them from the rows that are still to come."""
    if names:
        raise _failure(
            f"{', '.join(names)} would append rows that the lost run {context.run.parent_run_id} may have loaded "
            "already. Delete the rows whose _dlt_load_id is not in _dlt_loads, then the rows of child tables whose "
            "_dlt_parent_id is the _dlt_id of no row, and launch the run again; "
            'or give the resource a primary key and write_disposition="merge", which may run any number of times.'
        )


def _refuse_to_drop_other_partitions(partition: str, source: DltSource, arguments: Mapping[str, Any]) -> None:
    if names := _with_disposition("replace", source, arguments):
        raise _failure(
            f"{', '.join(names)} would replace the whole table, the rows of all other partitions included, with those "
            f'of {partition}. Give it a primary key and write_disposition="merge", or take it out of the partitioned '
            "assets."
        )
    if refresh := arguments.get("refresh"):
        raise _failure(
            f"refresh={refresh!r} would drop the rows of all partitions, not only those of {partition}. Delete them in "
            "the warehouse and load the partition again, or refresh in a run without a partition."
        )


def _with_disposition(disposition: str, source: DltSource, arguments: Mapping[str, Any]) -> list[str]:
    """The names of the selected resources that would be written so."""
    chosen = arguments.get("write_disposition")
    return [
        resource.name
        for resource in source.selected_resources.values()
        if _name_of(chosen or resource.write_disposition) == disposition
    ]


def _name_of(disposition: Any) -> Any:
    return disposition.get("disposition") if isinstance(disposition, dict) else disposition


def _failure(sentence: str) -> Failure:
    return Failure(sentence, allow_retries=False)
