"""The demo files are reproducible, created once, and contain what breaks loaders."""

import csv
import gzip
import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import pyarrow.parquet

from sandbox.files import files, make
from tests.support.paths import ROOT


def content(name: str) -> bytes:
    return dict(files(date(2026, 1, 1)))[name]


def test_the_same_day_gives_the_same_bytes() -> None:
    day = date(2026, 1, 2)
    assert dict(files(day)) == dict(files(day))
    assert content("deliveries/2026-01-01.csv") not in dict(files(day)).values()


def test_existing_files_are_kept_and_later_days_are_added(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sandbox.files", str(tmp_path)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(made) == 9
    dates = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert sorted(map(str, dates)) == sorted(made)
    assert make(tmp_path) == []
    assert [path.relative_to(tmp_path).as_posix() for path in make(tmp_path, days=4)] == [
        "deliveries/2026-01-04.csv",
        "clicks/2026-01-04.jsonl.gz",
        "stock/2026-01-04.parquet",
    ]
    assert {path: path.stat().st_mtime_ns for path in dates} == dates


def test_the_files_contain_what_breaks_loaders(tmp_path: Path) -> None:
    text = content("deliveries/2026-01-01.csv").decode()
    assert text.startswith("\ufeff")
    deliveries = list(csv.DictReader(text[1:].splitlines(keepends=True)))
    assert len(deliveries) == 50
    assert any(row["postcode"].startswith("0") for row in deliveries)
    assert any("\n" in row["note"] for row in deliveries)
    assert not all(row["city"].isascii() for row in deliveries)

    clicks = [json.loads(line) for line in gzip.decompress(content("clicks/2026-01-01.jsonl.gz")).splitlines()]
    assert len(clicks) == 200
    assert {"user" in click for click in clicks} == {True, False}

    path = tmp_path / "stock.parquet"
    path.write_bytes(content("stock/2026-01-01.parquet"))
    stock = pyarrow.parquet.read_table(path)
    assert stock.num_rows == 60
    assert stock.schema.field("price").type == pyarrow.decimal128(10, 2)
    assert stock["counted_by"].null_count
