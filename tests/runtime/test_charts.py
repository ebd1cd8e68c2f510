"""Pages with charts, for reports."""

from datetime import date
from pathlib import Path

import fsspec
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


def test_a_page_is_a_file_that_somebody_can_copy_out_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REPORTS_URL", raising=False)
    found = charts.publish("<h1>first</h1>", "deployment", "platform")
    charts.publish("<h1>größer</h1>", "deployment", "platform")
    file = tmp_path / "data" / "reports" / "deployment.html"

    assert file.read_text() == "<h1>größer</h1>"
    assert found["file"].value == str(file)
    assert str(found["open it"].value).endswith(f" docker compose cp platform:{file} .")


def test_a_page_goes_into_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPORTS_URL", "memory://bucket/reports")
    found = charts.publish("<h1>weekly</h1>", "weekly_summary", "analytics")

    assert {name: str(value.value) for name, value in found.items()} == {
        "file": "memory:///bucket/reports/weekly_summary.html"
    }
    assert fsspec.filesystem("memory").cat("/bucket/reports/weekly_summary.html") == b"<h1>weekly</h1>"
