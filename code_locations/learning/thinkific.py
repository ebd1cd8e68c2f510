"""Thinkific: courses, users, enrollments and reviews, with the site that they are read from as upstream asset."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType
from dagster_dlt.translator import DltResourceTranslatorData

from dlt_sources.thinkific import thinkific, thinkific_total
from runtime.load.checks import primary_key_checks, row_count_check
from runtime.load.settings import LoadConfig
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import warehouse_pipeline

SITE = dg.AssetKey(["thinkific", "site"])
OWNERS = ["team:learning"]
REFERENCE = "https://developers.thinkific.com/api/api-documentation/"


class SiteTranslator(SourceTranslator):
    """Adds the site as upstream asset of every table."""

    def get_asset_spec(self, data: DltResourceTranslatorData) -> dg.AssetSpec:
        return super().get_asset_spec(data).replace_attributes(deps=[SITE])


@dlt_assets(
    dlt_source=thinkific(),
    dlt_pipeline=warehouse_pipeline("thinkific", "raw_thinkific"),
    name="thinkific",
    dagster_dlt_translator=SiteTranslator(
        source="thinkific", owners=OWNERS, tags={"domain": "education"}, fresh_within=timedelta(hours=13)
    ),
    pool="thinkific",
)
def thinkific_assets(
    context: dg.AssetExecutionContext, dlt: DagsterDltResource, config: LoadConfig
) -> Iterator[DltEventType]:
    yield from dlt.run(context=context, dlt_source=thinkific(full_reload=config.full_reload), **config.arguments)


# The external asset that the tables depend on. Without a spec the catalogue would show only its key.
site = dg.AssetSpec(
    SITE,
    group_name="thinkific",
    description="The school at Thinkific: its courses, its users and their progress.",
    owners=OWNERS,
    kinds={"thinkific"},
    metadata={"vendor": dg.MetadataValue.url(REFERENCE)},
)


def row_count(table: str) -> dg.AssetChecksDefinition:
    """A check of a table against the number of rows that Thinkific counts."""
    return row_count_check(
        thinkific_assets,
        ["thinkific", table],
        "Thinkific",
        lambda created: thinkific_total(table, created_before=created),
        f"SELECT count(*) FROM {table}",
        # Only enrollments can be counted as of the run's creation. Of other tables Thinkific may count a newer row.
        dg.AssetCheckSeverity.ERROR if table == "enrollments" else dg.AssetCheckSeverity.WARN,
    )


thinkific_every_six_hours = dg.ScheduleDefinition(
    name="thinkific_every_six_hours",
    cron_schedule="37 */6 * * *",
    target=[thinkific_assets],
    description="Every six hours: loads changed enrollments, and all courses, users and reviews. "
    "Off until you turn it on.",
)

defs = dg.Definitions(
    assets=[thinkific_assets, site],
    asset_checks=[
        primary_key_checks(thinkific_assets),
        *map(row_count, ("courses", "users", "enrollments", "course_reviews")),
    ],
    schedules=[thinkific_every_six_hours],
)
