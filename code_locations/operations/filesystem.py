"""Files: what arrives in a folder or a bucket, one table per subfolder, loaded as a sensor sees it."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import dagster as dg
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType

from dlt_sources.filesystem import filesystem_tables, list_files
from runtime.checks import pipeline_and_schema, stored_schema
from runtime.metadata import tables_of
from runtime.translator import SourceTranslator
from runtime.warehouse import count, warehouse_pipeline

DATASET = "raw_filesystem"
LISTING_SECONDS = 45.0  # of a tick, which Dagster gives up after 60


def parse_tables(value: str) -> Mapping[str, str]:
    """The tables of a comma-separated `table:format` list, in its order."""
    entries = [entry.strip() for entry in value.split(",") if entry.strip()]
    wrong = [entry for entry in entries if not re.fullmatch(r"[a-z][a-z0-9_]*:(csv|jsonl|parquet)", entry)]
    tables = dict(entry.split(":") for entry in entries if entry not in wrong)
    if wrong or not entries or len(tables) < len(entries):
        raise ValueError(
            f"FILESYSTEM_TABLES={value!r} must be a comma-separated list of table:format, each table once, for example "
            "orders:csv,clicks:jsonl,stock:parquet; a table is a folder, in small letters. "
            f"Wrong here: {', '.join(wrong) or ('a table twice' if entries else 'empty')}."
        )
    return tables


tables = parse_tables(os.environ.get("FILESYSTEM_TABLES", ""))
translator = SourceTranslator(source="filesystem", owners=["team:operations"], tags={"domain": "operations"})


class Load(dg.Config):
    """Options of a load, set in the launchpad."""

    full_reload: bool = False  # read every file that is there again, not only the new and the changed


@dlt_assets(
    dlt_source=filesystem_tables(tables),
    dlt_pipeline=warehouse_pipeline("filesystem", DATASET),
    name="filesystem",
    dagster_dlt_translator=translator,
    pool="filesystem",
)
def filesystem_assets(
    context: dg.AssetExecutionContext, dlt: DagsterDltResource, config: Load
) -> Iterator[DltEventType]:
    broken: dict[str, str] = {}
    source = filesystem_tables(tables, broken, config.full_reload)
    yield from dlt.run(context=context, dlt_source=source)
    if broken:  # whoever watches runs has to learn of it, although all other files are in the warehouse by now
        raise dg.Failure(
            f"{len(broken)} broken, all other files are loaded. Mend or remove: "
            + "; ".join(f"{file}, {reason}" for file, reason in broken.items()),
            metadata=dict(broken),
            allow_retries=False,
        )


def files_are_whole(assets: dg.AssetsDefinition, table: str) -> dg.AssetChecksDefinition:
    """A check of a table: each file's rows are there once, numbered without a gap."""
    pipeline, _ = pipeline_and_schema(assets)

    @dg.asset_check(asset=["filesystem", table], description="Each file's rows are there once, and none is missing.")
    def files_are_whole() -> dg.AssetCheckResult:
        name = pipeline.sql_client().make_qualified_table_name(table)
        wrong = count(
            pipeline,
            # Whoever names a folder does not think of SQL: `order` has to be quoted.
            f"SELECT count(*) FROM (SELECT _file FROM {name} GROUP BY _file "
            "HAVING min(_file_row) <> 1 OR max(_file_row) <> count(*) OR count(DISTINCT _file_row) <> count(*)"
            ") AS wrong_files",
        )
        return dg.AssetCheckResult(passed=not wrong, metadata={"wrong files": wrong or 0})

    return files_are_whole


def types_agree(assets: dg.AssetsDefinition, table: str) -> dg.AssetChecksDefinition:
    """A check of a table: no value has needed a column of its own, because its type is not that of the column.

    A CSV or Parquet file with such values is broken. In JSONL each row may differ, and dlt loses none of them.
    """
    pipeline, schema_name = pipeline_and_schema(assets)

    @dg.asset_check(
        asset=["filesystem", table],
        description="No value lies in a column `<column>__v_<type>`, where dlt puts those of an unexpected type.",
    )
    def types_agree() -> dg.AssetCheckResult:
        found = tables_of(table, stored_schema(pipeline, schema_name))
        variants = [
            f"{name}.{column}"
            for name, loaded in found.items()
            for column, hints in loaded["columns"].items()
            if hints.get("variant")
        ]
        return dg.AssetCheckResult(
            passed=not variants, severity=dg.AssetCheckSeverity.WARN, metadata={"columns": variants}
        )

    return types_agree


@dg.sensor(target=[filesystem_assets], minimum_interval_seconds=30)
def filesystem_new_files(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Loads the tables whose folders have changed since the last tick. Off until you switch it on.

    Which files are new, the load knows best: the cursor holds a digest per folder, however many files there are. A
    tick that cannot list them fails with the reason. A run that fails is not launched again until a file changes:
    launch it yourself, or wait, as the next one loads what it has missed.
    """
    before = json.loads(context.cursor or '{"launched": 0, "digests": {}}')
    listing = ThreadPoolExecutor(1)
    try:
        files = listing.submit(list_files, tables).result(LISTING_SECONDS)
    except TimeoutError:
        raise TimeoutError(
            f"The files could not be listed within {LISTING_SECONDS:.0f} s. Move those that are loaded elsewhere."
        ) from None
    finally:
        listing.shutdown(wait=False)
    digests = {table: hashlib.sha256(json.dumps(found).encode()).hexdigest() for table, found in files.items() if found}
    changed = [table for table, digest in digests.items() if digest != before["digests"].get(table)]
    if not changed:
        return dg.SkipReason(f"Nothing new among {sum(map(len, files.values()))} files.")
    # Numbered, as a folder may come back to an earlier state. The same tick, tried again, has the same key.
    launched = before["launched"] + 1
    state = hashlib.sha256(json.dumps(digests).encode()).hexdigest()
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                run_key=f"{launched}:{state}", asset_selection=[dg.AssetKey(["filesystem", table]) for table in changed]
            )
        ],
        cursor=json.dumps({"launched": launched, "digests": digests}),
    )


defs = dg.Definitions(
    assets=[filesystem_assets],
    asset_checks=[check(filesystem_assets, table) for table in tables for check in (files_are_whole, types_agree)],
    sensors=[filesystem_new_files],
)
