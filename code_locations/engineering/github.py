"""GitHub: issues, pull requests, stargazers and events, one partition per repository."""

import os
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import dagster as dg
import dlt
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType

from dlt_sources.github import github_reactions, github_repo_events, github_stargazers, github_totals
from runtime.checks import pipeline_and_schema, primary_key_checks
from runtime.retries import CHECK_RETRIES
from runtime.translator import SourceTranslator
from runtime.warehouse import count, warehouse_pipeline

DATASET = "raw_github"


def parse_repositories(value: str) -> Sequence[str]:
    """The repositories of a comma-separated `owner/name` list, in its order."""
    names = [name.strip() for name in value.split(",") if name.strip()]
    wrong = [name for name in names if not re.fullmatch(r"[\w.-]+/[\w.-]+", name)]
    if wrong or not names or len({name.lower() for name in names}) < len(names):
        raise ValueError(
            f"GITHUB_REPOSITORIES={value!r} must be a comma-separated list of owner/name, each once, for example "
            f"dagster-io/dagster,dlt-hub/dlt. Wrong here: {', '.join(wrong) or ('a name twice' if names else 'empty')}."
        )
    return names


repositories = dg.StaticPartitionsDefinition(parse_repositories(os.environ.get("GITHUB_REPOSITORIES", "")))
translator = SourceTranslator(source="github", owners=["team:engineering"], tags={"domain": "collaboration"})


class Load(dg.Config):
    """Options of a load, set in the launchpad."""

    full_reload: bool = False  # read everything again, not only what changed since the last load


@dlt_assets(
    dlt_source=github_reactions("owner", "name"),  # the shape; the partition says which repository
    dlt_pipeline=warehouse_pipeline("github_reactions", DATASET),
    name="github_reactions",
    dagster_dlt_translator=translator,
    partitions_def=repositories,
    pool="github",
)
def github_reactions_assets(
    context: dg.AssetExecutionContext, dlt: DagsterDltResource, config: Load
) -> Iterator[DltEventType]:
    owner, name = context.partition_key.split("/")
    source = github_reactions(owner, name, full_reload=config.full_reload)
    yield from dlt.run(context=context, dlt_source=source)


@dlt_assets(
    dlt_source=github_stargazers("owner", "name"),
    dlt_pipeline=warehouse_pipeline("github_stargazers", DATASET),
    name="github_stargazers",
    dagster_dlt_translator=translator,
    partitions_def=repositories,
    pool="github",
)
def github_stargazers_assets(
    context: dg.AssetExecutionContext, dlt: DagsterDltResource, config: Load
) -> Iterator[DltEventType]:
    owner, name = context.partition_key.split("/")
    source = github_stargazers(owner, name, full_reload=config.full_reload)
    yield from dlt.run(context=context, dlt_source=source)


@dlt_assets(
    dlt_source=github_repo_events("owner", "name"),
    dlt_pipeline=warehouse_pipeline("github_repo_events", DATASET),
    name="github_repo_events",
    dagster_dlt_translator=translator,
    partitions_def=repositories,
    pool="github",
)
def github_repo_events_assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
    owner, name = context.partition_key.split("/")
    yield from dlt.run(context=context, dlt_source=github_repo_events(owner, name))


def rows_match_github(
    assets: dg.AssetsDefinition, table: str, created: str, children: Sequence[str] = ()
) -> dg.AssetChecksDefinition:
    """A check of a table against what GitHub counts, and of its `children` against each row's `<child>_total_count`.

    `created` is the column that dates a row: what was created after the run began is not expected.
    """
    pipeline, _ = pipeline_and_schema(assets)

    @dg.asset_check(
        asset=["github", table],
        description="The warehouse has every row that GitHub counts in the repository, and all children of a row.",
        retry_policy=CHECK_RETRIES,
    )
    def rows_match_github(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        record = context.instance.get_run_record_by_id(context.run.run_id)
        started = record.create_timestamp if record else datetime.now(UTC)
        missing, lacking = {}, {}
        for repository in [context.partition_key] if context.has_partition_key else repositories.get_partition_keys():
            owner, name = repository.split("/")
            statement = (
                f"SELECT count(*) FROM {table} WHERE repository_owner = %s AND repository_name = %s AND {created} <= %s"
            )
            loaded = count(pipeline, statement, owner, name, started) or 0
            total = github_totals(owner, name, created_before=started)[table]
            # More than GitHub counts is right: what was deleted there stays here.
            missing[f"missing rows of {repository}"] = max(total - loaded, 0)
            for child in children:
                lacking[f"rows of {repository} that lack {child}"] = _rows_that_lack(
                    pipeline, table, child, owner, name
                )
        return dg.AssetCheckResult(
            passed=not any([*missing.values(), *lacking.values()]),
            # GitHub may count a comment that it does not show; a row that is not there has no such excuse.
            severity=dg.AssetCheckSeverity.ERROR if any(missing.values()) else dg.AssetCheckSeverity.WARN,
            metadata=missing | lacking,
        )

    return rows_match_github


def _rows_that_lack(pipeline: dlt.Pipeline, table: str, child: str, owner: str, name: str) -> int:
    repository = "parent.repository_owner = %s AND parent.repository_name = %s"
    rows = count(
        pipeline,
        f"SELECT count(*) FROM {table} AS parent LEFT JOIN ("
        f"SELECT _dlt_parent_id, count(*) AS loaded FROM {table}__{child} GROUP BY _dlt_parent_id"
        f") AS child ON child._dlt_parent_id = parent._dlt_id "
        f"WHERE {repository} AND parent.{child}_total_count > coalesce(child.loaded, 0)",
        owner,
        name,
    )
    if rows is None:  # no row has had a child yet, so there is no table of children
        statement = f"SELECT count(*) FROM {table} AS parent WHERE {repository} AND parent.{child}_total_count > 0"
        rows = count(pipeline, statement, owner, name)
    return rows or 0


@dg.schedule(cron_schedule="7 */6 * * *", target=dg.AssetSelection.groups("github"))
def github_every_six_hours(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
    """Loads what changed, all repositories. Off until you switch it on."""
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
