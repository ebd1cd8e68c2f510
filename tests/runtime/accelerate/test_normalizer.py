"""What the normalizer makes of items is what dlt's own makes of them: same rows, same columns, same types."""

import string
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dlt
import pyarrow.parquet as pq
import pytest
from dlt.normalize import worker
from dlt.normalize.items_normalizers import JsonLItemsNormalizer
from dlt.pipeline.exceptions import PipelineStepFailed
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from runtime.accelerate.normalizer import ColumnarNormalizer

Tables = dict[str, Any]

KEYS = st.sampled_from(["a", "b", "B", "createdAt", "a__b", " ", "value", "list", "_dlt_id", "Größe", "x" * 70])
TIMES = st.sampled_from(["2026-01-31T12:00:00Z", "2026-01-31T12:00:00.5+02:00", "2026-13-01T00:00:00Z", "2026-01-31"])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(string.printable, max_size=5),
    TIMES,
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)
SOME = st.dictionaries(KEYS, VALUES, max_size=4)
ITEMS = st.lists(SOME | st.sampled_from([{"a": 1, "list": [{"b": "x"}]}, {"a": "1"}]), min_size=1, max_size=20)


def normalized(items: list[Any], normalizer: type, page: int = 100, **hints: Any) -> Tables:
    """The rows and columns of all tables. Ids of items, random ones, are the numbers of the items instead."""

    @dlt.resource(name="things", columns=hints.pop("columns", None), **hints)
    def things() -> Iterator[Any]:
        for number in range(0, len(items), page):
            yield [{"number": n, **item} for n, item in enumerate(items[number : number + page], number)]

    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "JsonLItemsNormalizer", normalizer)
        destination = dlt.destinations.duckdb(f"{folder}/x.duckdb", preferred_loader_file_format="parquet")
        pipeline = dlt.pipeline("things", pipelines_dir=folder, destination=destination)
        pipeline.extract(things())
        pipeline.normalize()
        schema, [package] = pipeline.default_schema, pipeline.list_normalized_load_packages()
        jobs = pipeline.get_load_package_info(package).jobs["new_jobs"]
        found: dict[str, list[dict[str, Any]]] = {}
        for job in jobs:
            found.setdefault(job.job_file_info.table_name, []).extend(pq.read_table(job.file_path).to_pylist())
        columns = {
            name: {column: {**hint} for column, hint in table["columns"].items()}
            for name, table in schema.tables.items()
        }
        load = package
    numbers = {row["_dlt_id"]: row.get("number") for row in found.get("things", [])}
    assert None not in numbers
    rows = {name: Counter(_plain(row, numbers, found, load) for row in rows) for name, rows in found.items()}
    rows.pop("_dlt_pipeline_state", None)
    return {"rows": rows, "columns": columns}


def _plain(row: dict[str, Any], numbers: Any, found: Any, load: str) -> str:
    """A row, named by where it is instead of by random ids."""
    parents = {one["_dlt_id"]: one for rows in found.values() for one in rows}
    place: list[Any] = []
    at: Any = row
    while parent := at.get("_dlt_parent_id"):
        place.append(at["_dlt_list_idx"])
        at = parents[parent]
    place.append(numbers.get(at["_dlt_id"]))
    root = numbers.get(row.get("_dlt_root_id"))
    ids = ("_dlt_id", "_dlt_parent_id", "_dlt_root_id")
    fields = sorted((name, str(value)) for name, value in row.items() if name not in ids and value is not None)
    return f"{place} {root} {fields}".replace(load, "LOAD")


def _without_ids(value: Any, is_row: bool = False) -> Any:
    """Rows bring no id of their own along: dlt takes it as it is, and fails for want of its parent's or on its type."""
    if isinstance(value, list):
        return [_without_ids(one, is_row=True) for one in value]
    if isinstance(value, dict):
        return {key: _without_ids(one) for key, one in value.items() if not is_row or key != "_dlt_id"}
    return value


@pytest.mark.timeout(300)  # each example is two pipelines
@settings(max_examples=80, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])
@given(ITEMS, st.sampled_from(["append", "merge"]), st.sampled_from([None, 1]), st.sampled_from([4, 100]))
def test_any_items_become_what_dlt_makes_of_them(
    items: list[Any], disposition: str, nesting: int | None, page: int
) -> None:
    items = _without_ids(items)
    hints = {"write_disposition": disposition, "primary_key": "number", "max_table_nesting": nesting}
    outcomes: list[Any] = []
    for normalizer in (ColumnarNormalizer, JsonLItemsNormalizer):
        try:
            outcomes.append(normalized(items, normalizer, page, **hints))
        except PipelineStepFailed as error:  # there are names that dlt cannot do with
            outcomes.append(str(error.exception).split("message: ")[-1])
    assert outcomes[0] == outcomes[1]


ALIKE = [
    {
        "title": f"thing {n}",
        "at": f"2026-01-{n % 28 + 1:02}T00:00:{n:02}Z",
        "by": {"login": "x", "seen": None},
        "parts": [{"n": part, "marks": ["a", None]} for part in range(n % 3)],
    }
    for n in range(50)
]


def test_items_that_are_alike_do_not_take_dlt(monkeypatch: pytest.MonkeyPatch) -> None:
    unusual: list[int] = []
    by_dlt = JsonLItemsNormalizer._normalize_chunk

    def counted(self: Any, table: str, items: list[Any], *args: Any, **kwargs: Any) -> Any:
        unusual.extend(item["number"] for item in items if "number" in item)
        return by_dlt(self, table, items, *args, **kwargs)

    monkeypatch.setattr(JsonLItemsNormalizer, "_normalize_chunk", counted)
    found = normalized(ALIKE, ColumnarNormalizer, write_disposition="merge", primary_key="number")

    assert unusual == [0, 1, 2]  # the first of all, and two of the first with parts
    assert found == normalized(ALIKE, JsonLItemsNormalizer, write_disposition="merge", primary_key="number")


@pytest.mark.parametrize(
    ("value", "changed"),
    [
        (5, "five"),  # another type: a column of its own
        ("2026-01-31T12:00:00Z", "soon"),
        ("2026-01-31T12:00:00Z", 1_700_000_000),
        (5, 2.5),
        (2.5, 7),
        ("text", {"now": "a dict"}),
        ({"was": 1}, [1, 2]),
        ([1], [[2], [3]]),
        (None, 3),
        (3, None),
        ("x", datetime(2026, 1, 31, tzinfo=UTC)),
        (1, Decimal("1.25")),
    ],
)
def test_a_value_of_another_kind_becomes_what_dlt_makes_of_it(value: Any, changed: Any) -> None:
    items = [{"v": value}, {"v": value}, {"v": changed}, {"v": value}, {"v": changed}, {"w": value}]
    assert normalized(items, ColumnarNormalizer) == normalized(items, JsonLItemsNormalizer)


@pytest.mark.parametrize(
    "hints",
    [
        {"schema_contract": {"columns": "discard_row"}},
        {"schema_contract": {"columns": "discard_value"}},
        {"schema_contract": {"tables": "discard_row"}},
        {"columns": {"at": {"data_type": "timestamp", "timezone": False}}},
        {"columns": {"by": {"data_type": "json"}, "parts": {"data_type": "json"}}},
        {"columns": {"at": {"data_type": "text"}}},
        {"write_disposition": {"disposition": "merge", "strategy": "upsert"}, "primary_key": "number"},
        {"write_disposition": {"disposition": "merge", "strategy": "scd2"}},
    ],
    ids=str,
)
def test_hints_hold(hints: dict[str, Any]) -> None:
    items = [*ALIKE, {"title": "odd", "new": 1, "more": [{"m": 1}]}, *ALIKE]
    assert normalized(items, ColumnarNormalizer, **hints) == normalized(items, JsonLItemsNormalizer, **hints)


@pytest.mark.parametrize("file_format", ["parquet", "jsonl", "insert_values"])
def test_files_of_any_format_hold_the_rows(file_format: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "JsonLItemsNormalizer", ColumnarNormalizer)
    destination = dlt.destinations.duckdb(str(tmp_path / "x.duckdb"), preferred_loader_file_format=file_format)
    pipeline = dlt.pipeline("things", pipelines_dir=str(tmp_path), destination=destination, dataset_name="raw")
    pipeline.run(ALIKE, table_name="things", columns={"by": {"data_type": "json"}})

    with pipeline.sql_client() as client:
        things = client.execute_sql('SELECT title, "at", "by" FROM things ORDER BY "at" LIMIT 2')
        marks = client.execute_sql("SELECT count(*), count(value), min(value) FROM things__parts__marks")
    by = '{"login":"x","seen":null}'
    assert things == [
        ("thing 0", datetime(2026, 1, 1, 0, 0, 0, tzinfo=UTC), by),
        ("thing 28", datetime(2026, 1, 1, 0, 0, 28, tzinfo=UTC), by),
    ]
    assert marks == [(98, 49, "a")]
