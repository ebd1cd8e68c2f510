"""dbt models on the loaded tables: staging views, and the marts that people look at. They follow their sources."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_dbt import DagsterDbtTranslator, DbtCliInvocation, DbtCliResource, dbt_assets
from dagster_dbt.core.dbt_event_iterator import DbtEventIterator
from dagster_dbt.errors import DagsterDbtCliRuntimeError

from code_locations.analytics.prepare import dbt_resource, prepared_project
from runtime.load.directories import data_directory
from runtime.load.locks import destination_client, duckdb_file_lock, pipeline_lock
from runtime.load.retries import disable_run_retries
from runtime.load.settings import parse_date
from runtime.load.warehouse import warehouse_name, warehouse_pipeline

GROUP = "models"
DAILY = "tag:daily"  # models that are built per day
project = prepared_project(warehouse_name())
manifest: dict[str, Any] = json.loads(project.manifest_path.read_text())
pipeline = warehouse_pipeline("analytics", "marts")  # never loads: it has the warehouse's credentials

logging.getLogger("sqlglot").setLevel(logging.ERROR)  # warnings about functions that lineage does not depend on

# The days of the shop's tables: the key of a day is the same in both locations.
start_date = parse_date("SHOP_START_DATE", os.environ.get("SHOP_START_DATE", "") or "2026-01-01")
days = dg.DailyPartitionsDefinition(start_date, end_offset=1)

# A model follows its sources: it is built when one of them has changed and none is being loaded. It waits for sources
# that have never been loaded. `AutomationCondition.eager()` would wait for all their partitions.
follows_sources = (
    (dg.AutomationCondition.any_deps_updated() | dg.AutomationCondition.newly_missing()).since_last_handled()
    & dg.AutomationCondition.all_deps_match(
        ~dg.AutomationCondition.missing() | dg.AutomationCondition.will_be_requested()
    )
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
).with_label("follows its sources")


class Translator(DagsterDbtTranslator):
    """Keys are `[<schema>, <model>]`, and `[<source>, <table>]` for a source: the key of the asset that loads it."""

    def get_asset_spec(self, manifest: Mapping[str, Any], unique_id: str, project: Any) -> dg.AssetSpec:
        spec = super().get_asset_spec(manifest, unique_id, project)
        if not unique_id.startswith("model."):
            return spec
        is_mart = spec.key.path[0] == "marts"
        return spec.replace_attributes(
            group_name=GROUP,
            owners=["team:analytics"],
            metadata={**spec.metadata, "dagster/table_name": ".".join(spec.key.path)},
            automation_condition=follows_sources,
            freshness_policy=dg.FreshnessPolicy.time_window(timedelta(hours=26)) if is_mart else ...,
        )


@contextmanager
def dbt_turn(context: dg.AssetExecutionContext) -> Iterator[Path]:
    """Waits until no other dbt run writes the models, nor a load the DuckDB file. Yields dbt's working directory."""
    parsed = data_directory("dbt") / f"{project.target_path.name}-{context.op.name}.msgpack"  # spares the next run 2 s
    with (
        pipeline_lock(context.op_execution_context, pipeline),
        duckdb_file_lock(pipeline, context.log.info),
        tempfile.TemporaryDirectory(prefix="dbt-") as temporary,
    ):
        partial_parse = Path(temporary, "partial_parse.msgpack")
        if parsed.exists():
            shutil.copy(parsed, partial_parse)
        yield Path(temporary)
        if partial_parse.exists():
            shutil.copy(partial_parse, parsed)


def credentials() -> dict[str, str]:
    """The variables of profiles.yml, from the credentials that loads use."""
    found: Any = getattr(destination_client(pipeline).config, "credentials", None)
    options = getattr(found, "query", None) or {}  # of a Postgres URL
    values = {
        "DBT_HOST": options.get("host") or getattr(found, "host", None),  # libpq's order
        "DBT_SSLMODE": options.get("sslmode"),
        "DBT_PORT": getattr(found, "port", None),
        "DBT_USER": getattr(found, "username", None),
        "DBT_ENV_SECRET_PASSWORD": getattr(found, "password", None),
        "DBT_ENV_SECRET_PRIVATE_KEY": getattr(found, "private_key", None),
        "DBT_ENV_SECRET_PRIVATE_KEY_PASSPHRASE": getattr(found, "private_key_passphrase", None),
        # dbt runs in the project's folder, so the DuckDB file's path must be absolute.
        "DBT_DATABASE": str(Path(found.database).resolve()) if warehouse_name() == "duckdb" else found.database,
        "DBT_WAREHOUSE": getattr(found, "warehouse", None),
        "DBT_ROLE": getattr(found, "role", None),
    }
    return {variable: str(value) for variable, value in values.items() if value is not None}


def build(context: dg.AssetExecutionContext, dbt: DbtCliResource, *arguments: str) -> Iterator[Any]:
    """Builds the selected models and runs their tests. A failed test fails the run, after all others."""
    # chdir: dagster-dbt's threads change the working directory, and may leave it changed.
    with chdir(Path.cwd()), dbt_turn(context) as folder:
        settings = credentials()
        os.environ |= settings
        name_database(settings["DBT_DATABASE"])
        invocation = dbt.cli(["build", *arguments], context=context, target_path=folder)
        events, failure = [], None
        try:
            for event in invocation.stream():
                events.append(event)
        except DagsterDbtCliRuntimeError as error:
            failure = error
        try:
            # Once dbt has ended: dagster-dbt would take a whole core to wait for the next event.
            results = list(DbtEventIterator(iter(events), invocation).fetch_row_counts().fetch_column_metadata())
        finally:
            close_connections(invocation)
        failed = failures(invocation) if failure else []
    yield from results  # after the turn: Dagster takes a while to store them, and loads may wait
    if failure:
        disable_run_retries(context.op_execution_context)
        raise dg.Failure("; ".join(failed) or str(failure), allow_retries=False) from failure


def name_database(name: str) -> None:
    """Puts the database's name into the manifest, which the image has made without it. dagster-dbt queries by it."""
    if warehouse_name() == "duckdb":
        name = Path(name).stem
    for node in [*manifest["nodes"].values(), *manifest["sources"].values()]:
        if node.get("relation_name"):
            node["relation_name"] = node["relation_name"].replace(node["database"], name, 1)
        node["database"] = name


def close_connections(invocation: DbtCliInvocation) -> None:
    """Closes what dagster-dbt has opened in this process to read the metadata: it would keep the DuckDB file locked."""
    adapter: Any = invocation.adapter
    if adapter:
        adapter.cleanup_connections()
    if adapter and adapter.type() == "duckdb":
        adapter.connections.close_all_connections()


def failures(invocation: DbtCliInvocation) -> list[str]:
    """What failed, one sentence per model or test. Empty if dbt ended before it ran any."""
    try:
        results = invocation.get_artifact("run_results.json")["results"]
    except FileNotFoundError:
        return []
    failed = [result for result in results if result["status"] in ("error", "fail")]
    return [f"{result['unique_id'].split('.')[2]}: {' '.join(str(result['message']).split())}" for result in failed]


@dbt_assets(
    manifest=manifest,
    project=project,
    name="models",
    dagster_dbt_translator=Translator(),
    exclude=DAILY,
)
def models(context: dg.AssetExecutionContext, dbt: DbtCliResource) -> Iterator[Any]:
    yield from build(context, dbt)


@dbt_assets(
    manifest=manifest,
    project=project,
    name="models_by_day",
    dagster_dbt_translator=Translator(),
    select=DAILY,
    partitions_def=days,
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def models_by_day(context: dg.AssetExecutionContext, dbt: DbtCliResource) -> Iterator[Any]:
    window = context.partition_time_window
    yield from build(context, dbt, "--vars", f"{{start: '{window.start}', end: '{window.end}'}}")


defs = dg.Definitions(
    assets=[models, models_by_day],
    resources={"dbt": dbt_resource(project)},
    sensors=[
        dg.AutomationConditionSensorDefinition(
            "models_follow_sources",
            target=dg.AssetSelection.groups(GROUP, "reports"),
            description="Builds models whose sources have changed, and the report on them. Off until you turn it on.",
        )
    ],
)
