"""An HTML page with charts inside, which needs no server: reports of code locations."""

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from html import escape
from typing import Any

import dagster as dg
import fsspec
import leather
from fsspec.implementations.local import LocalFileSystem

COLORS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#edc948", "#ff9da7", "#9c755f", "#bab0ac")
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px sans-serif; max-width: 70em; margin: 2em auto }} figure {{ margin: 2em 0 }}
td, th {{ padding: .2em 1em .2em 0; text-align: left; vertical-align: top }}
</style>
<h1>{title}</h1>
{parts}
</html>
"""


def publish(html: str, name: str, location: str) -> dict[str, dg.MetadataValue]:
    """Write a page as `<name>.html` to REPORTS_URL, a folder or bucket. Returns the metadata that says where it is."""
    files, folder = fsspec.core.url_to_fs(os.environ.get("REPORTS_URL") or "data/reports")
    files.makedirs(folder, exist_ok=True)
    path = f"{folder}/{name}.html"
    files.pipe_file(path, html.encode())
    if not isinstance(files, LocalFileSystem):
        return {"file": dg.MetadataValue.url(files.unstrip_protocol(path))}
    how = f"Without Docker: {os.path.relpath(path)}. With Docker: docker compose cp {location}:{path} ."
    return {"file": dg.MetadataValue.path(path), "open it": dg.MetadataValue.text(how)}


def page(title: str, parts: Iterable[str]) -> str:
    """The whole page."""
    return PAGE.format(title=escape(title), parts="\n".join(parts))


def line_chart(title: str, lines: Mapping[str, Sequence[tuple[date, float]]], width: int = 800) -> str:
    """Lines over days or weeks as SVG. A single point is not a line, so it is a sentence."""
    longer = {name: values for name, values in lines.items() if len(values) > 1}
    single = {name: values[0] for name, values in lines.items() if len(values) == 1}
    figures = [
        f"<p>{escape(f'{title} {name}'.strip())}, {day}: {value:,.2f}</p>" for name, (day, value) in single.items()
    ]
    if longer:
        only = next(iter(longer)) if len(longer) == 1 else ""  # leather has no legend for one line
        drawn = leather.Chart(escape(f"{title}: {only}" if only else title))
        for number, (name, values) in enumerate(longer.items()):
            moments = [(datetime(day.year, day.month, day.day), value) for day, value in values]  # noqa: DTZ001
            # leather cannot draw two days as dates, and has no colour for a sixth line.
            drawn.add_line(moments, name=escape(name) or None, stroke_color=COLORS[number % len(COLORS)])
        every = [value for values in longer.values() for _, value in values]
        drawn.add_y_scale(min(0.0, *every), max(every) or 1.0)
        figures.insert(0, f"<figure>{drawn.to_svg(width=width, height=260)}</figure>")
    return "\n".join(figures)


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table. Numbers have thousands separators."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    lines = [f"<tr>{''.join(f'<td>{escape(cell)}' for cell in row)}" for row in cells]
    return (
        f"<h2>{escape(title)}</h2><table><tr>{''.join(f'<th>{escape(cell)}' for cell in head)}{''.join(lines)}</table>"
    )
