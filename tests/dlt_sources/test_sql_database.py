"""Tables of a real Postgres, loaded into DuckDB and Postgres: types, changes, deletions and error messages."""

import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pytest
from dlt.extract import DltSource
from dlt.pipeline.exceptions import PipelineStepFailed

from dlt_sources.errors import PermanentSourceError, TransientSourceError
from dlt_sources.sql_database import sql_row, sql_tables
from runtime.load.retries import is_transient
from tests.support.database import Database
from tests.support.source_warehouse import SourceWarehouse

VARIABLE = "SOURCES__SQL_DATABASE__CREDENTIALS"


@pytest.fixture(autouse=True)
def source(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database that the variable names, with one small table."""
    monkeypatch.setenv(VARIABLE, database.url)
    database.execute(
        "CREATE TABLE orders (id bigint PRIMARY KEY, note text, updated_at timestamptz, deleted_at timestamptz)"
    )


def orders() -> DltSource:
    return sql_tables("shop", ["orders"], cursor="updated_at", deleted="deleted_at")


def insert(database: Database, first: int, last: int, day: str = "2026-01-01") -> None:
    database.execute(
        "INSERT INTO orders SELECT id, 'new', %s::timestamptz + id * interval '1 ms' "
        "FROM generate_series(%s, %s) AS id",
        f"{day} 00:00:00Z",
        first,
        last,
    )


MOMENT = datetime(2026, 3, 29, 0, 59, 59, 999999, tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)
DOCUMENT = '{"a": 3, "b": [1.10, null], "ü": {}}'
# Column → its type there, its value there, its type and its value in the warehouse.
CASES: dict[str, tuple[str, str, str, Any]] = {
    "id": ("integer PRIMARY KEY", "1", "BIGINT", 1),
    "money_exact": ("numeric(14, 2)", "123456789012.34", "DECIMAL(14,2)", Decimal("123456789012.34")),
    "rate": ("numeric(38, 20)", "0.1", "DECIMAL(38,20)", Decimal("0.1")),
    "weight": ("numeric", "1.000000001", "DECIMAL(38,9)", Decimal("1.000000001")),
    "small": ("smallint", "-32768", "BIGINT", -32768),
    "large": ("bigint", "9223372036854775807", "BIGINT", 2**63 - 1),
    "ratio": ("double precision", "0.1", "DOUBLE", 0.1),
    "ratio_short": ("real", "0.5", "DOUBLE", 0.5),
    "yes": ("boolean", "true", "BOOLEAN", True),
    "moment": (
        "timestamptz",
        "'2026-03-29 02:59:59.999999+02'",
        "TIMESTAMP WITH TIME ZONE",
        MOMENT,
    ),
    "moment_local": (
        "timestamp",
        "'2026-03-29 02:30:00.000001'",
        "TIMESTAMP",
        datetime(2026, 3, 29, 2, 30, 0, 1),  # noqa: DTZ001
    ),
    "for_ever": ("timestamptz", "'infinity'", "TIMESTAMP WITH TIME ZONE", LAST),
    "since_ever": ("date", "'-infinity'", "DATE", date.min),
    "born_on": ("date", "'1900-02-28'", "DATE", date(1900, 2, 28)),
    "opens": ("time", "'23:59:59.999999'", "TIME", time(23, 59, 59, 999999)),
    "opens_there": ("timetz", "'08:00+02'", "VARCHAR", "08:00:00+02"),
    "lasts": ("interval", "'1 day 02:00'", "VARCHAR", "1 day 02:00:00"),
    "public_id": (
        "uuid",
        "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'",
        "VARCHAR",
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    ),
    "status": ("mood", "'größer'", "VARCHAR", "größer"),
    "empty": ("text", "''", "VARCHAR", ""),
    "unicode": ("text", r"E'👩🏽‍💻, \"ß\"\n\\N \u202E'", "VARCHAR", '👩🏽‍💻, "ß"\n\\N \u202e'),
    "short": ("varchar(3)", "'ab'", "VARCHAR", "ab"),
    "bytes": ("bytea", r"'\x00ff'", "BLOB", b"\x00\xff"),
    "document": ("jsonb", f"'{DOCUMENT}'", "JSON", DOCUMENT),
    "json_null": ("jsonb", "'null'", "JSON", "null"),
    "tags": ("text[]", """ARRAY['a', NULL, '"ü",']""", "JSON", r'["a",null,"\"ü\","]'),
    "amounts": ("numeric[]", "'{1.10,NULL}'", "JSON", "[1.10,null]"),
    "no_tags": ("integer[]", "'{}'", "JSON", "[]"),
    "grid": ("integer[]", "'{{1,2},{3,4}}'", "JSON", "[[1,2],[3,4]]"),
}  # fmt: skip


def test_types_and_values_are_kept(database: Database, any_warehouse: SourceWarehouse) -> None:
    columns = ", ".join(f"{name} {kind}" for name, (kind, *_) in CASES.items())
    values = ", ".join(value for _, value, *_ in CASES.values())
    database.execute("CREATE TYPE mood AS ENUM ('größer', 'x')")
    database.execute(f"CREATE TABLE cases ({columns})".replace("%", "%%"))
    database.execute(f"INSERT INTO cases VALUES (2{', NULL' * (len(CASES) - 1)})")
    any_warehouse.load(sql_tables("shop", ["cases"]))  # a row of nulls: there is nothing to infer a type from

    types = any_warehouse.columns("cases")
    assert types == {name: wanted[2] for name, wanted in CASES.items()}

    database.execute(f"INSERT INTO cases VALUES ({values})")
    any_warehouse.load(sql_tables("shop", ["cases"]))
    # As text: the driver would parse JSON.
    names = [f"CAST({name} AS text)" if types[name] == "JSON" else name for name in CASES]
    row, nulls = any_warehouse.rows(f"SELECT {', '.join(names)} FROM cases ORDER BY id")
    arrived = dict(zip(CASES, (bytes(value) if isinstance(value, memoryview) else value for value in row), strict=True))
    assert arrived == {name: wanted[3] for name, wanted in CASES.items()}
    assert nulls == (2, *[None] * (len(CASES) - 1))


def test_an_error_names_a_numeric_column_that_does_not_fit(database: Database, warehouse: SourceWarehouse) -> None:
    database.execute("CREATE TABLE products (id int PRIMARY KEY, weight numeric)")
    database.execute("INSERT INTO products VALUES (1, 0.0000000001)")
    with pytest.raises(PipelineStepFailed, match=r"field `weight`.*would cause data loss"):
        warehouse.load(sql_tables("shop", ["products"]))


@pytest.mark.parametrize("rows", [1, 100, 120_001])
def test_all_rows_are_loaded_from_tables_of_any_size(database: Database, warehouse: SourceWarehouse, rows: int) -> None:
    insert(database, 1, rows)
    database.execute("UPDATE orders SET note = repeat('ü', 200)")  # so that the largest table takes several batches
    warehouse.load(orders())

    assert warehouse.rows("SELECT count(*), count(DISTINCT id), coalesce(max(id), 0) FROM orders") == [
        (rows, rows, rows)
    ]


def test_an_empty_table_is_created_with_its_first_row(database: Database, warehouse: SourceWarehouse) -> None:
    assert warehouse.load(orders()) == {}
    insert(database, 1, 1)
    assert warehouse.load(orders()) == {"orders": 1}


def test_only_changed_rows_are_loaded(database: Database, any_warehouse: SourceWarehouse) -> None:
    insert(database, 1, 100)
    any_warehouse.load(orders())
    assert any_warehouse.load(orders()) == {}

    database.execute("UPDATE orders SET note = 'changed', updated_at = '2026-01-02Z' WHERE id = 7")
    assert any_warehouse.load(orders()) == {"orders": 1}
    assert any_warehouse.rows("SELECT id, note FROM orders WHERE note <> 'new'") == [(7, "changed")]
    assert any_warehouse.value("SELECT count(*) FROM orders") == 100


def test_a_row_without_a_cursor_value_is_loaded(database: Database, any_warehouse: SourceWarehouse) -> None:
    insert(database, 1, 2)
    database.execute("UPDATE orders SET updated_at = NULL WHERE id = 2")
    any_warehouse.load(orders())
    database.execute("UPDATE orders SET note = 'changed' WHERE id = 2")
    any_warehouse.load(orders())

    assert any_warehouse.rows("SELECT id, note FROM orders ORDER BY id") == [(1, "new"), (2, "changed")]


def test_comments_in_the_database_describe_the_columns(database: Database, any_warehouse: SourceWarehouse) -> None:
    database.execute("COMMENT ON COLUMN orders.note IS 'What the customer wrote'")
    insert(database, 1, 2)
    any_warehouse.load(orders())

    columns = any_warehouse.pipeline.default_schema.tables["orders"]["columns"]
    assert columns["note"]["description"] == "What the customer wrote"
    assert columns["deleted_at"]["hard_delete"]
    assert "description" not in columns["id"]


def test_a_new_column_is_loaded(database: Database, any_warehouse: SourceWarehouse) -> None:
    insert(database, 1, 1)
    any_warehouse.load(orders())
    database.execute("ALTER TABLE orders ADD gift jsonb")
    database.execute("""INSERT INTO orders VALUES (2, 'new', '2026-01-02Z', NULL, '{"n": 1}')""")
    any_warehouse.load(orders())

    found = any_warehouse.rows("SELECT id, CAST(gift AS text) FROM orders ORDER BY id")
    assert [(number, json.loads(gift or "null")) for number, gift in found] == [(1, None), (2, {"n": 1})]


def test_a_row_marked_as_deleted_is_removed(database: Database, any_warehouse: SourceWarehouse) -> None:
    insert(database, 1, 3)
    any_warehouse.load(orders())
    database.execute("UPDATE orders SET deleted_at = now(), updated_at = now() WHERE id = 2")
    any_warehouse.load(orders())
    assert any_warehouse.rows("SELECT id FROM orders ORDER BY id") == [(1,), (3,)]

    database.execute("UPDATE orders SET deleted_at = NULL, updated_at = now() WHERE id = 2")
    any_warehouse.load(orders())
    assert any_warehouse.rows("SELECT id FROM orders ORDER BY id") == [(1,), (2,), (3,)]


def test_a_table_without_a_cursor_is_read_completely_and_merged(
    database: Database, any_warehouse: SourceWarehouse
) -> None:
    database.execute("CREATE TABLE customers (id int PRIMARY KEY, name text, deleted_at timestamptz)")
    database.execute("INSERT INTO customers VALUES (1, 'Ada'), (2, 'Bob'), (3, 'Cem')")
    any_warehouse.load(sql_tables("shop", ["customers"], deleted="deleted_at"))
    database.execute("UPDATE customers SET name = 'Ada L.' WHERE id = 1")
    database.execute("UPDATE customers SET deleted_at = now() WHERE id = 3")
    any_warehouse.load(sql_tables("shop", ["customers"], deleted="deleted_at"))

    assert any_warehouse.rows("SELECT id, name FROM customers ORDER BY id") == [(1, "Ada L."), (2, "Bob")]


def test_an_interrupted_load_loads_nothing_and_the_next_one_everything(
    database: Database, warehouse: SourceWarehouse
) -> None:
    insert(database, 1, 120_000)
    database.execute("UPDATE orders SET note = repeat('x', 400)")
    source = orders()

    def break_off(rows: Any) -> Any:
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return rows

    source.resources["orders"].add_map(break_off)
    with pytest.raises(PipelineStepFailed) as failure:
        warehouse.load(source)
    assert is_transient(failure.value)

    assert warehouse.load(orders()) == {"orders": 120_000}


@pytest.mark.parametrize("value", [None, "", "  "])
def test_an_error_names_a_missing_variable(
    warehouse: SourceWarehouse, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv(VARIABLE)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    cause = warehouse.load_error(orders())

    assert str(cause) == f"{VARIABLE} is missing, empty or a placeholder: set it to read from the database."
    assert isinstance(cause, PermanentSourceError)


@pytest.mark.parametrize(
    "url",
    [
        "canary",
        "user:canary@localhost/shop",
        "postgresql://user:x@canary@localhost:canary/shop",
        "postgresql://user:canary/with:slash@localhost:5432/shop",
        "postgresql://user:canary@localhost:5432",
        "mysql://user:canary@localhost/shop",
    ],
)
def test_an_error_names_a_malformed_variable_without_its_value(
    warehouse: SourceWarehouse, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv(VARIABLE, url)
    with pytest.raises(PipelineStepFailed) as failure:
        warehouse.load(orders())

    assert VARIABLE in str(failure.value)
    assert_not_shown("canary", failure)


def test_a_wrong_password_fails_without_showing_it(
    database: Database, warehouse: SourceWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = database.server.pgdata / "pg_hba.conf"
    trusting = rules.read_text()
    database.execute("CREATE ROLE guarded LOGIN PASSWORD 'right'")
    try:
        rules.write_text(f"local all guarded scram-sha-256\n{trusting}")
        database.execute("SELECT pg_reload_conf()")
        monkeypatch.setenv(VARIABLE, database.url.replace("postgres:@", "guarded:canary@"))
        with pytest.raises(PipelineStepFailed) as failure:
            warehouse.load(orders())
    finally:
        rules.write_text(trusting)
        database.execute("SELECT pg_reload_conf()")
        database.execute("DROP ROLE guarded")

    cause = failure.value.__cause__
    assert isinstance(cause, PermanentSourceError)
    assert VARIABLE in str(cause)
    assert str(database.server.pgdata) in str(cause)
    assert 'password authentication failed for user "guarded"' in str(cause)
    assert_not_shown("canary", failure)


def test_an_unreachable_database_is_a_transient_error(
    warehouse: SourceWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "postgresql://user:canary@127.0.0.1:1/shop")
    source = orders()  # needs no connection
    with pytest.raises(PipelineStepFailed) as failure:
        warehouse.load(source)

    assert isinstance(failure.value.__cause__, TransientSourceError)
    assert f"Cannot connect to the database shop at 127.0.0.1; check {VARIABLE}" in str(failure.value)
    assert "Connection refused" in str(failure.value)
    assert_not_shown("canary", failure)


def test_a_table_without_a_primary_key_fails(database: Database, warehouse: SourceWarehouse) -> None:
    database.execute("CREATE TABLE log (line text)")
    cause = warehouse.load_error(sql_tables("shop", ["log"]))

    assert str(cause) == (
        "The table log has no primary key to merge on: add one, name its columns as `key`, or remove the table from "
        "the source."
    )


def test_an_error_names_a_table_that_does_not_exist(warehouse: SourceWarehouse) -> None:
    with pytest.raises(PipelineStepFailed, match=r"resource `odrers`.*: odrers"):
        warehouse.load(sql_tables("shop", ["odrers"]))


def test_sql_row_returns_the_row_of_a_query(database: Database) -> None:
    insert(database, 1, 10)

    assert sql_row("SELECT count(*), max(id) FROM orders WHERE id < :end", end=5) == (4, 4)


def assert_not_shown(secret: str, failure: pytest.ExceptionInfo[BaseException]) -> None:
    """No exception of the chain contains the secret."""
    error: BaseException | None = failure.value
    while error:
        assert secret not in str(error)
        assert secret not in repr(error)
        error = error.__cause__ or error.__context__
