"""A page with the weekly figures of all teams: one HTML file with its charts inside, which needs no server."""

from collections import defaultdict
from datetime import date

import dagster as dg

from code_locations.analytics.marts import follows_sources, pipeline
from runtime import charts
from runtime.load.locks import duckdb_file_lock


@dg.asset(
    key=["reports", "weekly_summary"],
    deps=[dg.AssetKey(["marts", "weekly_summary"])],
    group_name="reports",
    owners=["team:analytics"],
    kinds={"html"},
    automation_condition=follows_sources,
    description="A chart per figure of the weekly summary, in one HTML file.",
)
def weekly_report(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    with duckdb_file_lock(pipeline, context.log.info), pipeline.sql_client() as client:
        rows = client.execute_sql("SELECT figure, week, value FROM weekly_summary ORDER BY figure, week") or ()
    figures: dict[str, list[tuple[date, float]]] = defaultdict(list)
    for figure, week, value in rows:
        figures[figure].append((week, float(value)))
    parts = [charts.line_chart(figure, {"": values}) for figure, values in figures.items()]
    where = charts.publish(charts.page("Weekly summary", parts), "weekly_summary", "analytics")
    return dg.MaterializeResult(
        metadata={
            **where,
            "figures": len(figures),
            "last weeks": dg.MetadataValue.md(table(figures)),
        }
    )


def table(figures: dict[str, list[tuple[date, float]]]) -> str:
    """The last week of each figure, in Markdown."""
    lines = [f"| {figure} | {values[-1][0]} | {values[-1][1]:,.2f} |" for figure, values in figures.items()]
    return "\n".join(["| figure | last week | value |", "|---|---|---|", *lines])


defs = dg.Definitions(assets=[weekly_report])
