"""Loads that would lose or duplicate rows fail before anything changes, with a sentence that says what to do."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime
from importlib import import_module
from typing import Any

import dlt
from dagster import DagsterInstance, DagsterRun, DefaultRunLauncher, Failure, OpExecutionContext, RunsFilter
from dagster_dlt.constants import META_KEY_SOURCE
from dlt.common.destination.client import WithStateSync
from dlt.common.destination.exceptions import DestinationUndefinedEntity
from dlt.common.destination.utils import resolve_merge_strategy
from dlt.common.exceptions import TerminalException
from dlt.common.schema import Schema
from dlt.common.schema.typing import TTableSchema
from dlt.common.schema.utils import get_merge_strategy
from dlt.extract.resource import DltResource
from dlt.extract.source import DltSource
from dlt.pipeline.state_sync import load_pipeline_state_from_destination

from runtime.load.assets import dlt_objects
from runtime.load.cursors import columns_with, disposition_of, incrementals, reads_window
from runtime.load.locks import destination_client, duckdb_file, postgres_url
from runtime.load.partitions import partition_label, time_window
from runtime.load.retries import append_tag

# Of runs, in Dagster's words.
RETRY_NUMBER_TAG = "dagster/retry_number"
PARTITION_TAG = "dagster/partition"
BACKFILL_TAG = "dagster/backfill"
PARENT_BACKFILL_TAG = "dagster/parent_backfill_id"
CONTAINERS = "runtime.instance.containers"  # all on one machine, with the same volumes
YES = ("true", "1", "yes", "on")
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
            f"{', '.join(given)} cannot be set for a single run, because locks and staging are prepared for those of "
            "the pipeline. Set it on the pipeline of @dlt_assets."
        )
    if exhausted := [name for name in source.selected_resources if source.with_resources(name).exhausted]:
        raise _failure(
            f"{', '.join(exhausted)} of {source.name} cannot be read again in this process: dlt.resource was given a "
            "generator object. Give it the generator function, or call the source in the asset: "
            f"dlt.run(context, dlt_source={source.name}(…))."
        )
    if context.has_partition_key_range and time_window(context) is None:
        raise _failure(
            f"The partitions {partition_label(context)} cannot load in one run, because each has cursors of its own. "
            "Remove the backfill_policy of the assets, so that each partition gets a run."
        )
    _check_selection(context, source, arguments.get("refresh"))
    _check_append_after_restart(context, _with_disposition("append", source, arguments))
    if partition := partition_label(context):
        _check_other_partitions(partition, source, arguments)


def check_machines(context: OpExecutionContext, pipeline: dlt.Pipeline) -> None:
    """Raises Failure if runs may be on several machines, and what keeps them apart is not."""
    instance = context.instance
    if instance.is_ephemeral or (launcher := _launcher_of_several_machines(instance)) is None:
        return
    if postgres_url(instance) is None:
        raise _failure(
            f"{launcher} starts runs that may be on several machines, and the locks of loads reach them only in "
            "Postgres. Let `storage` in dagster.yaml be in Postgres."
        )
    is_shared = os.environ.get("RUNTIME__DUCKDB_SHARED_VOLUME", "").strip().lower() in YES
    if (file := duckdb_file(pipeline)) and not is_shared:
        raise _failure(
            f"{launcher} starts runs that may be on several machines, and {file} is a file on one. Load into another "
            "warehouse. If all runs have it on one volume with locks, as NFS 4: RUNTIME__DUCKDB_SHARED_VOLUME=true."
        )


def _launcher_of_several_machines(instance: DagsterInstance) -> str | None:
    """The class that starts runs, unless they are on the machine of their location.

    The image of a location need not have that class: one that it cannot import is of dagster-k8s or the like.
    """
    if (launcher := instance.get_ref().run_launcher_data) is None or launcher.module_name == CONTAINERS:
        return None
    with suppress(ImportError):
        if issubclass(getattr(import_module(launcher.module_name), launcher.class_name), DefaultRunLauncher):
            return None
    return launcher.class_name


def check_try_out(source: DltSource, arguments: Mapping[str, Any]) -> None:
    """Raises Failure if a load of some rows would lose others, or if the next load would have them twice."""
    if refresh := arguments.get("refresh"):
        raise _failure(
            f"refresh={refresh!r} would empty tables, and max_items load only some of their rows. Use one of the two."
        )
    merged = {
        name
        for name in _with_disposition("merge", source, arguments)
        if not columns_with(source.resources[name], "merge_key")
        and _strategy(source.resources[name], arguments) != "scd2"
    }
    _check_tried_out(source.selected_resources.keys() - merged)


def check_first_load_of_partition(
    pipeline: dlt.Pipeline, stored_as: str, source: DltSource, arguments: Mapping[str, Any]
) -> None:
    """Raises Failure if a partition without cursors would append what dagster-dlt's resource has already loaded.

    That resource keeps one cursor for all partitions, under the pipeline's own name `stored_as`.
    """
    state: Mapping[str, Any] | None = None
    with suppress(DestinationUndefinedEntity), destination_client(pipeline) as client:  # nothing has been loaded yet
        if isinstance(client, WithStateSync):
            state = load_pipeline_state_from_destination(stored_as, client)
    resources = ((state or {}).get("sources") or {}).get(source.name, {}).get("resources", {})
    appended = _with_disposition("append", source, arguments)
    if names := [name for name in appended if "incremental" in resources.get(name, {})]:
        raise _failure(
            f"{', '.join(names)} would append rows that are already loaded: the warehouse has one cursor for all "
            "partitions, from dagster-dlt's resource, and from now on each partition has its own. Load each partition "
            f'once with write_disposition="merge" and a primary key; or set each initial_value to where the partition '
            f"ends, and delete the rows of {stored_as} from _dlt_pipeline_state."
        )


def check_first_load_of_window(
    context: OpExecutionContext, pipeline: dlt.Pipeline, source: DltSource, arguments: Mapping[str, Any]
) -> None:
    """Raises Failure if a time window would append what a load without windows, as dagster-dlt's, has already loaded.

    A cursor that reads windows stores no value, so one that is stored is from such a load.
    """
    if (window := time_window(context)) is None:
        return
    resources = (pipeline.state.get("sources") or {}).get(source.name, {}).get("resources", {})
    appended = _with_disposition("append", source, arguments)
    for resource, incremental in incrementals(source):
        stored = resources.get(resource.name, {}).get("incremental", {}).get(incremental.cursor_path, {})
        loaded_until = _as_time(stored.get("last_value"))
        if resource.name in appended and reads_window(incremental) and loaded_until and loaded_until >= window.start:
            raise _failure(
                f"{resource.name} would append rows that are already loaded: before its partitions read a time window "
                f"each, it was loaded until {loaded_until:%Y-%m-%d %H:%M:%S}. Load the partitions after that; or set "
                'write_disposition="merge" and a primary key; or delete its rows from the start of this partition on, '
                f"and the rows of {pipeline.pipeline_name} from _dlt_pipeline_state."
            )


def _as_time(value: Any) -> datetime | None:
    """A cursor's value, a date or seconds since 1970, as a time with a zone."""
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    return value.replace(tzinfo=value.tzinfo or UTC) if isinstance(value, datetime) else None


def check_appends(context: OpExecutionContext, pipeline: dlt.Pipeline, max_items: int) -> bool:
    """Whether this load appends. Raises Failure if a restarted run or a try-out would do so. Called before the load.

    dlt also appends what it merges without a key. Keys are known only now: a source may find them while it reads.
    """
    packages = map(pipeline.get_load_package_info, pipeline.list_normalized_load_packages())
    loaded = {
        (package.schema.name, job.job_file_info.table_name) for package in packages for job in package.jobs["new_jobs"]
    }
    appended = [
        str(table["name"])
        for schema in pipeline.schemas.values()
        for table in schema.data_tables()
        if (schema.name, table["name"]) in loaded and _is_appended(schema, table)
    ]
    if max_items:
        _check_tried_out(appended)
    _check_append_after_restart(context, appended)
    return bool(appended)


def _is_appended(schema: Schema, table: TTableSchema) -> bool:
    if table.get("write_disposition") != "merge":
        return table.get("write_disposition") == "append"
    is_history = get_merge_strategy(schema.tables, str(table["name"])) == "scd2"
    return not is_history and not any(
        column.get("primary_key") or column.get("merge_key") for column in table["columns"].values()
    )


def check_destination(pipeline: dlt.Pipeline) -> None:
    """Raises UnsupportedDestination if state would be lost, or if a merge would append. Called before the load."""
    client, name = pipeline.destination_client(), pipeline.destination.destination_name  # does not connect
    keeps_state, capabilities = isinstance(client, WithStateSync), client.capabilities
    if _has_values(pipeline.state.get("sources", {})) and not (
        keeps_state and pipeline.config.restore_from_destination
    ):
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


def _has_values(state: Any) -> bool:
    """Whether a state holds anything. To look at it, or to replace a table, leaves empty dictionaries behind."""
    return any(map(_has_values, state.values())) if isinstance(state, Mapping) else True


def _check_tried_out(others: Iterable[str]) -> None:
    if names := sorted(others):
        raise _failure(
            f"{', '.join(names)} cannot be tried out with max_items: the rows would replace those that are loaded, or "
            "the next load would append them again. Only tables that are merged by a primary key can."
        )


def _check_selection(context: OpExecutionContext, source: DltSource, refresh: str | None) -> None:
    """Raises Failure if a run of some tables would lose rows of others.

    A cursor that several assets read from moves on with the first, and the others would lack its rows.
    """
    if not context.has_assets_def:
        return
    whole = dlt_objects(context.assets_def).get(META_KEY_SOURCE)
    if not isinstance(whole, DltSource) or whole.name != source.name:
        return
    left_out = whole.selected_resources.keys() - source.selected_resources.keys()
    if refresh == "drop_sources" and left_out:
        raise _failure(
            f"refresh='drop_sources' would drop {', '.join(sorted(left_out))}, too, which this run does not load. Use "
            "drop_resources, or select all tables of the source."
        )
    for owner in {resource.name for resource, incremental in incrementals(source) if incremental.end_value is None}:
        readers = {name for name, resource in whole.selected_resources.items() if _reads(resource, owner)}
        if readers & source.selected_resources.keys() not in (set(), readers):
            raise _failure(
                f"{', '.join(sorted(readers))} share the cursor of {owner}: rows that one of them has loaded would be "
                "left out of the others. Select them together."
            )


def _reads(resource: DltResource, name: str) -> bool:
    """Whether a resource is the one with this name, or transforms what that yields."""
    pipe = resource._pipe
    while pipe.name != name and pipe.parent:
        pipe = pipe.parent
    return bool(pipe.name == name)


def _check_append_after_restart(context: OpExecutionContext, names: list[str]) -> None:
    """Raises Failure if this step repeats one that may have appended some of its rows.

    A merge replaces those rows. After an append nobody can tell them from the rows that are still missing.
    """
    if names and (lost := next(_unfinished_appends(context), None)):
        raise _failure(
            f"{', '.join(names)} would append rows that the lost run {lost} may have loaded already. Delete the rows "
            "whose _dlt_load_id is not in _dlt_loads, then the rows of child tables whose _dlt_parent_id has no parent "
            "row, and materialize the assets in a new run, which is no re-execution; "
            'or give the resource a primary key and write_disposition="merge", which is safe to repeat.'
        )


def _unfinished_appends(context: OpExecutionContext) -> Iterator[str]:
    """The runs that have begun to append in this step, and whose step this run repeats."""
    step, this = str(context.op_handle), context.instance.get_run_by_id(context.run.run_id)
    if (
        context.retry_number and this and this.tags.get(append_tag(context)) == this.run_id
    ):  # by a job's op_retry_policy
        yield this.run_id
    for run_id, run in _earlier_runs(context.instance, context.run):
        if run is None:  # Dagster no longer knows what it did
            yield run_id
        elif run.tags.get(append_tag(context)) == run_id:
            found = context.instance.get_run_step_stats(run_id, [step])
            if not any(one.status and one.status.value == "SUCCESS" for one in found):
                yield run_id


def _earlier_runs(instance: DagsterInstance, run: DagsterRun) -> Iterator[tuple[str, DagsterRun | None]]:
    """The incomplete runs that a run repeats: Dagster restarts lost runs, people re-execute runs and backfills."""
    earlier: dict[str, DagsterRun | None] = {}
    if (parent := run.parent_run_id or run.get_parent_run_id()) or RETRY_NUMBER_TAG in run.tags:
        earlier = {str(parent): instance.get_run_by_id(parent or "")}
    elif backfill := run.tags.get(PARENT_BACKFILL_TAG):
        partition = {PARTITION_TAG: run.tags[PARTITION_TAG]} if PARTITION_TAG in run.tags else {}
        runs = instance.get_runs(RunsFilter(tags={BACKFILL_TAG: backfill, **partition}))
        earlier = {one.run_id: one for one in runs}
    for run_id, one in earlier.items():
        if one is None or not one.is_success:
            yield run_id, one
            yield from _earlier_runs(instance, one) if one else ()


def _check_other_partitions(partition: str, source: DltSource, arguments: Mapping[str, Any]) -> None:
    if names := _with_disposition("replace", source, arguments):
        raise _failure(
            f"{', '.join(names)} would replace the whole table, including the rows of all other partitions, with the "
            f'rows of {partition}. Give it a primary key and write_disposition="merge", or move it to assets without '
            "partitions."
        )
    merged = [source.resources[name] for name in _with_disposition("merge", source, arguments)]
    scd2 = [
        resource.name
        for resource in merged
        if _strategy(resource, arguments) == "scd2" and not columns_with(resource, "merge_key")
    ]
    if scd2:
        raise _failure(
            f"{', '.join(scd2)} keeps history (scd2): the rows of {partition} would retire those of all other "
            "partitions. Give it a merge_key of the columns that identify the partition."
        )
    if refresh := arguments.get("refresh"):
        raise _failure(
            f"refresh={refresh!r} would drop the rows of all partitions, not only those of {partition}. Delete those "
            "rows in the warehouse and load the partition again, or refresh in a run without a partition."
        )


def _strategy(resource: DltResource, arguments: Mapping[str, Any]) -> Any:
    chosen = arguments.get("write_disposition") or resource.write_disposition
    return chosen.get("strategy") if isinstance(chosen, dict) else None


def _with_disposition(disposition: str, source: DltSource, arguments: Mapping[str, Any]) -> list[str]:
    """The names of the selected resources with this write disposition."""
    chosen = arguments.get("write_disposition")
    name = chosen.get("disposition") if isinstance(chosen, dict) else chosen
    selected = source.selected_resources.values()
    return [resource.name for resource in selected if (name or disposition_of(resource)) == disposition]


def _failure(sentence: str) -> Failure:
    return Failure(sentence, allow_retries=False)
