"""Pages with charts, for reports."""

from datetime import date

import pytest

from runtime import charts


@pytest.mark.parametrize("lines", [1, 12])
@pytest.mark.parametrize("days", [2, 40])
def test_any_number_of_lines_is_drawn(lines: int, days: int) -> None:
    values = [(date.fromordinal(739_000 + day), float(day)) for day in range(days)]
    drawn = charts.line_chart("Rows", {f"source {number}": values for number in range(lines)})

    assert drawn.count("<svg") == 1
    assert all(f"source {number}" in drawn for number in range(lines))


def test_a_single_day_is_a_sentence_and_names_are_escaped() -> None:
    assert (
        charts.line_chart("Rows", {"<b>": [(date(2026, 1, 2), 1234.5)]})
        == "<p>Rows &lt;b&gt;, 2026-01-02: 1,234.50</p>"
    )
    assert "<td>1,234<td>&lt;b&gt;" in charts.table("Rows", ["rows", "source"], [[1234, "<b>"]])


def test_a_page_needs_nothing_else() -> None:
    page = charts.page("R & D", [charts.line_chart("Rows", {"": [(date(2026, 1, 1), 1.0), (date(2026, 1, 2), 2.0)]})])

    assert "<title>R &amp; D</title>" in page
    assert "src=" not in page
    assert "href=" not in page
