"""Values arrive as they are: in their column, in one beside it, or the run fails before anything changes."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import dagster as dg
import dlt
import pyarrow as pa
import pytest
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType

from runtime.load.resource import IsolatedDltResource
from runtime.load.translator import SourceTranslator
from runtime.load.values.normalizer import CAN_BE_UNDONE, coerce
from runtime.load.warehouse import warehouse_pipeline
from tests.support.warehouse import Warehouse


def load(items: Any, refresh: Any = None, **hints: Any) -> str:
    """Loads the table `orders`. Returns the failure's sentence, or an empty text."""

    @dlt.source(name="shop", section="shop")
    def shop() -> Any:
        def orders() -> Iterator[Any]:
            yield from items if isinstance(items[0], pa.Table) else [items]

        return dlt.resource(orders, name="orders", **({"write_disposition": "merge", "primary_key": "id"} | hints))

    @dlt_assets(
        dlt_source=shop(),
        dlt_pipeline=warehouse_pipeline("shop", "raw_shop"),
        dagster_dlt_translator=SourceTranslator(source="shop"),
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        yield from dlt.run(context=context, refresh=refresh)

    result = dg.materialize([assets], resources={"dlt": IsolatedDltResource()}, raise_on_error=False)
    failures = [event.step_failure_data for event in result.get_step_failure_events()]
    return " ".join(str(one.user_failure_data.description if one.user_failure_data else one.error) for one in failures)


def rows(warehouse: Warehouse, columns: str, table: str = "orders") -> list[tuple[Any, ...]]:
    return warehouse.rows(f"SELECT {columns} FROM raw_shop.{table} ORDER BY 1")


def is_untouched(warehouse: Warehouse) -> bool:
    return "raw_shop" not in warehouse.datasets()


@pytest.mark.parametrize(
    ("first", "then", "variant"),
    [
        (7, "007", "text"),
        (True, "no", "text"),
        (True, 2, "bigint"),
        (0.5, 2**53 + 1, "bigint"),
        (0.5, "0.50", "text"),
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00.123456789Z", "text"),
    ],
)
def test_a_value_that_its_column_would_change_is_kept_beside_it(
    warehouse: Warehouse, first: Any, then: Any, variant: str
) -> None:
    assert not load([{"id": 1, "amount": first}, {"id": 2, "amount": then}])
    assert rows(warehouse, f"id, amount IS NULL, amount__v_{variant}") == [(1, False, None), (2, True, then)]


@pytest.mark.parametrize(
    ("to_type", "from_type", "kept", "changed"),
    [
        ("bigint", "text", "-7", "+7"),
        ("bigint", "text", "7", str(2**63)),
        ("bigint", "double", 7.0, 2.0**63),
        ("double", "text", "2.5", "2.50"),
        ("double", "text", "3", "nan"),
        ("double", "decimal", Decimal("0.1"), Decimal("0.1000000000000000000001")),
        ("decimal", "text", "7.50", "07.5"),
        ("decimal", "text", "7.5", "0.1234567891"),
        ("decimal", "double", 0.5, 1e-12),
        ("bool", "text", "true", "yes"),
        ("bool", "double", 1.0, 0.5),
        ("timestamp", "text", "2026-01-31T12:00:00.1234560Z", "2026"),
        ("timestamp", "double", 1_700_000_000.5, 1e-9),
        ("date", "text", "2026-01-31", "2026-01-31T10:30:00Z"),
        ("date", "bigint", 86_400, 86_401),
        ("time", "text", "12:30:00", "12:30:00+02:00"),
        ("binary", "text", "aGk=", "aGl="),
    ],
)
def test_only_a_coercion_that_can_be_undone_is_made(to_type: Any, from_type: Any, kept: Any, changed: Any) -> None:
    assert (to_type, from_type) in CAN_BE_UNDONE
    coerce(to_type, from_type, kept)
    with pytest.raises(ValueError):  # noqa: PT011  # what dlt catches to make a column of another type
        coerce(to_type, from_type, changed)


DAY, MOMENT = date(2026, 1, 1), datetime(2026, 1, 1, 10, 30, 0, 123456, UTC)
SECOND = datetime(2026, 1, 1, tzinfo=UTC)
ARROW_CHANGES: list[tuple[str, list[Any], list[Any]]] = [
    ("int to decimal", [pa.array([1]), pa.array([Decimal("1.50")], pa.decimal128(10, 2))], [1, Decimal("1.5")]),
    (
        "more decimal places",
        [pa.array([Decimal("1.50")], pa.decimal128(10, 2)), pa.array([Decimal("1.2345")], pa.decimal128(12, 4))],
        [Decimal("1.5"), Decimal("1.2345")],
    ),
    (
        "twelve decimal places",
        [
            pa.array([Decimal("1.5")], pa.decimal128(38, 9)),
            pa.array([Decimal("0.123456789012")], pa.decimal128(38, 12)),
        ],
        [Decimal("1.5"), Decimal("0.123456789012")],
    ),
    (
        "fewer decimal places, and then more again",
        [
            pa.array([Decimal("1.2345")], pa.decimal128(12, 4)),
            pa.array([Decimal("12345678.50")], pa.decimal128(10, 2)),
            pa.array([Decimal("0.0001")], pa.decimal128(12, 4)),
        ],
        [Decimal("1.2345"), Decimal("12345678.5"), Decimal("0.0001")],
    ),
    ("date to time", [pa.array([DAY]), pa.array([MOMENT], pa.timestamp("us", "UTC"))], [SECOND, MOMENT]),
    (
        "seconds to microseconds",
        [pa.array([SECOND], pa.timestamp("s", "UTC")), pa.array([MOMENT], pa.timestamp("us", "UTC"))],
        [SECOND, MOMENT],
    ),
    (
        "nanoseconds that are none",
        [pa.array([SECOND], pa.timestamp("us", "UTC")), pa.array([MOMENT], pa.timestamp("ns", "UTC"))],
        [SECOND, MOMENT],
    ),
    ("32 to 64 bits", [pa.array([1], pa.int32()), pa.array([2**40])], [1, 2**40]),
    ("32 bits without a sign", [pa.array([2**32 - 1], pa.uint32())], [2**32 - 1]),
    ("64 bits without a sign", [pa.array([1]), pa.array([2**64 - 1], pa.uint64())], [1, 2**64 - 1]),
    ("whole numbers with a null, from pandas", [pa.array([1]), pa.array([2.0])], [1, 2]),
    ("an empty table", [pa.array([1]), pa.array([], pa.decimal128(10, 2))], [1]),
]


@pytest.mark.parametrize(("arrays", "expected"), [pytest.param(*change[1:], id=change[0]) for change in ARROW_CHANGES])
def test_a_column_is_widened_for_what_arrow_tables_bring(
    warehouse: Warehouse, arrays: list[Any], expected: list[Any]
) -> None:
    for number, array in enumerate(arrays):
        assert not load([pa.table({"id": [number] * len(array), "amount": array})])
    assert [amount for _, amount in rows(warehouse, "id, amount")] == expected


@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param(pa.array([True]), pa.array([2]), id="bool to int"),
        pytest.param(pa.array([1]), pa.array(["007"]), id="int to text"),
        pytest.param(pa.array([1]), pa.array([0.5]), id="int to double"),
        pytest.param(pa.array([0.5]), pa.array([2**53 + 1]), id="double to int"),
        pytest.param(pa.array([0.5]), pa.array([Decimal("0.1")]), id="double to decimal"),
    ],
)
def test_what_no_column_holds_together_is_refused_by_name(warehouse: Warehouse, first: Any, then: Any) -> None:
    assert not load([pa.table({"id": [1], "amount": first})])
    before = rows(warehouse, "id, amount")
    failure = load([pa.table({"id": [1], "amount": then})])
    assert failure.startswith("orders, column amount: the source sends ")
    assert failure.endswith("Nothing was loaded.")
    assert rows(warehouse, "id, amount") == before


def test_a_time_where_a_date_is_declared_is_refused_by_name(warehouse: Warehouse) -> None:
    at_noon = pa.table({"id": [1], "day": pa.array([MOMENT], pa.timestamp("us", "UTC"))})
    assert load([at_noon], columns={"day": {"data_type": "date"}}).startswith("orders, column day: the source sends")
    assert is_untouched(warehouse)


def test_nanoseconds_are_refused_by_name(warehouse: Warehouse) -> None:
    failure = load([pa.table({"id": [1], "at": pa.array([1767225600123456789], pa.timestamp("ns", "UTC"))})])
    assert failure.startswith("orders, column at: ")
    assert is_untouched(warehouse)


def test_a_hint_that_changes_a_column_widens_it_or_is_refused(warehouse: Warehouse) -> None:
    assert not load([{"id": 1, "amount": 7, "code": 7}])
    assert not load(
        [{"id": 2, "amount": 7.5}], columns={"amount": {"data_type": "decimal", "precision": 10, "scale": 2}}
    )
    assert rows(warehouse, "id, amount") == [(1, 7), (2, Decimal("7.5"))]
    assert load([{"id": 3, "code": "007"}], columns={"code": {"data_type": "text"}}).startswith("orders, column code")
    assert rows(warehouse, "id, code") == [(1, 7), (2, None)]


@pytest.mark.parametrize("digits", [2**63, 2**64, 1234567890123456789012345])
def test_a_whole_number_beyond_64_bits_is_kept_exactly(warehouse: Warehouse, digits: int) -> None:
    assert not load([{"id": 1, "amount": 5, "more": {"n": digits}}, {"id": 2, "amount": digits}])
    assert rows(warehouse, "id, amount, amount__v_decimal, more__n") == [(1, 5, None, digits), (2, None, digits, None)]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (10**38, f"the number {10**38}"),
        (Decimal(f"0.{'1' * 39}"), f"the number 0.{'1' * 39}"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (Decimal("NaN"), "the decimal NaN"),
    ],
)
def test_a_number_that_no_column_holds_is_refused_by_name(warehouse: Warehouse, value: Any, found: str) -> None:
    for item, place in (
        ({"more": {"amount": value}}, "orders, column more__amount"),
        ({"lines": [{"amount": value}]}, "orders__lines, column amount"),
        ({"lines": [value]}, "orders__lines, column value"),
    ):
        failure = load([{"id": 1, **item}])
        assert failure.startswith(f"{place}: found {found}")
        assert failure.endswith("Nothing was loaded.")
    assert is_untouched(warehouse)


def test_a_decimal_column_gets_the_places_that_its_values_have(warehouse: Warehouse) -> None:
    amounts = [Decimal("1.5"), Decimal("0.123456789012"), Decimal(10**25), Decimal("0.1234567890123")]
    assert not load([{"id": 1, "amount": amounts[0]}])
    assert not load([{"id": 2, "amount": amounts[1]}, {"id": 3, "amount": amounts[2]}])
    scale_13 = {"amount": {"data_type": "decimal", "precision": 38, "scale": 13}}
    if failure := load([{"id": 4, "amount": amounts[3]}], columns=scale_13):  # 26 + 13 digits are more than 38
        assert "amount" in failure
        amounts.pop()
    assert [amount for _, amount in rows(warehouse, "id, amount")] == amounts


@pytest.mark.parametrize("value", ["1.239", 1.239], ids=["text", "float"])
def test_what_becomes_a_decimal_keeps_its_places(warehouse: Warehouse, value: Any) -> None:
    cents = {"amount": {"data_type": "decimal", "precision": 10, "scale": 2}}
    assert load([{"id": 1, "amount": value}], columns=cents).startswith("orders, column amount: found the number 1.239")
    assert is_untouched(warehouse)
    assert not load([{"id": 1, "amount": "1.25"}, {"id": 2, "amount": 0.5}], columns=cents)
    assert not load([{"id": 3, "amount": value}])  # no longer declared, so the column is widened
    assert rows(warehouse, "amount") == [(Decimal("0.5"),), (Decimal("1.239"),), (Decimal("1.25"),)]


MOMENT = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.mark.parametrize("value", [MOMENT, MOMENT.isoformat(), MOMENT.timestamp()], ids=["datetime", "text", "float"])
def test_a_time_keeps_its_places(warehouse: Warehouse, value: Any) -> None:
    milliseconds = {"moment": {"data_type": "timestamp", "precision": 3}}
    assert load([{"id": 1, "moment": value}], columns=milliseconds).startswith("orders, column moment: found ")
    assert is_untouched(warehouse)
    exact = MOMENT.replace(microsecond=123000)
    assert not load([{"id": 1, "moment": exact}, {"id": 2, "moment": exact.isoformat()}], columns=milliseconds)
    assert [moment.astimezone(UTC) for _, moment in rows(warehouse, "id, moment")] == [exact, exact]


def test_a_declared_scale_is_not_exceeded(warehouse: Warehouse) -> None:
    cents = {"amount": {"data_type": "decimal", "precision": 10, "scale": 2}}
    assert load([{"id": 1, "amount": Decimal("1.234")}], columns=cents).startswith("orders, column amount: found the")
    assert is_untouched(warehouse)


def test_the_table_that_an_item_goes_to_is_the_one_that_counts(warehouse: Warehouse) -> None:
    failure = load([{"id": 1, "kind": "refunds", "amount": float("nan")}], table_name=lambda item: item["kind"])
    assert failure.startswith("refunds, column amount")
    assert is_untouched(warehouse)


def test_a_nul_is_kept_or_refused_by_name(warehouse: Warehouse) -> None:
    failure = load([{"id": 1, "note": "a\0b"}])
    if warehouse.name == "postgres":
        assert failure.startswith("orders, column note: found a text with a NUL character")
        assert is_untouched(warehouse)
    else:
        assert not failure
        assert rows(warehouse, "note") == [("a\0b",)]


def test_bytes_stay_bytes_if_there_are_none(warehouse: Warehouse) -> None:
    assert not load([{"id": 1, "content": b"", "more": {"content": b""}}, {"id": 2, "content": b"x"}])
    assert [bytes(content) for _, content in rows(warehouse, "id, content")] == [b"", b"x"]
    assert bytes(rows(warehouse, "more__content")[0][0]) == b""


def test_a_time_does_not_lose_its_offset(warehouse: Warehouse) -> None:
    failure = load([{"id": 1, "moment": time(12, tzinfo=timezone(timedelta(hours=2)))}])
    assert failure.startswith("orders, column moment: found the time 12:00:00+02:00, whose offset no column holds")
    assert is_untouched(warehouse)
    assert not load([{"id": 1, "moment": time(12)}])


def test_whole_seconds_in_an_arrow_table_arrive(warehouse: Warehouse) -> None:
    assert not load([pa.table({"id": [1], "moment": pa.array([time(1, 2, 3)], pa.time32("s"))})])
    assert not load([pa.table({"id": [2], "moment": pa.array([time(1, 2, 3, 400)], pa.time64("us"))})])
    assert rows(warehouse, "id, moment") == [(1, time(1, 2, 3)), (2, time(1, 2, 3, 400))]


TEXTS = [None, "", "a"]


@pytest.mark.parametrize("accelerated", ["true", "false"])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array(TEXTS), TEXTS),
        (pa.array(TEXTS, pa.large_string()), TEXTS),
        (pa.array(TEXTS).dictionary_encode(), TEXTS),
        (pa.array([b"", b"A", b"\\x41"]), [b"", b"A", b"\\x41"]),
        (pa.array([b"\xff\0", None, b"\\101"]), [b"\xff\0", None, b"\\101"]),
        (pa.array([b"\\x41", b"abcd"], pa.binary(4)), [b"\\x41", b"abcd"]),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_empty_texts_and_bytes_in_an_arrow_table_stay_what_they_are(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, accelerated: str, values: Any, expected: list[Any]
) -> None:
    monkeypatch.setenv("RUNTIME__ACCELERATE", accelerated)
    assert not load([pa.table({"id": range(len(values)), "note": values})])
    found = [bytes(note) if isinstance(note, memoryview) else note for _, note in rows(warehouse, "id, note")]
    assert found == expected


def test_empty_texts_stay_in_every_load_of_a_table(warehouse: Warehouse) -> None:
    assert not load([{"id": 1, "note": ""}])
    assert not load([pa.table({"id": [2], "note": [""], "amount": [0.5]})])
    assert not load([pa.table({"id": [3], "note": ["a"], "amount": [1]})])
    assert not load([{"id": 4, "note": "", "lines": [{"n": 1}]}])
    assert rows(warehouse, "id, note, amount") == [(1, "", None), (2, "", 0.5), (3, "a", 1), (4, "", None)]
    assert not load([pa.table({"id": pa.array([], pa.int64()), "note": pa.array([], pa.string())})])


def test_an_empty_text_is_refused_where_csv_would_lose_it(warehouse: Warehouse) -> None:
    empty = pa.table({"id": [1], "note": [""]})
    as_json: Any = {"columns": {"more": {"data_type": "json"}}}
    for hints, advice in (
        ({"file_format": "csv"}, "Take the file format csv out"),
        (as_json, "beside the JSON column more"),
    ):
        failure = load([empty], **hints)
        if warehouse.name == "postgres":
            assert failure.startswith("orders, column note: found an empty text, which becomes NULL if an Arrow table")
            assert advice in failure
            assert is_untouched(warehouse)


@pytest.mark.parametrize("values", [[{"a": 1}], [[1]]], ids=["struct", "list"])
def test_a_nested_arrow_column_arrives_or_is_refused_by_name(warehouse: Warehouse, values: Any) -> None:
    failure = load([pa.table({"id": [1], "more": values})])
    if warehouse.name == "postgres":
        assert failure.startswith("orders, column more: found a nested value in an Arrow table, which cannot be copied")
        assert is_untouched(warehouse)
    else:
        assert not failure


def test_numbers_in_parquet_are_not_taken_for_others(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_WRITER__BUFFER_MAX_ITEMS", "1")
    monkeypatch.setenv("DATA_WRITER__FILE_MAX_ITEMS", "1")  # so that each table has a file
    items = [pa.table({"id": [1], "amount": [1]}), pa.table({"id": [2], "amount": [0.5]})]
    failure = load(items, file_format="parquet")
    if warehouse.name == "postgres":
        assert failure.startswith("orders, column amount: the source sends int64, which the column's type double")
        assert is_untouched(warehouse)
    else:
        assert not failure
        assert rows(warehouse, "id, amount") == [(1, 1), (2, 0.5)]


def test_dictionaries_after_arrow_tables_arrive_or_are_refused_by_name(warehouse: Warehouse) -> None:
    assert not load([pa.table({"id": [1], "note": ["a"]})], write_disposition="append")
    failure = load([{"id": 2, "note": "b"}], write_disposition="append")
    if warehouse.name == "postgres":
        assert failure.startswith("orders, column _dlt_")
        assert "drop the table" in failure
        assert rows(warehouse, "id, note") == [(1, "a")]
        assert not load([{"id": 2, "note": "b"}], refresh="drop_resources")
        assert rows(warehouse, "id, note") == [(2, "b")]


def test_numbers_in_parquet_are_not_taken_for_texts(warehouse: Warehouse) -> None:
    assert not load([{"id": 1, "code": "a"}])
    failure = load([pa.table({"id": [2], "note": [""], "code": [0x6161616161616161]})])
    assert failure.startswith("orders, column code: the source sends bigint") == (warehouse.name == "postgres")
    assert rows(warehouse, "id, code")[0] == (1, "a")


NUL = "a\0b"


@pytest.mark.parametrize(
    "values",
    [
        pa.array([None, NUL]),
        pa.array([NUL, "a"], pa.large_string()),
        pa.array([NUL, "a"]).dictionary_encode(),
        pa.chunked_array([["a"], [NUL]]),
        pa.array([[], [{"note": NUL}]]),
        pa.array([{"more": NUL}, None]),
    ],
    ids=lambda values: str(values.type),
)
def test_a_nul_in_an_arrow_table_is_kept_or_refused_by_name(warehouse: Warehouse, values: Any) -> None:
    failure = load([pa.table({"id": [3, 4], "aNote": values})])
    if warehouse.name == "postgres":
        assert failure.startswith(
            "orders, column a_note: found a text with a NUL character, which Postgres cannot store"
        )
        assert is_untouched(warehouse)
    else:
        assert not failure
        assert any(text in str(rows(warehouse, "a_note")) for text in (r"a\x00b", r"a\\u0000b"))  # as JSON if nested


@pytest.mark.parametrize(
    ("item", "keys"),
    [
        ({"orderId": 7, "order_id": 8}, ("'orderId'", "'order_id'")),
        ({"名前": "Ann", "住所": "Rome"}, ("'名前'", "'住所'")),
        ({"Tags": ["a"], "tags": ["b"]}, ("'Tags'", "'tags'")),
        ({"createdBy": {"login": "a"}, "created_by": {"login": "b"}}, ("'createdBy.login'", "'created_by.login'")),
        ({"a": {"b": [1]}, "a__b": [2]}, ("'a.b'", "'a__b'")),
    ],
)
def test_two_keys_that_become_one_column_are_refused_by_name(
    warehouse: Warehouse, item: dict[str, Any], keys: tuple[str, str]
) -> None:
    failure = load([{"id": 1}, {"id": 2, **item}])
    assert failure.startswith("orders: the keys ")
    assert all(key in failure for key in keys)
    assert is_untouched(warehouse)


@pytest.mark.parametrize("value", ["abc", "2026-01-31T12:00:00.123456789Z"])
def test_a_value_that_would_replace_one_of_the_sources_own_is_refused_by_name(warehouse: Warehouse, value: str) -> None:
    """`amount__v_text` is where dlt puts a text that is no number, or no timestamp."""
    first = {"abc": 7}.get(value, "2026-01-31T12:00:00Z")

    failure = load([{"id": 1, "amount": first}, {"id": 2, "amount": value, "amount__v_text": "own"}])

    assert failure.startswith(f"orders: {value!r} is no ")
    assert "amount__v_text" in failure
    assert is_untouched(warehouse)

    assert not load([{"id": 1, "amount": first}, {"id": 2, "amount": value}, {"id": 3, "amount__v_text": "own"}])
    assert rows(warehouse, "id, amount__v_text") == [(1, None), (2, value), (3, "own")]


def test_a_text_does_not_become_bytes(warehouse: Warehouse) -> None:
    """DuckDB would make an A of it."""
    assert not load([pa.table({"id": [1], "amount": [b"ab"]})])

    failure = load([pa.table({"id": [1], "amount": [r"\x41"]})])

    assert failure.startswith("orders, column amount: the source sends text")
    assert [bytes(value) for _, value in rows(warehouse, "id, amount")] == [b"ab"]


def test_of_two_keys_the_one_that_is_not_empty_arrives(warehouse: Warehouse) -> None:
    items = [
        {"id": 1, "orderId": 7, "order_id": None, "Tags": ["a"], "tags": []},
        {"id": 2, "orderId": 8, "order_id": 8, "Tags": [], "tags": ["b"]},
        {"id": 3, "createdBy": {}, "created_by": {"login": "x"}},
    ]
    assert not load(items)
    assert rows(warehouse, "id, order_id, created_by__login") == [(1, 7, None), (2, 8, None), (3, None, "x")]
    assert rows(warehouse, "value", "orders__tags") == [("a",), ("b",)]


def test_the_warehouse_knows_nothing_of_the_stricter_normalizer(warehouse: Warehouse) -> None:
    for _ in range(2):
        assert not load([{"id": 1, "amount": 7}, {"id": 2, "amount": "007"}])
    stored = warehouse.rows("SELECT schema FROM raw_shop._dlt_version WHERE schema_name = 'shop'")
    assert len(stored) == 1  # the second load has added no version
    assert '"module":"dlt.common.normalizers.json.relational"' in stored[0][0]
    assert "runtime" not in stored[0][0]


def test_values_are_kept_where_dlt_normalizes_in_other_processes(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NORMALIZE__WORKERS", "2")
    assert not load([{"id": 1, "amount": 7}, {"id": 2, "amount": "007"}])
    assert rows(warehouse, "amount, amount__v_text") == [(7, None), (None, "007")]


def test_the_stored_schema_names_dlts_normalizer_and_stays_the_same(warehouse: Warehouse) -> None:
    for _ in range(2):
        assert not load([{"id": 1, "amount": 7}])
    [(versions, schema)] = rows(warehouse, "count(*) AS n, min(schema)", "_dlt_version")

    assert versions == 1
    assert "dlt.common.normalizers.json.relational" in schema
    assert "runtime" not in schema


def test_arrow_rows_replace_those_of_dictionaries_with_children(warehouse: Warehouse) -> None:
    hints: Any = {"write_disposition": "merge", "primary_key": "id"}
    assert not load([{"id": number, "amount": 1, "lines": [{"n": number}]} for number in range(3)], **hints)
    assert not load([pa.table({"id": [0, 10], "amount": [2, 2]})], **hints)

    assert rows(warehouse, "id, amount") == [(0, 2), (1, 1), (2, 1), (10, 2)]
    assert rows(warehouse, "count(DISTINCT _dlt_id), count(DISTINCT _dlt_load_id)") == [(4, 2)]
