"""Asset checks that hold for any dlt source."""

from collections.abc import Iterable

import dlt
from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSpec,
    AssetsDefinition,
    multi_asset_check,
)
from dagster_dlt.constants import META_KEY_PIPELINE, META_KEY_SOURCE
from dlt.common.destination.exceptions import DestinationUndefinedEntity
from dlt.common.schema import Schema
from dlt.common.schema.utils import get_columns_names_with_prop
from dlt.extract.source import DltSource

from runtime.metadata import tables_of
from runtime.retries import CHECK_RETRIES
from runtime.warehouse import count, warehouse_turn

PRIMARY_KEY_CHECK = "primary_key_is_unique"
DESCRIPTION = "In the whole table, no primary key is null or there twice."


def primary_key_checks(assets: AssetsDefinition) -> AssetChecksDefinition:
    """One check per asset of a `@dlt_assets`: in the whole warehouse table, no primary key is null or there twice."""
    pipeline, schema_name = pipeline_and_schema(assets)

    @multi_asset_check(
        name=f"{assets.op.name}_{PRIMARY_KEY_CHECK}",
        specs=[AssetCheckSpec(PRIMARY_KEY_CHECK, asset=key, description=DESCRIPTION) for key in assets.keys],
        can_subset=True,
        retry_policy=CHECK_RETRIES,
    )
    def check(context: AssetCheckExecutionContext) -> Iterable[AssetCheckResult]:
        schema = stored_schema(pipeline, schema_name)
        for key in sorted({key.asset_key for key in context.selected_asset_check_keys}):
            bad_rows = _bad_primary_keys(pipeline, schema, resource_name=key.path[-1])
            yield AssetCheckResult(
                asset_key=key,
                check_name=PRIMARY_KEY_CHECK,
                passed=not any(bad_rows.values()),
                metadata={
                    "tables": list(bad_rows),
                    **{f"bad rows in {t}": n for t, n in bad_rows.items() if n},
                },
            )

    return check


def pipeline_and_schema(assets: AssetsDefinition) -> tuple[dlt.Pipeline, str]:
    """The pipeline of a `@dlt_assets`, and the name of its source's schema in the warehouse."""
    metadata = next(iter(assets.metadata_by_key.values()))
    source: DltSource = metadata[META_KEY_SOURCE]
    return metadata[META_KEY_PIPELINE], source.schema.name


def stored_schema(pipeline: dlt.Pipeline, name: str) -> Schema:
    """The newest schema in the warehouse; one without tables where nothing was loaded yet."""
    try:
        with warehouse_turn(pipeline):
            return pipeline.dataset(schema=name).schema
    except DestinationUndefinedEntity:
        return Schema(name)


def _bad_primary_keys(pipeline: dlt.Pipeline, schema: Schema, resource_name: str) -> dict[str, int]:
    """Keys that are null or occur more than once, by root table of the resource."""
    client = pipeline.sql_client()
    statements = {}
    for name, table in tables_of(resource_name, schema).items():
        keys = [client.escape_column_name(column) for column in get_columns_names_with_prop(table, "primary_key")]
        if keys and not table.get("parent"):
            statements[name] = (
                f"SELECT count(*) FROM (SELECT 1 AS bad FROM {client.make_qualified_table_name(name)} "
                f"GROUP BY {', '.join(keys)} "
                f"HAVING count(*) > 1 OR {' OR '.join(f'{key} IS NULL' for key in keys)}) AS bad_keys"
            )
    return {name: count(pipeline, statement) or 0 for name, statement in statements.items()}
