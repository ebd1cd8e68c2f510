"""Files that are delivered to a folder or bucket, one table per subfolder. A sensor loads new files."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import dagster as dg
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType

from dlt_sources.filesystem import filesystem_tables, list_files
from runtime.load.assets import pipeline_of
from runtime.load.checks import stored_tables
from runtime.load.retries import CHECK_RETRIES
from runtime.load.settings import LoadConfig, parse_list
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import query_int, warehouse_pipeline

DATASET = "raw_filesystem"
LISTING_SECONDS = 45.0  # for the sensor: Dagster ends a tick after 60 s


def parse_tables(value: str) -> Mapping[str, str]:
    """Table → format, from a comma-separated `table:format` list."""
    entries = parse_list(
        "FILESYSTEM_TABLES",
        value,
        entry=r"[a-z][a-z0-9_]*:(csv|jsonl|parquet)",
        expected="table:format, for example orders:csv,clicks:jsonl,stock:parquet. A table is a folder with a "
        "lower-case name",
        key=lambda entry: entry.split(":")[0],
    )
    return dict(entry.split(":") for entry in entries)


tables = parse_tables(os.environ.get("FILESYSTEM_TABLES", ""))
translator = SourceTranslator(
    source="filesystem",
    group="deliveries",
    owners=["team:operations"],
    tags={"domain": "operations"},
    fresh_within=timedelta(hours=26),  # files are delivered daily
)


@dlt_assets(
    dlt_source=filesystem_tables(tables),
    dlt_pipeline=warehouse_pipeline("filesystem", DATASET),
    name="deliveries",
    dagster_dlt_translator=translator,
    pool="filesystem",
)
def filesystem_assets(
    context: dg.AssetExecutionContext, dlt: DagsterDltResource, config: LoadConfig
) -> Iterator[DltEventType]:
    broken: dict[str, str] = {}
    source = filesystem_tables(tables, broken, config.full_reload)
    yield from dlt.run(context=context, dlt_source=source, **config.arguments)
    if broken:  # the run fails so that somebody notices, although all other files are in the warehouse by now
        raise dg.Failure(
            f"{len(broken)} broken files, all other files are loaded. Correct or remove: "
            + "; ".join(f"{file}, {reason}" for file, reason in broken.items()),
            metadata=dict(broken),
            allow_retries=False,
        )


def files_are_whole(assets: dg.AssetsDefinition, table: str) -> dg.AssetChecksDefinition:
    """A check of a table: the rows of each file are numbered from 1, without a gap or a duplicate."""
    key = dg.AssetKey(["filesystem", table])

    @dg.asset_check(
        name="files_are_whole",
        asset=key,
        description="The warehouse has every row of every loaded file exactly once.",
        retry_policy=CHECK_RETRIES,
    )
    def check() -> dg.AssetCheckResult:
        name = next(iter(stored_tables(assets)[key]), None)
        if name is None:
            return dg.AssetCheckResult(passed=True, description="No file with rows has been loaded yet.")
        pipeline = pipeline_of(assets)
        wrong = query_int(
            pipeline,
            # The qualified name is quoted, because a folder may have the name of an SQL keyword, such as `order`.
            f"SELECT count(*) FROM (SELECT _file FROM {pipeline.sql_client().make_qualified_table_name(name)} "
            "GROUP BY _file "
            "HAVING min(_file_row) <> 1 OR max(_file_row) <> count(*) OR count(DISTINCT _file_row) <> count(*)"
            ") AS incomplete_files",
        )
        if wrong is None:
            return dg.AssetCheckResult(passed=False, description=f"The warehouse has no table {name} any more.")
        return dg.AssetCheckResult(passed=not wrong, metadata={"files with missing or duplicate rows": wrong})

    return check


def types_agree(assets: dg.AssetsDefinition, table: str) -> dg.AssetChecksDefinition:
    """A check of a table: dlt has not put a value into a second column because it does not have the column's type.

    A CSV or Parquet file with such a value is broken and not loaded. In JSONL every row may have its own types.
    """
    key = dg.AssetKey(["filesystem", table])

    @dg.asset_check(
        name="types_agree",
        asset=key,
        description="All values of a column have the same type. Values of other types are in a column "
        "`<column>__v_<type>`.",
        retry_policy=CHECK_RETRIES,
    )
    def check() -> dg.AssetCheckResult:
        variants = [
            f"{name}.{column}"
            for name, loaded in stored_tables(assets)[key].items()
            for column, hints in loaded["columns"].items()
            if hints.get("variant")
        ]
        return dg.AssetCheckResult(
            passed=not variants,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"columns with values of another type": variants},
        )

    return check


@dg.sensor(
    target=[filesystem_assets],
    minimum_interval_seconds=30,
    description="When files are new or have changed: loads their tables. Off until you turn it on.",
)
def deliveries_on_new_files(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Launches a run for the tables whose folders have changed since the last tick.

    The load itself finds out which files are new. The cursor therefore needs only one digest per folder, however many
    files there are. A failed run is not launched again until a file changes: launch it yourself, or wait for the next
    run, which also loads what the failed one did not.
    """
    before = json.loads(context.cursor or '{"launched": 0, "digests": {}}')
    listing = ThreadPoolExecutor(1)
    try:
        files = listing.submit(list_files, tables).result(LISTING_SECONDS)
    except TimeoutError:
        raise TimeoutError(
            f"Listing the files took longer than {LISTING_SECONDS:.0f} s. Move files that are loaded to another folder."
        ) from None
    finally:
        listing.shutdown(wait=False)
    digests = {table: hashlib.sha256(json.dumps(found).encode()).hexdigest() for table, found in files.items() if found}
    changed = [table for table, digest in digests.items() if digest != before["digests"].get(table)]
    if not changed:
        return dg.SkipReason(f"None of {sum(map(len, files.values()))} files is new or has changed.")
    # The number tells a folder that returns to an earlier state from that state. A repeated tick has the same key.
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
    sensors=[deliveries_on_new_files],
)
