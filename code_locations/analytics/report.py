"""A page with the weekly figures of all teams: one HTML file with its charts inside, which needs no server."""

from collections import defaultdict
from datetime import date
from html import escape
from pathlib import Path

import dagster as dg
import leather

from code_locations.analytics.marts import follows_sources, pipeline
from runtime.load.locks import duckdb_file_lock

FILE = Path("data/reports/weekly_summary.html")
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Weekly summary</title>
<style>body {{ font: 15px sans-serif; max-width: 70em; margin: 2em auto }} figure {{ margin: 2em 0 }}</style>
<h1>Weekly summary</h1>
{charts}
</html>
"""


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
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(PAGE.format(charts="\n".join(chart(*item) for item in figures.items())))
    return dg.MaterializeResult(
        metadata={
            "file": dg.MetadataValue.path(str(FILE.resolve())),
            "open it": f"Without Docker: {FILE}. With Docker: docker compose cp analytics:{FILE.resolve()} .",
            "figures": len(figures),
            "last weeks": dg.MetadataValue.md(table(figures)),
        }
    )


def chart(figure: str, values: list[tuple[date, float]]) -> str:
    """A line chart as SVG. One week is not a line."""
    if len(values) == 1:
        return f"<p>{escape(figure)}, week of {values[0][0]}: {values[0][1]:,.2f}</p>"
    drawn = leather.Chart(escape(figure))
    drawn.add_line(values)
    drawn.add_y_scale(min(0.0, *(value for _, value in values)), max(value for _, value in values) or 1.0)
    return f"<figure>{drawn.to_svg(width=800, height=260)}</figure>"


def table(figures: dict[str, list[tuple[date, float]]]) -> str:
    """The last week of each figure, in Markdown."""
    lines = [f"| {figure} | {values[-1][0]} | {values[-1][1]:,.2f} |" for figure, values in figures.items()]
    return "\n".join(["| figure | last week | value |", "|---|---|---|", *lines])


defs = dg.Definitions(assets=[weekly_report])
