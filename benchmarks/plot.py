"""Draws the page's plots from its tables. In an environment of its own: what matplotlib brings would change ours."""

import re
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy
from matplotlib import pyplot

FOLDER = Path(__file__).parent
OURS = "this deployment"


def rows(*files: str) -> list[list[str]]:
    """The cells of all table rows of what was measured, without Markdown's asterisks."""
    measured = [path for name in files if (path := FOLDER / "results" / f"{name}.md").exists()]
    text = "\n".join(path.read_text().replace("*", "") for path in measured)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def limits(name: str, *files: str) -> None:
    """Bars: of the limit, by work and contender."""
    found: dict[str, list[tuple[str, float]]] = defaultdict(list)
    header: list[str] = []
    for row in rows(*files):
        if "seconds" in row:
            header = row if "of the limit" in row and row[0] != "seconds" else []
        elif header and re.fullmatch(r"[\d.]+", ratio := row[header.index("of the limit")]):
            *what, contender = row[: header.index("seconds")]
            found[": ".join([header[0].removesuffix(", by"), *what])].append((contender, float(ratio)))
    if not found:
        return
    heights = [len(bars) for bars in found.values()]
    figure, axes = pyplot.subplots(
        len(found), sharex=True, figsize=(9, 0.5 * len(found) + 0.25 * sum(heights)), height_ratios=heights,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for axis, (work, bars) in zip(axes.flat, found.items(), strict=True):
        names, ratios = zip(*reversed(bars), strict=True)
        axis.barh(names, ratios, color=["tab:blue" if name.startswith(OURS) else "lightgrey" for name in names])
        axis.bar_label(axis.containers[0], fmt="%.2f", padding=2)
        axis.set_title(work, loc="left", fontsize="medium")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})


def fit(points: list[tuple[float, float]]) -> tuple[float, float, float]:
    """`start + each * amount ** power`, as near to the seconds as it gets: the least squares of the relative errors."""
    amounts, seconds = numpy.array(points).T

    def with_power(power: float) -> tuple[float, tuple[float, float, float]]:
        terms = numpy.column_stack([numpy.ones_like(amounts), amounts**power]) / seconds[:, None]
        (start, each), *_ = numpy.linalg.lstsq(terms, numpy.ones_like(seconds), rcond=None)
        return float(sum((terms @ [start, each] - 1) ** 2)), (float(start), float(each), power)

    return min(with_power(float(power)) for power in numpy.arange(0.3, 1.7, 0.01))[1]


def growth() -> None:
    """Points: seconds against the amount of work, both logarithmic. Lines: what is fitted to them."""
    lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for work, amount, seconds, _ in rows("growth"):
        if re.fullmatch(r"[\d,]+", amount):
            lines[work].append((float(amount.replace(",", "")), float(seconds.split()[0])))
    if not lines:
        return
    figure, axis = pyplot.subplots(figsize=(8, 5.5), layout="constrained")
    for work, points in lines.items():
        start, each, power = fit(points)
        amounts = numpy.geomspace(points[0][0], points[-1][0], 100)
        label = f"{work}: {start:.1f} s, and what grows by a power of {power:.2f}"
        style = "--" if work.endswith("limit") else "-"
        [line] = axis.loglog(amounts, start + each * amounts**power, style, label=label)
        axis.loglog(*zip(*points, strict=True), marker="o", linestyle="none", color=line.get_color())
    axis.set_xlabel("rows, or days")
    axis.set_ylabel("seconds")
    axis.grid(which="major", alpha=0.3)
    figure.legend(loc="outside lower left", frameon=False)
    figure.savefig(FOLDER / "growth.svg", metadata={"Date": None})


if __name__ == "__main__":
    matplotlib.rcParams.update({"svg.hashsalt": "benchmarks", "svg.fonttype": "none", "font.family": "sans-serif"})
    limits("limit", "databases", "databases-few", "apis", "apis-many", "streams")
    limits("shapes", "shapes")
    limits("peers", "peers", "peers-few")
    growth()
