"""The accelerated normalizer makes of items exactly what dlt's makes: rows and their order, columns, types, errors."""

import math
import os
import string
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dlt
import pytest
from dlt.normalize import worker
from dlt.normalize.items_normalizers import JsonLItemsNormalizer
from dlt.pipeline.exceptions import PipelineStepFailed
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from runtime.accelerate.normalizer import ColumnarNormalizer, Pace
from runtime.load.values.normalizer import strict_values
from tests.runtime.accelerate.comparison import Outcome, compared

# ---- any items ----

COMMON_KEYS = ["a", "b", "B", "createdAt", "created_at", "a__b", "list", "Lists", "lists", "value", "empty", "Größe"]
RARE_KEYS = ["", " ", "_", "x" * 70, "_dlt_id", "_dlt_parent_id", "_dlt_list_idx", "_dlt_root_id", "_dlt_load_id"]
KEYS = st.sampled_from(COMMON_KEYS * 6 + RARE_KEYS)
TEXTS = st.text(string.printable, max_size=5) | st.sampled_from(
    ["7", "007", "0x1f", "2.5", "1e400", "nan", "true", "no", "null", "[1]", '{"a": 1}', "aGk=", "\ue000", "\uf026x"]
)
TIMES = st.sampled_from(
    [
        "2026-01-31T12:00:00Z",
        "2026-01-31T12:00:00.5+02:00",
        "2026-01-31T12:00:00",
        "2026-01-31T24:00:00Z",
        "2026-01-31T12:00:00Z1",
        "2026-13-01T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "2026-01-31",
        "12:00:00",
    ]
)
INTEGERS = st.integers(-3, 3) | st.sampled_from(
    [2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 1_700_000_000]
)
FLOATS = st.sampled_from([0.0, -0.0, 1.0, 2.5, 1e300, 1e17, math.nan, math.inf, -math.inf])
SCALARS = st.one_of(st.none(), st.booleans(), INTEGERS, FLOATS, TEXTS, TIMES)
# What JSON has no type for. dlt marks it in what it extracts, or cannot extract it.
NOT_JSON = st.sampled_from(
    [
        2**64,
        10**25,
        Decimal("1.25"),
        Decimal("NaN"),
        b"\x00\xff",
        date(2026, 1, 31),
        time(12, 30),
        datetime(2026, 1, 31, 12),  # noqa: DTZ001
        datetime(2026, 1, 31, 12, tzinfo=UTC),
        datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=2))),
    ]
)


def objects(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    values = st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
    )
    return st.dictionaries(KEYS, values, min_size=1, max_size=6)


def varied(value: Any, variant: int) -> Any:
    """A value of the same shape, mostly: other numbers and texts, or nulls, or keys in another order."""
    match value:
        case dict():
            keys = reversed(value) if variant == 1 else value
            return {key: None if variant == 2 and key == "b" else varied(value[key], variant) for key in keys}
        case list():
            return [varied(one, variant) for one in value] * (2 if variant == 1 else 1)
        case bool() | None | float():
            return value
        case int():
            return value + variant if abs(value) < 2**31 else value
        case str() if variant == 3 and len(value) < 6:
            return value + "x"
    return value


@st.composite
def loads(draw: st.DrawFn) -> list[list[Any]]:
    """Loads into one dataset: items of a few shapes, mixed."""
    scalars = SCALARS | NOT_JSON if draw(st.integers(0, 5)) == 5 else SCALARS
    items = objects(scalars) | scalars if draw(st.integers(0, 3)) == 3 else objects(scalars)
    shapes = draw(st.lists(items, min_size=1, max_size=4))
    item = st.tuples(st.sampled_from(shapes), st.integers(0, 3)).map(lambda drawn: varied(*drawn))
    load = st.lists(item, min_size=10, max_size=40) | st.lists(item, max_size=3)
    return draw(st.lists(load, min_size=1, max_size=3))


# ---- any settings ----

DATA_TYPES = st.sampled_from(
    ["json", "text", "bigint", "double", "bool", "timestamp", "date", "decimal", "binary", "wei"]
)
COLUMN: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {},
    optional={
        "data_type": DATA_TYPES,
        "nullable": st.just(False),
        "timezone": st.just(False),
        "precision": st.just(3),
        "primary_key": st.just(True),
        "unique": st.just(True),
    },
)
COLUMNS = st.dictionaries(st.sampled_from(["a", "b", "created_at", "a__b", "list", "value"]), COLUMN, max_size=2)
MODES = st.sampled_from(["evolve", "freeze", "discard_row", "discard_value"])
CONTRACT = st.fixed_dictionaries({}, optional={"tables": MODES, "columns": MODES, "data_type": MODES})
DISPOSITIONS: st.SearchStrategy[Any] = st.sampled_from(
    [
        *("append", "append", "replace", "merge"),
        {"disposition": "merge", "strategy": "upsert"},
        {"disposition": "merge", "strategy": "scd2"},
    ]
)
HINTS: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {"write_disposition": DISPOSITIONS},
    optional={
        "primary_key": st.sampled_from(["number", "a"]),
        "columns": COLUMNS,
        "nested_hints": st.fixed_dictionaries(
            {}, optional={"list": COLUMNS.map(lambda columns: dlt.mark.make_nested_hints(columns=columns))}
        ),
        "max_table_nesting": st.sampled_from([0, 1, 2]),
        "schema_contract": CONTRACT,
    },
)


@dataclass(frozen=True)
class Settings:
    """Of dlt, and how many items the accelerated normalizer takes first."""

    file_format: str
    normalize_buffer: int
    extract_buffer: int
    file_max_items: int | None
    naming: str
    supports_zones: bool
    slice: int
    page: int
    strict: bool  # as in a load, or as dlt does it


SETTINGS = st.builds(
    Settings,
    file_format=st.sampled_from(["parquet", "parquet", "jsonl", "insert_values"]),
    normalize_buffer=st.sampled_from([1, 3, 5000]),
    extract_buffer=st.sampled_from([4, 5000, 5000]),
    file_max_items=st.sampled_from([None, None, 5]),
    naming=st.sampled_from(["snake_case", "snake_case", "sql_cs_v1", "direct"]),
    supports_zones=st.sampled_from([True, True, True, False]),
    slice=st.sampled_from([1, 3, 25]),
    page=st.sampled_from([1, 7, 100]),
    strict=st.booleans(),
)

STRESS = os.environ.get("HYPOTHESIS_PROFILE") == "stress"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # dlt leaves files open when it fails
@pytest.mark.timeout(0 if STRESS else 600)
@settings(
    max_examples=5_000 if STRESS else 60,
    deadline=None,
    database=None,
    print_blob=True,
    phases=[Phase.generate, Phase.shrink] if STRESS else [Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(loads(), HINTS, SETTINGS)
def test_any_items_become_what_dlt_makes_of_them(
    loads: list[list[Any]], hints: dict[str, Any], setting: Settings
) -> None:
    for ours, theirs in outcomes(loads, setting, **hints):
        assert ours == theirs


def outcomes(loads: list[list[Any]], setting: Settings, **hints: Any) -> list[tuple[Outcome, Outcome]]:
    """What becomes of loads in a row, by us and by dlt."""

    class SlowStart(ColumnarNormalizer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._pace = Pace(slice=setting.slice)

    environment = {
        "NORMALIZE__DATA_WRITER__BUFFER_MAX_ITEMS": str(setting.normalize_buffer),
        "SOURCES__DATA_WRITER__BUFFER_MAX_ITEMS": str(setting.extract_buffer),
        "DATA_WRITER__DISABLE_COMPRESSION": "true",
        "SCHEMA__NAMING": setting.naming,
    }
    if setting.file_max_items:
        environment["NORMALIZE__DATA_WRITER__FILE_MAX_ITEMS"] = str(setting.file_max_items)
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch, compared(SlowStart) as found:
        for name, value in environment.items():
            patch.setenv(name, value)
        destination = dlt.destinations.duckdb(
            f"{folder}/x.duckdb",
            preferred_loader_file_format=setting.file_format,
            supports_tz_aware_datetime=setting.supports_zones,
        )
        pipeline = dlt.pipeline("things", pipelines_dir=folder, destination=destination)
        for items in loads:
            pages = [items[n : n + setting.page] for n in range(0, len(items), setting.page)]
            try:
                pipeline.extract(dlt.resource(pages, name="things", **hints))
                with strict_values(pipeline) if setting.strict else nullcontext():
                    pipeline.normalize()
            except PipelineStepFailed:  # of normalizing, it is in the outcomes
                pipeline.abort_packages()
        return found


# ---- chosen items ----

DEFAULT = Settings("parquet", 5000, 5000, None, "snake_case", True, slice=25, page=100, strict=True)
ALIKE = [
    {
        "number": n,
        "title": f"thing {n}",
        "at": f"2026-01-{n % 28 + 1:02}T00:00:{n:02}Z",
        "by": {"login": "x", "seen": None},
        "parts": [{"n": part, "marks": ["a", None]} for part in range(n % 3)],
    }
    for n in range(50)
]


def assert_equal_outcomes(items: list[Any], setting: Settings = DEFAULT, **hints: Any) -> None:
    for ours, theirs in outcomes([items], setting, **hints):
        assert ours == theirs


def test_dlt_takes_only_the_items_that_bring_something_new(monkeypatch: pytest.MonkeyPatch) -> None:
    by_dlt: list[int] = []
    normalize_chunk = JsonLItemsNormalizer._normalize_chunk

    def recorded(self: Any, table: str, items: list[Any], *args: Any, **kwargs: Any) -> Any:
        if isinstance(self, ColumnarNormalizer):
            by_dlt.extend(item["number"] for item in items if "number" in item)
        return normalize_chunk(self, table, items, *args, **kwargs)

    monkeypatch.setattr(JsonLItemsNormalizer, "_normalize_chunk", recorded)
    assert_equal_outcomes(ALIKE * 20, primary_key="number", write_disposition="merge")

    # The first item of all, and the first with parts after it. Each time dlt takes four times as many.
    assert by_dlt == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("value", "changed"),
    [
        (5, "five"),  # another type: a column of its own
        ("2026-01-31T12:00:00Z", "soon"),
        ("2026-01-31T12:00:00Z", 1_700_000_000),
        (5, 2.5),
        (2.5, 7),
        ("text", {"now": "an object"}),
        ({"was": 1}, [1, 2]),
        ([1], [[2], [3]]),
        (None, 3),
        (3, None),
        ("x", datetime(2026, 1, 31, tzinfo=UTC)),
        (1, Decimal("1.25")),
    ],
)
def test_a_value_of_another_type_becomes_what_dlt_makes_of_it(value: Any, changed: Any) -> None:
    assert_equal_outcomes([{"v": value}, {"v": value}, {"v": changed}, {"v": value}, {"v": changed}, {"w": value}])


def test_values_among_the_items_keep_their_place() -> None:
    assert_equal_outcomes([{"value": "text"}, {"value": "text"}, 7, {"value": 8}, "nine", [10], {"value": None}])


@pytest.mark.parametrize(
    "items",
    [
        [{"orderId": 1, "order_id": 2}, {"order_id": 3, "orderId": 4}] * 3,
        [{"Lists": [{"a": 1}], "lists": [{"a": 2}, {"a": 3}]}, {"lists": [], "Lists": [{"a": 4}]}] * 3,
        [{"a": {"b": []}}, {"a__b": [1]}, {"a": {"b": [2]}}, {"a__b": []}],
    ],
    ids=["columns", "lists", "a path and a key"],
)
def test_two_keys_with_one_name_have_the_same_fate(items: list[Any]) -> None:
    assert_equal_outcomes(items)


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
    assert_equal_outcomes([*ALIKE, {"number": 51, "title": "odd", "new": 1, "more": [{"m": 1}]}, *ALIKE], **hints)


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
