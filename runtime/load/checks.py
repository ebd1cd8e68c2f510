"""Asset checks for any dlt source, and the parts that checks of a single source share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

import dagster as dg
import dlt
from dlt.common.schema.typing import TTableSchema
from dlt.common.schema.utils import get_columns_names_with_prop

from runtime.load.assets import pipeline_of, resource_names, source_of
from runtime.load.locks import duckdb_file_lock
from runtime.load.metadata import tables_of
from runtime.load.retries import CHECK_RETRIES
from runtime.load.warehouse import query_int, stored_schemas

PRIMARY_KEY_CHECK = "primary_key_is_unique"
DESCRIPTION = "No two rows of the table have the same primary key, and no part of a key is null."
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MATERIALIZATIONS = 1000  # how many of an asset's loads are searched for rows


def primary_key_checks(assets: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """One check per asset of a `@dlt_assets`: primary keys are unique and not null in the whole warehouse table."""
    resource_names(assets)  # raises here, and not in each run, if it cannot tell which tables belong to an asset

    @dg.multi_asset_check(
        name=f"{assets.op.name}_{PRIMARY_KEY_CHECK}",
        specs=[dg.AssetCheckSpec(PRIMARY_KEY_CHECK, asset=key, description=DESCRIPTION) for key in assets.keys],
        can_subset=True,
        retry_policy=CHECK_RETRIES,
    )
    def check(context: dg.AssetCheckExecutionContext) -> Iterable[dg.AssetCheckResult]:
        tables = stored_tables(assets)
        for key in sorted({key.asset_key for key in context.selected_asset_check_keys}):
            roots = [table for table in tables[key].values() if not table.get("parent")]
            bad_keys = _bad_primary_keys(pipeline_of(assets), roots)
            problem = None
            if gone := [name for name, number in bad_keys.items() if number is None]:
                problem = f"The warehouse has no table {', '.join(gone)} any more."
            elif roots and not bad_keys:
                problem = "The table has no primary key, so there is nothing to check."
            elif not roots and _has_loaded_rows(context, key):
                problem = "Loads have reported rows, but the warehouse has no table of this asset."
            yield dg.AssetCheckResult(
                asset_key=key,
                check_name=PRIMARY_KEY_CHECK,
                passed=not problem and not any(bad_keys.values()),
                description=problem or (None if roots else "No rows have been loaded yet."),
                metadata={
                    "tables": list(bad_keys),
                    **{f"bad primary keys in {table}": number for table, number in bad_keys.items() if number},
                },
            )

    return check


def row_count_check(
    assets: dg.AssetsDefinition,
    key: Sequence[str],
    source: str,
    expected: Callable[[datetime], int],
    statement: str,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetChecksDefinition:
    """The check `rows_match_<source>`: the warehouse has at least as many rows of an asset as the source counts.

    It may have more, because rows that are deleted at the source stay. `expected` counts the rows that the source had
    when the run was created, `statement` those of the warehouse; each `%s` in it is that time.
    """

    @dg.asset_check(
        name=f"rows_match_{source.lower()}",
        asset=key,
        description=f"The warehouse has every row that {source} counts.",
        retry_policy=CHECK_RETRIES,
    )
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        created = run_created_at(context)
        rows = expected(created)
        loaded = query_int(pipeline_of(assets), statement, *[created] * statement.count("%s")) or 0
        return dg.AssetCheckResult(
            passed=loaded >= rows,
            severity=severity,
            metadata={
                f"rows in {source}": rows,
                "rows in the warehouse": loaded,
                "missing rows": max(rows - loaded, 0),
            },
        )

    return check


def run_created_at(context: dg.AssetCheckExecutionContext) -> datetime:
    """When the run was created. A row that was added to the source later need not be in the warehouse."""
    record = context.instance.get_run_record_by_id(context.run.run_id)
    return record.create_timestamp if record else datetime.now(UTC)


def checked_window(context: dg.AssetCheckExecutionContext, partitions: dg.PartitionsDefinition | None) -> dg.TimeWindow:
    """The time window `[start, end)` that a check compares: that of the run's partitions, or of all if it runs alone.

    It is all time if the assets have no time partitions, and never ends later than the run was created. Times have the
    time zone of the partitions or UTC.
    """
    created = run_created_at(context)
    if not isinstance(partitions, dg.TimeWindowPartitionsDefinition):
        return dg.TimeWindow(EPOCH, created)
    if context.has_partition_key or context.has_partition_key_range:
        keys = context.partition_key_range
        first, last = keys.start, keys.end
    else:
        first, last = partitions.get_first_partition_key(), partitions.get_last_partition_key()
    if first is None or last is None:  # the first partition has not begun
        return dg.TimeWindow(created, created)
    start = partitions.time_window_for_partition_key(first).start
    return dg.TimeWindow(start, min(partitions.time_window_for_partition_key(last).end, created))


def stored_tables(assets: dg.AssetsDefinition) -> Mapping[dg.AssetKey, Mapping[str, TTableSchema]]:
    """The tables of each asset of a `@dlt_assets`, children included, by name.

    They come from the schema that dlt keeps in the warehouse: a table that somebody has dropped is still among them.
    dlt's DestinationConnectionError passes, so that the check is retried.
    """
    pipeline, names = pipeline_of(assets), resource_names(assets)
    found: dict[dg.AssetKey, Mapping[str, TTableSchema]] = {key: {} for key in names}
    # Not `pipeline.dataset()`, which prefers what this process has loaded, and knows the newest version alone.
    with duckdb_file_lock(pipeline):
        for schema in stored_schemas(pipeline, source_of(assets).schema.name):
            found |= {key: tables_of(names[key], schema) for key in names if not found[key]}
            if all(found.values()):
                break
    return found


def _has_loaded_rows(context: dg.AssetCheckExecutionContext, key: dg.AssetKey) -> bool:
    """Whether any load has reported rows. The last ones may have found nothing new."""
    records = context.instance.fetch_materializations(key, MATERIALIZATIONS).records
    loads = [record.asset_materialization for record in records]
    return any(load and (rows := load.metadata.get("rows_loaded")) and rows.value for load in loads)


def _bad_primary_keys(pipeline: dlt.Pipeline, tables: Iterable[TTableSchema]) -> Mapping[str, int | None]:
    """Table → number of primary keys that are null or occur more than once, None if the table does not exist.

    Leaves out tables without a primary key.
    """
    client = pipeline.sql_client()
    numbers = {}
    for table in tables:
        name = str(table["name"])
        keys = [client.escape_column_name(column) for column in get_columns_names_with_prop(table, "primary_key")]
        if keys:
            numbers[name] = query_int(
                pipeline,
                f"SELECT count(*) FROM (SELECT 1 AS bad FROM {client.make_qualified_table_name(name)} "
                f"GROUP BY {', '.join(keys)} "
                f"HAVING count(*) > 1 OR {' OR '.join(f'{key} IS NULL' for key in keys)}) AS bad_keys",
            )
    return numbers
