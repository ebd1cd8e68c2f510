"""The demo files: deliveries (CSV), clicks (JSONL) and stock (Parquet), one file of each per day.

The same day gives the same rows. Existing files are kept, so creating the files again changes nothing.
"""

import csv
import gzip
import io
import json
import random
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

FIRST_DAY = date(2026, 1, 1)
DAYS = 3
CITIES = ["Köln", "Łódź", "São Paulo", "東京", "Reykjavík", "O'Fallon", "Winston-Salem"]
NOTES = ["", "ring twice", 'leave with "Ana"', "first floor,\nleft door", "🚚 heavy", "c/o Müller, 2nd yard"]
PAGES = ["/", "/pricing", "/docs/überblick", "/blog/2026"]


def make(folder: Path, days: int = DAYS) -> list[Path]:
    """Create the files of so many days in `folder`; returns the new ones."""
    made = []
    for day in (FIRST_DAY + timedelta(days=number) for number in range(days)):
        for name, content in files(day):
            path = folder / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                unfinished = path.with_name(f".{path.name}")  # so that no reader sees an incomplete file
                unfinished.write_bytes(content)
                unfinished.rename(path)
                made.append(path)
    return made


def files(day: date) -> Iterator[tuple[str, bytes]]:
    """The names and contents of a day's files."""
    makers: dict[str, Callable[[random.Random, date], bytes]] = {
        "deliveries/{}.csv": _deliveries,
        "clicks/{}.jsonl.gz": _clicks,
        "stock/{}.parquet": _stock,
    }
    for name, maker in makers.items():
        yield name.format(day), maker(random.Random(f"{name} {day}"), day)  # noqa: S311


def _deliveries(chance: random.Random, day: date) -> bytes:
    """50 deliveries. Postcodes have leading zeros; notes are empty or contain commas, quotes and line breaks."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(["id", "postcode", "city", "note", "delivered_at"])
    for number in range(1, 51):
        at = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(seconds=chance.randrange(86_400))
        postcode = f"{chance.randrange(10_000):05}"
        city, note = chance.choice(CITIES), chance.choice(NOTES)
        writer.writerow([f"{day:%y%m%d}-{number:03}", postcode, city, note, at.isoformat()])
    return "\ufeff".encode() + text.getvalue().encode()


def _clicks(chance: random.Random, day: date) -> bytes:
    """200 clicks. Anonymous ones have no user; tags are a list that is often empty."""
    lines = []
    for number in range(1, 201):
        at = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(seconds=chance.randrange(86_400))
        click: dict[str, Any] = {
            "id": f"{day:%y%m%d}-{number:04}",
            "page": chance.choice(PAGES),
            "at": at.isoformat(),
            "milliseconds": chance.randrange(20, 4_000),
            "tags": chance.sample(["spring", "büro", "sale"], chance.randrange(3)),
        }
        if chance.random() < 0.6:
            click["user"] = {"id": chance.randrange(1, 40), "country": chance.choice(["DE", "PL", "BR", "JP"])}
        lines.append(json.dumps(click, ensure_ascii=False))
    return gzip.compress("\n".join([*lines, ""]).encode(), mtime=0)


def _stock(chance: random.Random, day: date) -> bytes:
    """30 articles in two warehouses, with exact prices."""
    counted = datetime(day.year, day.month, day.day, 22, tzinfo=UTC)
    rows = [
        {
            "article": f"A-{number:03}",
            "warehouse": warehouse,
            "quantity": chance.randrange(500),
            "price": Decimal(chance.randrange(100, 100_000)).scaleb(-2),
            "counted_at": counted,
            "counted_by": chance.choice(["Zoë", "Jürgen", None]),
        }
        for number in range(1, 31)
        for warehouse in ("north", "south")
    ]
    schema = pa.schema(
        {
            "article": pa.string(),
            "warehouse": pa.string(),
            "quantity": pa.int64(),
            "price": pa.decimal128(10, 2),
            "counted_at": pa.timestamp("us", "UTC"),
            "counted_by": pa.string(),
        }
    )
    file = io.BytesIO()
    pa.parquet.write_table(pa.Table.from_pylist(rows, schema), file)
    return file.getvalue()
