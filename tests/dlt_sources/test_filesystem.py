"""Files in a folder: every row of every format, each version of a file once, and broken files left out."""

import gzip
import json
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from dlt.extract import DltSource

from dlt_sources.filesystem import filesystem_tables, list_files
from tests.support.source_warehouse import SourceWarehouse

OLD = datetime(2020, 1, 1, tzinfo=UTC).timestamp()
TABLES = {"orders": "csv", "clicks": "jsonl", "stock": "parquet"}


class Folder:
    """The folder that the source reads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.broken: dict[str, str] = {}

    def write(self, name: str, content: str | bytes, modified: float | None = None) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        if modified is not None:
            os.utime(path, (modified, modified))
        return path

    def fill(self, name: str, count: int) -> None:
        """Write a file with `count` rows for each table: their only column is their number."""
        for table, file_format in TABLES.items():
            self.write(f"{table}/{name}.{file_format}", numbers(file_format, count))

    def source(self, tables: Mapping[str, str] = TABLES, **options: Any) -> DltSource:
        return filesystem_tables(tables, self.broken, **options)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    root = tmp_path / "files"
    root.mkdir()
    monkeypatch.setenv("SOURCES__FILESYSTEM__BUCKET_URL", str(root))
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    return Folder(root)


def parquet(**columns: Iterable[Any]) -> bytes:
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


def load(warehouse: SourceWarehouse, source: DltSource) -> dict[str, int]:
    """Run a load; the number of rows that it loaded, for each table with any."""
    return {table: rows for table, rows in warehouse.load(source).items() if rows}


def numbers(file_format: str, count: int) -> bytes:
    """A file with that many rows, `id` from 1."""
    ids = range(1, count + 1)
    if file_format == "csv":
        return "".join(f"{line}\n" for line in ["id", *ids]).encode()
    if file_format == "jsonl":
        return "".join(f'{{"id": {number}}}\n' for number in ids).encode()
    return parquet(id=pa.array(ids, pa.int64()))


def test_every_row_and_column_of_each_format_is_loaded(folder: Folder, warehouse: SourceWarehouse) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    folder.write("orders/a.csv", "id,city\n1,Łódź\n2,東京\n", modified=OLD)
    folder.write(
        "clicks/b.jsonl", '{"id": 1, "user": {"name": "Zoë"}, "tags": ["x", "y"], "at": "2026-01-02T03:04:05Z"}\n'
    )
    folder.write(
        "stock/c.parquet", parquet(id=[1, 2], price=[Decimal("1.10"), None], counted=[at, at], note=[None, "é"])
    )

    assert load(warehouse, folder.source()) == {"orders": 2, "clicks": 1, "clicks__tags": 2, "stock": 2}
    assert folder.broken == {}
    assert warehouse.rows("SELECT id, city, _file, _file_modified_at, _file_row FROM orders ORDER BY _file_row") == [
        ("1", "Łódź", "orders/a.csv", datetime(2020, 1, 1, tzinfo=UTC), 1),
        ("2", "東京", "orders/a.csv", datetime(2020, 1, 1, tzinfo=UTC), 2),
    ]
    assert warehouse.rows("SELECT id, user__name, _file, _file_row FROM clicks") == [(1, "Zoë", "clicks/b.jsonl", 1)]
    assert warehouse.rows("SELECT value FROM clicks__tags ORDER BY _dlt_list_idx") == [("x",), ("y",)]
    assert warehouse.rows("SELECT id, price, counted, note, _file_row FROM stock ORDER BY id") == [
        (1, Decimal("1.10"), at, None, 1),
        (2, None, at, "é", 2),
    ]
    origin = {"_file": "VARCHAR", "_file_modified_at": "TIMESTAMP WITH TIME ZONE", "_file_row": "BIGINT"}
    origin["_file_emptied"] = "BOOLEAN"
    assert warehouse.columns("orders") == origin | {"id": "VARCHAR", "city": "VARCHAR"}
    assert warehouse.undescribed("orders") == {"orders.id", "orders.city"}  # the files' own
    assert warehouse.columns("clicks") == origin | {
        "id": "BIGINT",
        "user__name": "VARCHAR",
        "at": "TIMESTAMP WITH TIME ZONE",
    }
    assert warehouse.columns("stock") == origin | {
        "id": "BIGINT",
        "price": "DECIMAL(3,2)",
        "counted": "TIMESTAMP WITH TIME ZONE",
        "note": "VARCHAR",
    }


CSV: dict[str, tuple[str | bytes, list[tuple[Any, ...]]]] = {
    "not_converted": ("zip,n\n007,1e5\n 00 ,0x1\n", [("007", "1e5"), (" 00 ", "0x1")]),
    "null_or_empty": ('a,b\n,""\nNULL,nan\n', [(None, ""), ("NULL", "nan")]),
    "quotes": ('a,b\n"x\ny, ""z""",2\n', [('x\ny, "z"', "2")]),
    "bom_and_crlf": ("\ufeffa,b\r\nä,2\r\n", [("ä", "2")]),
    "blank_lines": ("a,b\n1,2\n\n3,4\n\n", [("1", "2"), ("3", "4")]),
    "no_last_line_break": ("a,b\n1,2", [("1", "2")]),
    "long_text": (f"a,b\n1,{'x' * 3_000_000}\n", [("1", "x" * 3_000_000)]),
    "gzipped": (gzip.compress(b"a,b\n1,2\n"), [("1", "2")]),
}


def test_csv_fields_are_loaded_as_text_unchanged(folder: Folder, warehouse: SourceWarehouse) -> None:
    for table, (content, _) in CSV.items():
        folder.write(f"{table}/a.csv{'.gz' if isinstance(content, bytes) else ''}", content)
    load(warehouse, folder.source(dict.fromkeys(CSV, "csv")))
    assert folder.broken == {}
    for table, (_, rows) in CSV.items():
        columns = ", ".join(name for name in warehouse.columns(table) if not name.startswith("_"))
        assert warehouse.rows(f"SELECT {columns} FROM {table} ORDER BY _file_row") == rows, table


def test_every_warehouse_gets_and_replaces_the_same_rows(folder: Folder, any_warehouse: SourceWarehouse) -> None:
    folder.write("orders/a.csv", 'id,note\n1,""\n2,\n3,"\\N, ""ä""\n\\"\n')
    folder.write("orders/b.csv", "id,note\n4,kept\n")
    folder.write("clicks/a.jsonl", '{"id": 1, "note": "", "tags": ["x"]}\n')
    folder.write("stock/a.parquet", parquet(id=[1], price=[Decimal("1.10")], note=[""]))
    any_warehouse.load(folder.source())
    assert any_warehouse.rows("SELECT id, note FROM orders ORDER BY id") == [
        ("1", ""),
        ("2", None),
        ("3", '\\N, "ä"\n\\'),
        ("4", "kept"),
    ]
    assert any_warehouse.rows("SELECT id, note FROM clicks") == [(1, "")]
    assert any_warehouse.rows("SELECT id, price, note FROM stock") == [(1, Decimal("1.10"), "")]

    folder.write("orders/a.csv", "id,note\n")
    folder.write("orders/c.csv", "new,id\nx,5\n")
    folder.write("clicks/a.jsonl", '{"id": 2}\n')
    any_warehouse.load(folder.source())
    assert any_warehouse.rows("SELECT id, note, new FROM orders ORDER BY id") == [("4", "kept", None), ("5", None, "x")]
    assert any_warehouse.rows("SELECT id FROM clicks") == [(2,)]
    assert any_warehouse.value("SELECT count(*) FROM clicks__tags") == 0


def test_a_table_is_created_before_it_has_rows(folder: Folder, any_warehouse: SourceWarehouse) -> None:
    folder.write("orders/a.csv", "id,note\n")
    any_warehouse.load(folder.source())
    assert [any_warehouse.value(f"SELECT count(*) FROM {table}") for table in TABLES] == [0, 0, 0]
    folder.write("orders/b.csv", 'id,note\n1,""\n')
    any_warehouse.load(folder.source())
    assert any_warehouse.rows("SELECT id, note FROM orders") == [("1", "")]


def test_a_parquet_file_of_a_type_that_the_warehouse_lacks_is_broken(
    folder: Folder, any_warehouse: SourceWarehouse
) -> None:
    columns = {
        "time": pa.array([1], pa.time64("ns")),
        "wide": pa.array([Decimal(10) ** 45], pa.decimal256(60, 2)),
    }
    if any_warehouse.postgres:
        columns |= {"struct": pa.array([{"a": 1}]), "list": pa.array([[1]])}
    for name, values in columns.items():
        folder.write(f"stock/{name}.parquet", parquet(id=[9], **{name: values}))
    folder.fill("sound", 2)

    loaded = load(any_warehouse, folder.source())

    broken = columns if any_warehouse.postgres else ("time", "wide")
    assert set(folder.broken) == {f"stock/{name}.parquet" for name in broken}
    assert all(f"the column {name} " in folder.broken[f"stock/{name}.parquet"] for name in broken)
    assert loaded == {**dict.fromkeys(TABLES, 2), "stock": 2 + len(columns) - len(broken)}


def test_a_file_that_the_warehouse_cannot_store_is_broken(folder: Folder, any_warehouse: SourceWarehouse) -> None:
    wide = ",".join(f"c{number}" for number in range(1_600))
    folder.fill("sound", 2)
    folder.write("orders/nul.csv", b"id,note\n1,a\0b\n")
    most = "but Postgres stores 1590 at most"
    folder.write("orders/wide.csv", f"{wide}\n{wide}\n")
    folder.write("clicks/wide.jsonl", json.dumps({"a": {f"c{number}": 1 for number in range(1_600)}}))
    folder.write("clicks/lists.jsonl", json.dumps({"n": [{"m": [{f"c{number}": 1 for number in range(1_600)}]}]}))
    folder.write("clicks/nul.jsonl", '{"id": 8}\n{"id": 9, "note": "a\\u0000b", "path": "\\\\u0000"}\n')
    folder.write("stock/nul.parquet", parquet(id=[9], note=["a\0b"]))
    folder.write("stock/ns.parquet", parquet(at=pa.array([1767225600123456789], pa.timestamp("ns"))))
    nanoseconds = {"stock/ns.parquet": "the column at has nanoseconds, dlt stores microseconds"}
    nul = "a NUL character, which Postgres cannot store"
    loaded = load(any_warehouse, folder.source())
    if any_warehouse.postgres:
        assert folder.broken == nanoseconds | {
            "orders/nul.csv": f"line 2: {nul}",
            "clicks/wide.jsonl": f"the table clicks would have 1601 columns, {most}",
            "clicks/lists.jsonl": f"the table clicks__n__m would have 1600 columns, {most}",
            "orders/wide.csv": f"the table orders would have 1601 columns, {most}",
            "clicks/nul.jsonl": f"line 2: {nul}",
            "stock/nul.parquet": f"the column note has {nul}",
        }
        assert loaded == dict.fromkeys(TABLES, 2)
    else:
        assert folder.broken == nanoseconds
        assert loaded == {"orders": 4, "clicks": 6, "clicks__n": 1, "clicks__n__m": 1, "stock": 3}


def test_files_of_any_length_are_loaded(folder: Folder, warehouse: SourceWarehouse) -> None:
    lengths = {
        f"{kind}_{count}": (kind, count) for kind in TABLES.values() for count in (0, 1, 100, 101, 10_000, 20_001)
    }
    for table, (kind, count) in lengths.items():
        folder.write(f"{table}/a.{kind}", numbers(kind, count))
    loaded = load(warehouse, folder.source({table: kind for table, (kind, _) in lengths.items()}))
    assert folder.broken == {}
    assert loaded == {table: count for table, (_, count) in lengths.items() if count}
    for table, (_, count) in lengths.items():
        assert warehouse.value(f"SELECT count(DISTINCT _file_row) FROM {table}") == count
        if count:
            assert warehouse.value(f"SELECT count(*) FROM {table} WHERE CAST(id AS BIGINT) = _file_row") == count


def test_a_second_load_loads_nothing_on_this_or_another_machine(folder: Folder, warehouse: SourceWarehouse) -> None:
    folder.fill("a", 3)
    load(warehouse, folder.source())
    assert load(warehouse, folder.source()) == {}
    warehouse.pipeline = warehouse.fresh_pipeline("elsewhere")
    assert load(warehouse, folder.source()) == {}
    assert load(warehouse, folder.source(full_reload=True)) == {"orders": 3, "clicks": 3, "stock": 3}
    assert [warehouse.value(f"SELECT count(*) FROM {table}") for table in TABLES] == [3, 3, 3]


def test_new_files_are_loaded_whatever_their_modification_date(folder: Folder, warehouse: SourceWarehouse) -> None:
    folder.write("orders/b.csv", numbers("csv", 3), modified=OLD)
    load(warehouse, folder.source())
    folder.write("orders/a.csv", numbers("csv", 2), modified=OLD)
    folder.write("orders/2019/older.csv", numbers("csv", 2), modified=OLD - 86_400)
    folder.write("orders/newer.csv", numbers("csv", 2), modified=OLD + 86_400)
    assert load(warehouse, folder.source()) == {"orders": 6}
    assert warehouse.value("SELECT count(*) FROM orders") == 9


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_changed_file_replaces_its_own_rows(folder: Folder, warehouse: SourceWarehouse, count: int) -> None:
    folder.fill("a", 3)
    folder.fill("b", 3)
    load(warehouse, folder.source())
    folder.fill("a", count)
    load(warehouse, folder.source())
    for table, file_format in TABLES.items():
        expected = [(f"{table}/{file}.{file_format}", rows) for file, rows in (("a", count), ("b", 3)) if rows]
        assert warehouse.rows(f"SELECT _file, count(*) FROM {table} GROUP BY ALL ORDER BY 1") == expected
    assert load(warehouse, folder.source()) == {}


def test_child_rows_of_replaced_rows_are_removed(folder: Folder, warehouse: SourceWarehouse) -> None:
    folder.write("clicks/a.jsonl", '{"tags": ["old", "older"]}\n')
    folder.write("clicks/b.jsonl", '{"tags": ["other"]}\n')
    load(warehouse, folder.source())
    folder.write("clicks/a.jsonl", '{"tags": ["new"]}\n')
    load(warehouse, folder.source())
    assert warehouse.rows("SELECT value FROM clicks__tags ORDER BY 1") == [("new",), ("other",)]


def test_rows_of_a_removed_file_stay(folder: Folder, warehouse: SourceWarehouse) -> None:
    path = folder.write("orders/a.csv", numbers("csv", 3))
    load(warehouse, folder.source())
    path.unlink()
    assert load(warehouse, folder.source()) == {}
    assert warehouse.value("SELECT count(*) FROM orders") == 3


def test_hidden_files_and_other_formats_are_ignored(folder: Folder, warehouse: SourceWarehouse) -> None:
    for name in (".a.csv", "_a.csv", "_temporary/a.csv", ".b/a.csv", "_SUCCESS", "README.md", "a.jsonl"):
        folder.write(f"orders/{name}", "broken\n1,2\n")
    folder.write("orders_old/a.csv", numbers("csv", 3))
    folder.write("a.csv", numbers("csv", 3))
    assert load(warehouse, folder.source({"orders": "csv"})) == {}
    assert folder.broken == {}
    assert warehouse.value("SELECT count(*) FROM orders") == 0  # the table exists and is empty


BROKEN: list[tuple[str, str | bytes, str]] = [
    ("orders/x.csv", "id,n\n1,2\n1\n", "line 3: 1 fields, but the header has 2"),
    ("orders/x.csv", "id,n\n1,2,3\n", "line 2: 3 fields, but the header has 2"),
    ("orders/x.csv", 'id,n\n"1\n\n",2\n3\n', "line 5: 1 fields"),
    ("orders/x.csv", 'id,n\n1,2\n1,"2\n1,2\n', "line 3: unexpected end of data"),
    ("orders/x.csv", 'id,n\n1,"2"3\n', "line 2: ',' expected after '\"'"),
    ("orders/x.csv", b"id,n\n" + b"1,2\n" * 20_000 + b"1,\xff\n", "line 20002: not UTF-8"),
    ("orders/x.csv", "", "line 1: the file is empty; a CSV file must begin with its column names"),
    ("orders/x.csv", "id,id\n1,2\n", "line 1: column names must be unique and not empty"),
    ("orders/x.csv", "Id,id\n1,2\n", "the columns Id and id would both become id"),
    ("orders/x.csv", "id,_file\n1,2\n", "the columns _file and _file would both become _file"),
    ("orders/x.csv.gz", gzip.compress(numbers("csv", 9_000))[:-100], "not gzip, or incomplete"),
    ("orders/x.csv.gz", numbers("csv", 3), "not gzip"),
    ("clicks/x.jsonl", numbers("jsonl", 10_500) + b'{"id": 10501', "line 10501: not JSON"),
    ("clicks/x.jsonl", '{"id": 1}\n\n[1]\n', "line 3: expected an object, found a list"),
    ("clicks/x.jsonl", b'{"id": "\xff"}\n', "line 1: not JSON"),
    ("stock/x.parquet", numbers("parquet", 30_000)[:-9], "not Parquet, or incomplete"),
    ("stock/x.parquet", "id,n\n", "not Parquet"),
    ("stock/x.parquet", parquet(id=["one"]), "the column id is text here but bigint in the table"),
]


def test_broken_files_are_left_out_by_name_and_line_and_read_again_later(
    folder: Folder, warehouse: SourceWarehouse
) -> None:
    folder.fill("a", 2)  # before the broken ones
    folder.fill("z", 2)  # and after them
    names = [name.replace("x", f"x{number:02}", 1) for number, (name, _, _) in enumerate(BROKEN)]
    for name, (_, content, _) in zip(names, BROKEN, strict=True):
        folder.write(name, content)

    assert load(warehouse, folder.source()) == dict.fromkeys(TABLES, 4)
    for name, (_, _, reason) in zip(names, BROKEN, strict=True):
        assert folder.broken[name].startswith(reason)
    assert len(folder.broken) == len(BROKEN)
    folder.broken.clear()
    assert load(warehouse, folder.source()) == {}
    assert sorted(folder.broken) == sorted(names)

    for name in names:
        mended = numbers(name.split(".")[1], 3)
        folder.write(name, gzip.compress(mended) if name.endswith("gz") else mended)
    expected = {table: 3 * sum(name.startswith(table) for name in names) for table in TABLES}
    assert load(warehouse, folder.source()) == expected
    assert folder.broken == {}
    assert [warehouse.value(f"SELECT count(*) FROM {table}") for table in expected] == [
        rows + 4 for rows in expected.values()
    ]


def test_a_file_that_becomes_broken_keeps_its_loaded_rows(folder: Folder, warehouse: SourceWarehouse) -> None:
    folder.write("orders/a.csv", numbers("csv", 3))
    load(warehouse, folder.source())
    folder.write("orders/a.csv", "id\n1\n1,2\n")
    assert load(warehouse, folder.source()) == {}
    assert list(folder.broken) == ["orders/a.csv"]
    assert warehouse.value("SELECT count(*) FROM orders") == 3


def test_a_new_column_is_added(folder: Folder, warehouse: SourceWarehouse) -> None:
    folder.write("orders/a.csv", "id,old\n1,x\n")
    folder.write("stock/a.parquet", parquet(id=[1], old=["x"]))
    load(warehouse, folder.source())
    folder.write("orders/b.csv", "new,id\ny,2\n")
    folder.write("stock/b.parquet", parquet(new=["y"], id=[2]))
    load(warehouse, folder.source())
    for table, ids in (("orders", ("1", "2")), ("stock", (1, 2))):
        expected = [(ids[0], "x", None), (ids[1], None, "y")]
        assert warehouse.rows(f"SELECT id, old, new FROM {table} ORDER BY id") == expected


def test_a_parquet_file_that_contradicts_an_earlier_one_is_broken(folder: Folder, warehouse: SourceWarehouse) -> None:
    folder.write("stock/a.parquet", parquet(id=[1], empty=[None]))
    folder.write("stock/b.parquet", parquet(id=["one"], empty=["x"]))
    folder.write("stock/c.parquet", parquet(id=[3], empty=["y"]))
    assert load(warehouse, folder.source()) == {"stock": 2}
    assert folder.broken == {"stock/b.parquet": "the column id is text here but bigint in the table"}
    assert warehouse.rows("SELECT id, empty FROM stock ORDER BY id") == [(1, None), (3, "y")]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (pa.array([1], pa.int32()), pa.array([7], pa.uint32())),
        (pa.array([1], pa.int64()), pa.array([7], pa.uint64())),
        (pa.array(["a"]), pa.array(["b"], pa.large_string())),
        (pa.array(["a"]), pa.array(["b"]).dictionary_encode()),
        (pa.array([1.5], pa.float32()), pa.array([0.1])),
        (pa.array([1.5], pa.float16()), None),
        (pa.array([1.5], pa.float32()), None),
        (pa.array(["a"], pa.large_string()), None),
        (pa.array(["a"]).dictionary_encode(), None),
        (pa.array([Decimal("1.50")], pa.decimal128(10, 2)), pa.array([Decimal("2.5000")], pa.decimal128(12, 4))),
        (pa.array([0], pa.timestamp("ms")), pa.array([1000], pa.timestamp("us"))),
    ],
    ids=str,
)
def test_parquet_files_of_one_load_may_have_types_that_fit(
    folder: Folder, any_warehouse: SourceWarehouse, first: pa.Array, then: pa.Array | None
) -> None:
    amounts = [{"amount": first}, {} if then is None else {"amount": then}]
    for number, columns in enumerate(amounts):
        folder.write(f"stock/{number}.parquet", parquet(id=[number], **columns))
    load(any_warehouse, folder.source())
    assert folder.broken == {}
    values = [one for columns in amounts for one in columns.get("amount", pa.nulls(1)).to_pylist()]
    stored = [amount for _, amount in any_warehouse.rows("SELECT id, amount FROM stock ORDER BY id")]
    assert [one.replace(tzinfo=None) if isinstance(one, datetime) else one for one in stored] == values


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (pa.array([1], pa.int32()), pa.array([2**40])),
        (pa.array([Decimal("1.50")], pa.decimal128(10, 2)), pa.array([Decimal("2.1234")], pa.decimal128(12, 4))),
        (pa.array([0], pa.timestamp("ms")), pa.array([1], pa.timestamp("us"))),
    ],
    ids=str,
)
def test_a_parquet_file_that_does_not_fit_waits_for_the_next_load(
    folder: Folder, warehouse: SourceWarehouse, first: pa.Array, then: pa.Array
) -> None:
    folder.write("stock/a.parquet", parquet(id=[1], amount=first))
    folder.write("stock/b.parquet", parquet(id=[2], amount=then))
    folder.write("clicks/a.jsonl", '{"id": 1}')
    load(warehouse, folder.source())
    assert list(folder.broken) == ["stock/b.parquet"]
    assert (
        f"the column amount is {then.type} here but {first.type} in stock/a.parquet" in folder.broken["stock/b.parquet"]
    )
    assert warehouse.rows("SELECT id FROM clicks") == [(1,)]
    assert warehouse.rows("SELECT id FROM stock") == [(1,)]


def test_a_json_value_of_another_type_gets_a_variant_column(folder: Folder, warehouse: SourceWarehouse) -> None:
    folder.write("clicks/a.jsonl", '{"id": 1}\n{"id": "two"}\n')
    load(warehouse, folder.source())
    assert warehouse.rows("SELECT id, id__v_text FROM clicks ORDER BY _file_row") == [(1, None), (None, "two")]


def test_numbers_of_a_json_file_are_exact_or_the_file_is_broken(folder: Folder, warehouse: SourceWarehouse) -> None:
    numbers_in_a = '"n": 18446744073709551616, "x": 0.30000000000000004, "is": "1234567890123456789"'
    folder.write("clicks/a.jsonl", f'{{"id": 1, {numbers_in_a}}}')
    folder.write("clicks/b.jsonl", '{"id": 2, "n": 1234567890123.123456789}')
    folder.write("clicks/c.jsonl", '{"id": 3}\n{"id": 4, "n": 0.1234567890123456789}')
    load(warehouse, folder.source())
    reason = "line 2: the number 0.1234567890123456789 has more digits than a decimal column"
    assert folder.broken == {"clicks/c.jsonl": reason}
    assert warehouse.rows('SELECT id, n, x, "is" FROM clicks ORDER BY id') == [
        (1, Decimal(2**64), 0.30000000000000004, "1234567890123456789"),
        (2, Decimal("1234567890123.123456789"), None, None),
    ]


def test_a_json_file_whose_keys_become_one_column_is_broken(folder: Folder, warehouse: SourceWarehouse) -> None:
    folder.write("clicks/a.jsonl", '{"id": 1, "orderId": 7, "order_id": 7, "at": {"x": 1}, "At": {"x": null}, "": 1}')
    two = "row 2: the keys 'orderId' and 'order_id' both become order_id"
    broken = {
        "b": ('{"id": 2}\n{"orderId": 7, "order_id": 8}', two),
        "c": ('{"at": {"x": 1}, "At": {"x": 2}}', "row 1: the keys 'at.x' and 'At.x' both become at__x"),
        "d": ('{"n": [{"aB": 1, "a_b": 2}]}', "row 1: the keys 'aB' and 'a_b' both become a_b"),
        "e": ('{"aB": [1], "a_b": [2]}', "row 1: the keys 'aB' and 'a_b' both become a_b"),
        "f": ('{"_File": "x"}', "row 1: the key '_File' is the name of a column that this source adds"),
    }
    for name, (content, _) in broken.items():
        folder.write(f"clicks/{name}.jsonl", content)
    load(warehouse, folder.source())

    assert folder.broken == {f"clicks/{name}.jsonl": reason for name, (_, reason) in broken.items()}
    assert warehouse.rows("SELECT id, order_id, at__x FROM clicks") == [(1, 7, 1)]


@pytest.mark.parametrize("nesting", [0, 1, 2])
@pytest.mark.parametrize("of_source", [True, False])
def test_keys_of_an_object_that_is_kept_as_it_is_do_not_become_columns(
    folder: Folder, any_warehouse: SourceWarehouse, nesting: int, of_source: bool
) -> None:
    inner, wide = {"aB": 1, "a_b": 2}, {f"c{number}": 1 for number in range(1_600)}
    rows = [[{"at": inner, "wide": wide}, {"n": [inner, wide]}], [{"at": {"x": inner}}, {"n": [{"x": [inner, wide]}]}]]
    for depth, items in enumerate(rows):
        for number, item in enumerate(items):
            folder.write(f"clicks/{depth}{number}.jsonl", json.dumps(item))
    folder.write("clicks/declared.jsonl", json.dumps({"payload": {**inner, **wide}}))
    source = folder.source({"clicks": "jsonl"})
    source.clicks.apply_hints(columns={"payload": {"data_type": "json"}})
    if of_source:
        source.max_table_nesting = nesting
    else:
        source.clicks.max_table_nesting = nesting
    load(any_warehouse, source)

    taken_apart = [f"clicks/{depth}{number}.jsonl" for depth in range(min(nesting, 2)) for number in range(2)]
    assert sorted(folder.broken) == taken_apart
    [(count,)] = any_warehouse.rows("SELECT count(*) FROM clicks")
    assert count == 5 - len(taken_apart)


def test_a_file_that_changes_during_the_load_is_left_to_the_next_load(
    folder: Folder, warehouse: SourceWarehouse
) -> None:
    folder.write("clicks/a.jsonl", numbers("jsonl", 1))
    growing = folder.write("clicks/b.jsonl", numbers("jsonl", 1))
    vanishing = folder.write("clicks/c.jsonl", numbers("jsonl", 1))
    source = folder.source({"clicks": "jsonl"})

    def meanwhile(row: dict[str, Any]) -> dict[str, Any]:
        growing.write_bytes(numbers("jsonl", 2))
        vanishing.unlink(missing_ok=True)
        return row

    source.resources["clicks"].add_map(meanwhile)
    assert load(warehouse, source) == {"clicks": 1}
    assert folder.broken == {}
    assert load(warehouse, folder.source()) == {"clicks": 2}


def test_files_that_were_extracted_but_not_loaded_are_read_again(folder: Folder, warehouse: SourceWarehouse) -> None:
    folder.write("orders/a.csv", numbers("csv", 3))
    load(warehouse, folder.source())
    folder.write("orders/b.csv", numbers("csv", 2))
    assert warehouse.extract(folder.source())["orders"] == 2
    warehouse.pipeline = warehouse.fresh_pipeline("after the crash")
    assert load(warehouse, folder.source()) == {"orders": 2}
    assert warehouse.value("SELECT count(*) FROM orders") == 5


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "SOURCES__FILESYSTEM__BUCKET_URL is missing, empty or a placeholder: set it to a folder"),
        ("/nowhere/at/all", "SOURCES__FILESYSTEM__BUCKET_URL: the folder /nowhere/at/all does not exist."),
        ("ftp://partner:canary@host/in", "SOURCES__FILESYSTEM__BUCKET_URL must be a folder or s3://bucket/folder."),
        ("s3://key:canary@bucket/in", "SOURCES__FILESYSTEM__BUCKET_URL must be a folder or s3://bucket/folder."),
    ],
)
def test_an_error_names_a_wrong_bucket_url(
    folder: Folder, warehouse: SourceWarehouse, monkeypatch: pytest.MonkeyPatch, url: str, sentence: str
) -> None:
    monkeypatch.setenv("SOURCES__FILESYSTEM__BUCKET_URL", url)
    error = str(warehouse.load_error(folder.source()))
    assert error.startswith(sentence)
    assert "canary" not in error


def test_a_file_url_names_a_folder(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("orders/a b#1.csv", numbers("csv", 1), modified=OLD)
    monkeypatch.setenv("SOURCES__FILESYSTEM__BUCKET_URL", folder.root.as_uri() + "/")
    assert list_files({"orders": "csv"}) == {"orders": {"orders/a b#1.csv": "2020-01-01T00:00:00+00:00 5"}}
