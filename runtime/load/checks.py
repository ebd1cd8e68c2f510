"""Asset checks for any dlt source, and the parts that checks of a single source share."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime

import dlt
from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
    AssetsDefinition,
    PartitionsDefinition,
    TimeWindow,
    TimeWindowPartitionsDefinition,
    multi_asset_check,
)
from dlt.common.destination.exceptions import DestinationUndefinedEntity
from dlt.common.schema import Schema
from dlt.common.schema.typing import TTableSchema
from dlt.common.schema.utils import get_columns_names_with_prop

from runtime.load.assets import pipeline_of, resource_names, source_of
from runtime.load.locks import duckdb_file_lock
from runtime.load.metadata import tables_of
from runtime.load.retries import CHECK_RETRIES
from runtime.load.warehouse import count

PRIMARY_KEY_CHECK = "primary_key_is_unique"
DESCRIPTION = "No two rows of the table have the same primary key, and no part of a key is null."
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def primary_key_checks(assets: AssetsDefinition) -> AssetChecksDefinition:
    """One check per asset of a `@dlt_assets`: primary keys are unique and not null in the whole warehouse table."""
    resource_names(assets)  # raises here, and not in each run, if it cannot tell which tables belong to an asset

    @multi_asset_check(
        name=f"{assets.op.name}_{PRIMARY_KEY_CHECK}",
        specs=[AssetCheckSpec(PRIMARY_KEY_CHECK, asset=key, description=DESCRIPTION) for key in assets.keys],
        can_subset=True,
        retry_policy=CHECK_RETRIES,
    )
    def check(context: AssetCheckExecutionContext) -> Iterable[AssetCheckResult]:
        tables = stored_tables(assets)
        for key in sorted({key.asset_key for key in context.selected_asset_check_keys}):
            roots = [table for table in tables[key].values() if not table.get("parent")]
            bad_keys = _bad_primary_keys(pipeline_of(assets), roots)
            passed, description = not any(bad_keys.values()), None
            if not roots and _has_loaded_rows(context, key):
                passed, description = (
                    False,
                    "The last load reported rows, but the warehouse has no table of this asset.",
                )
            elif not roots:
                description = "No rows have been loaded yet."
            elif not bad_keys:
                passed, description = False, "The table has no primary key, so there is nothing to check."
            yield AssetCheckResult(
                asset_key=key,
                check_name=PRIMARY_KEY_CHECK,
                passed=passed,
                severity=AssetCheckSeverity.ERROR if bad_keys else AssetCheckSeverity.WARN,
                description=description,
                metadata={
                    "tables": list(bad_keys),
                    **{f"bad primary keys in {table}": number for table, number in bad_keys.items() if number},
                },
            )

    return check


def row_count_result(
    source: str, expected: int, loaded: int, severity: AssetCheckSeverity = AssetCheckSeverity.ERROR
) -> AssetCheckResult:
    """Passes if the warehouse has at least as many rows as the source counts.

    It may have more, because rows that are deleted at the source stay in the warehouse.
    """
    return AssetCheckResult(
        passed=loaded >= expected,
        severity=severity,
        metadata={
            f"rows in {source}": expected,
            "rows in the warehouse": loaded,
            "missing rows": max(expected - loaded, 0),
        },
    )


def run_created_at(context: AssetCheckExecutionContext) -> datetime:
    """When the run was created. A row that was added to the source later need not be in the warehouse."""
    record = context.instance.get_run_record_by_id(context.run.run_id)
    return record.create_timestamp if record else datetime.now(UTC)


def checked_window(context: AssetCheckExecutionContext, partitions: PartitionsDefinition | None) -> TimeWindow:
    """The time window that a check compares: that of the run's partitions, or of all partitions if it runs alone.

    It is all time if the assets have no time partitions, and never ends later than the run was created.
    """
    created = run_created_at(context)
    if not isinstance(partitions, TimeWindowPartitionsDefinition):
        return TimeWindow(EPOCH, created)
    if context.has_partition_key or context.has_partition_key_range:
        keys = context.partition_key_range
        first, last = keys.start, keys.end
    else:
        first, last = partitions.get_first_partition_key(), partitions.get_last_partition_key()
    if first is None or last is None:  # the first partition has not begun
        return TimeWindow(created, created)
    start = partitions.time_window_for_partition_key(first).start
    return TimeWindow(start, min(partitions.time_window_for_partition_key(last).end, created))


def stored_tables(assets: AssetsDefinition) -> Mapping[AssetKey, Mapping[str, TTableSchema]]:
    """The tables of each asset of a `@dlt_assets` that the warehouse has, children included, by name."""
    pipeline = pipeline_of(assets)
    schema = Schema(source_of(assets).schema.name)
    with suppress(DestinationUndefinedEntity), duckdb_file_lock(pipeline):  # nothing has been loaded yet
        schema = pipeline.dataset(schema=schema.name).schema
    return {key: tables_of(resource, schema) for key, resource in resource_names(assets).items()}


def _has_loaded_rows(context: AssetCheckExecutionContext, key: AssetKey) -> bool:
    """Whether the asset's last load says that it loaded rows."""
    event = context.instance.get_latest_materialization_event(key)
    materialization = event.asset_materialization if event else None
    return bool(materialization and (rows := materialization.metadata.get("rows_loaded")) and rows.value)


def _bad_primary_keys(pipeline: dlt.Pipeline, tables: Iterable[TTableSchema]) -> dict[str, int]:
    """Table → number of primary keys that are null or occur more than once. Leaves out tables without a primary key."""
    client = pipeline.sql_client()
    statements = {}
    for table in tables:
        name = str(table["name"])
        keys = [client.escape_column_name(column) for column in get_columns_names_with_prop(table, "primary_key")]
        if keys:
            statements[name] = (
                f"SELECT count(*) FROM (SELECT 1 AS bad FROM {client.make_qualified_table_name(name)} "
                f"GROUP BY {', '.join(keys)} "
                f"HAVING count(*) > 1 OR {' OR '.join(f'{key} IS NULL' for key in keys)}) AS bad_keys"
            )
    return {name: count(pipeline, statement) or 0 for name, statement in statements.items()}
