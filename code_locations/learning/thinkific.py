"""Thinkific: courses, users, enrollments and reviews, downstream of the site that they are read from."""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType
from dagster_dlt.translator import DltResourceTranslatorData

from dlt_sources.thinkific import thinkific, thinkific_total
from runtime.checks import pipeline_and_schema, primary_key_checks
from runtime.translator import SourceTranslator
from runtime.warehouse import count, warehouse_pipeline

SITE = dg.AssetKey(["thinkific", "site"])
OWNERS = ["team:learning"]
REFERENCE = "https://developers.thinkific.com/api/api-documentation/"


class SiteTranslator(SourceTranslator):
    """A translator of this source alone: the keys of every source here, `[<source>, <table>]`, and one key upstream.

    Left to itself dagster-dlt names an asset `dlt_thinkific_courses` and makes up one upstream for each.
    """

    def get_asset_spec(self, data: DltResourceTranslatorData) -> dg.AssetSpec:
        return super().get_asset_spec(data).replace_attributes(deps=[SITE])


class Load(dg.Config):
    """Options of a load, set in the launchpad."""

    full_reload: bool = False  # read all enrollments again, not only those that changed since the last load


@dlt_assets(
    dlt_source=thinkific(),
    dlt_pipeline=warehouse_pipeline("thinkific", "raw_thinkific"),
    name="thinkific",
    dagster_dlt_translator=SiteTranslator(source="thinkific", owners=OWNERS, tags={"domain": "education"}),
    pool="thinkific",
)
def thinkific_assets(
    context: dg.AssetExecutionContext, dlt: DagsterDltResource, config: Load
) -> Iterator[DltEventType]:
    yield from dlt.run(context=context, dlt_source=thinkific(full_reload=config.full_reload))


# What the assets depend on and nobody here makes: without a spec, lineage would show a bare key.
upstream = [
    dg.AssetSpec(
        key,
        group_name="thinkific",
        description="The school at Thinkific: its courses, its people and how far they got.",
        owners=OWNERS,
        kinds={"thinkific"},
        metadata={"vendor": dg.MetadataValue.url(REFERENCE)},
    )
    for key in thinkific_assets.dependency_keys
]


def rows_match_thinkific(table: str) -> dg.AssetChecksDefinition:
    """A check of a table against the number of rows that Thinkific counts."""
    pipeline, _ = pipeline_and_schema(thinkific_assets)

    @dg.asset_check(
        asset=["thinkific", table],
        description="The warehouse has every row that Thinkific counts. Rows beyond that were deleted there.",
    )
    def rows_match_thinkific(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        record = context.instance.get_run_record_by_id(context.run.run_id)
        started = record.create_timestamp if record else datetime.now(UTC)
        total = thinkific_total(table, created_before=started)
        loaded = count(pipeline, f"SELECT count(*) FROM {table}") or 0
        return dg.AssetCheckResult(
            passed=loaded >= total,
            # Of enrollments Thinkific counts those from before the run. Of the rest it may count a newer row.
            severity=dg.AssetCheckSeverity.ERROR if table == "enrollments" else dg.AssetCheckSeverity.WARN,
            metadata={"missing rows": max(total - loaded, 0), "rows deleted at Thinkific": max(loaded - total, 0)},
        )

    return rows_match_thinkific


thinkific_every_six_hours = dg.ScheduleDefinition(
    name="thinkific_every_six_hours",
    cron_schedule="37 */6 * * *",
    target=[thinkific_assets],
    description="Loads what changed, and whole what cannot tell. Off until you switch it on.",
)

defs = dg.Definitions(
    assets=[thinkific_assets, *upstream],
    asset_checks=[
        primary_key_checks(thinkific_assets),
        *(rows_match_thinkific(table) for table in ("courses", "users", "enrollments", "course_reviews")),
    ],
    schedules=[thinkific_every_six_hours],
)
