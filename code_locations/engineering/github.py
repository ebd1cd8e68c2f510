"""GitHub: issues, pull requests, stargazers and events. One partition per repository."""

import os
import warnings
from collections.abc import Iterator, Sequence
from datetime import timedelta

import dagster as dg
import dlt
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType

from dlt_sources.github import github_reactions, github_repo_events, github_stargazers, github_totals
from runtime.load.assets import pipeline_of
from runtime.load.checks import primary_key_checks, run_created_at
from runtime.load.retries import CHECK_RETRIES
from runtime.load.settings import LoadConfig, LoadOptions, parse_list
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import query_int, warehouse_pipeline

DATASET = "raw_github"

repositories = dg.StaticPartitionsDefinition(
    parse_list(
        "GITHUB_REPOSITORIES",
        os.environ.get("GITHUB_REPOSITORIES", ""),
        entry=r"[\w.-]+/[\w.-]+",
        expected="owner/name, for example dagster-io/dagster,dlt-hub/dlt",
    )
)
translator = SourceTranslator(
    source="github",
    owners=["team:engineering"],
    tags={"domain": "collaboration"},
    fresh_within=timedelta(hours=13),  # two of its schedule's intervals
)


@dlt_assets(
    dlt_source=github_reactions("owner", "name"),  # only for its tables: the partition names the repository
    dlt_pipeline=warehouse_pipeline("github_reactions", DATASET),
    name="github_issues_and_pull_requests",
    dagster_dlt_translator=translator,
    partitions_def=repositories,
    pool="github",
)
def github_reactions_assets(
    context: dg.AssetExecutionContext, dlt: DagsterDltResource, config: LoadConfig
) -> Iterator[DltEventType]:
    owner, name = context.partition_key.split("/")
    source = github_reactions(owner, name, full_reload=config.full_reload)
    yield from dlt.run(context=context, dlt_source=source, **config.arguments)


@dlt_assets(
    dlt_source=github_stargazers("owner", "name"),
    dlt_pipeline=warehouse_pipeline("github_stargazers", DATASET),
    name="github_stargazers",
    dagster_dlt_translator=translator,
    partitions_def=repositories,
    pool="github",
)
def github_stargazers_assets(
    context: dg.AssetExecutionContext, dlt: DagsterDltResource, config: LoadConfig
) -> Iterator[DltEventType]:
    owner, name = context.partition_key.split("/")
    source = github_stargazers(owner, name, full_reload=config.full_reload)
    yield from dlt.run(context=context, dlt_source=source, **config.arguments)


@dlt_assets(
    dlt_source=github_repo_events("owner", "name"),
    dlt_pipeline=warehouse_pipeline("github_repo_events", DATASET),
    name="github_repo_events",
    dagster_dlt_translator=translator,
    partitions_def=repositories,
    pool="github",
)
def github_repo_events_assets(
    context: dg.AssetExecutionContext, dlt: DagsterDltResource, config: LoadOptions
) -> Iterator[DltEventType]:
    owner, name = context.partition_key.split("/")
    yield from dlt.run(context=context, dlt_source=github_repo_events(owner, name), **config.arguments)


def rows_match_github(
    assets: dg.AssetsDefinition, table: str, created: str, children: Sequence[str] = ()
) -> dg.AssetChecksDefinition:
    """A check of a table against the number of rows that GitHub counts.

    The number of rows in each of its `children` must match `<child>_total_count`. `created` is the column with the
    time at which a row was created: rows that are newer than the run are not counted.
    """
    pipeline = pipeline_of(assets)
    with_children = f", each with all of its {' and '.join(children)}" if children else ""

    warnings.filterwarnings("ignore", "Specifying a partitions_def on an AssetCheckSpec", dg.PreviewWarning)

    @dg.asset_check(
        name="rows_match_github",
        asset=["github", table],
        description=f"The warehouse has all {table.replace('_', ' ')} that GitHub counts{with_children}.",
        partitions_def=repositories,  # a repository's result does not replace that of another one
        retry_policy=CHECK_RETRIES,
    )
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        run_created = run_created_at(context)
        missing, lacking = {}, {}
        for repository in [context.partition_key] if context.has_partition_key else repositories.get_partition_keys():
            owner, name = repository.split("/")
            statement = (
                f"SELECT count(*) FROM {table} WHERE repository_owner = %s AND repository_name = %s AND {created} <= %s"
            )
            loaded = query_int(pipeline, statement, owner, name, run_created) or 0
            total = github_totals(owner, name, created_before=run_created)[table]
            # The warehouse may have more: rows that are deleted at GitHub stay.
            missing[f"missing rows of {repository}"] = max(total - loaded, 0)
            for child in children:
                lacking[f"rows of {repository} without all {child}"] = _rows_that_lack(
                    pipeline, table, child, owner, name
                )
        return dg.AssetCheckResult(
            passed=not any([*missing.values(), *lacking.values()]),
            # GitHub may count a comment that it hides, so only a missing row is an error.
            severity=dg.AssetCheckSeverity.ERROR if any(missing.values()) else dg.AssetCheckSeverity.WARN,
            metadata=missing | lacking,
        )

    return check


def _rows_that_lack(pipeline: dlt.Pipeline, table: str, child: str, owner: str, name: str) -> int:
    """The number of rows with fewer rows in the child table than GitHub counts."""
    repository = "parent.repository_owner = %s AND parent.repository_name = %s"
    rows = query_int(
        pipeline,
        f"SELECT count(*) FROM {table} AS parent LEFT JOIN ("
        f"SELECT _dlt_parent_id, count(*) AS loaded FROM {table}__{child} GROUP BY _dlt_parent_id"
        f") AS child ON child._dlt_parent_id = parent._dlt_id "
        f"WHERE {repository} AND parent.{child}_total_count > coalesce(child.loaded, 0)",
        owner,
        name,
    )
    if rows is None:  # dlt creates the child table with its first row
        statement = f"SELECT count(*) FROM {table} AS parent WHERE {repository} AND parent.{child}_total_count > 0"
        rows = query_int(pipeline, statement, owner, name)
    return rows or 0


@dg.schedule(
    cron_schedule="7 */6 * * *",
    target=dg.AssetSelection.groups("github"),
    description="Every six hours: loads what changed, one run per repository. Off until you turn it on.",
)
def github_every_six_hours(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
    for repository in repositories.get_partition_keys():
        yield dg.RunRequest(run_key=f"{context.scheduled_execution_time}:{repository}", partition_key=repository)


defs = dg.Definitions(
    assets=[github_reactions_assets, github_stargazers_assets, github_repo_events_assets],
    asset_checks=[
        primary_key_checks(github_reactions_assets),
        primary_key_checks(github_stargazers_assets),
        primary_key_checks(github_repo_events_assets),
        rows_match_github(github_reactions_assets, "issues", "created_at", ["comments", "reactions"]),
        rows_match_github(github_reactions_assets, "pull_requests", "created_at", ["comments", "reactions"]),
        rows_match_github(github_stargazers_assets, "stargazers", "starred_at"),
    ],
    schedules=[github_every_six_hours],
)
