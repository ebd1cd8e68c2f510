"""`tables.py` loads the tables that a file lists, each alone, and names the line of the file that is wrong."""

import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest

from runtime.load import location
from tests.support.database import Database
from tests.support.paths import ROOT
from tests.support.warehouse import Warehouse

EXAMPLE = ROOT / "tests" / "examples"
Read = Callable[[str], dg.Definitions]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Imports a copy of the example with another file of tables, as a location does."""
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))

    def read(text: str) -> dg.Definitions:
        package = tmp_path / f"tables_{uuid4().hex}"
        package.mkdir()
        (package / "__init__.py").touch()
        shutil.copy(EXAMPLE / "tables.py", package)
        (package / "tables.yaml").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        with location.isolated_imports(import_module(package.name).__name__):
            from_package: Any = sys.modules[package.name]
            return location.merge(from_package.tables.defs)

    return read


def run(defs: dg.Definitions, *tables: str, day: str | None = None) -> dg.ExecuteInProcessResult:
    job = defs.resolve_implicit_global_asset_job_def()
    chosen = [dg.AssetKey(["sql_database", table]) for table in tables]
    return job.execute_in_process(asset_selection=chosen or None, partition_key=day, raise_on_error=False)


@pytest.fixture
def shop(demo_shop: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """The shop, with a table that has no primary key."""
    monkeypatch.setenv("SOURCES__SQL_DATABASE__CREDENTIALS", demo_shop.url)
    monkeypatch.setenv("SOURCES__SQL_DATABASE__HASH_SALT", "a-long-random-text")
    demo_shop.execute("CREATE TABLE audit_log (happened_at timestamptz, actor text, what text)")
    demo_shop.execute("INSERT INTO audit_log VALUES (now(), 'ann', 'login'), (now(), 'bob', 'login')")
    return demo_shop


def test_the_file_of_the_example_loads_as_it_says(warehouse: Warehouse, shop: Database, read: Read) -> None:
    defs = read((EXAMPLE / "tables.yaml").read_text())
    shop.execute("INSERT INTO products (sku, name, price) VALUES ('gone', 'soon', 1)")
    for _ in range(2):
        assert run(defs, "customers", "products", "audit_log").success
        assert run(defs, "orders", day="2026-01-03").success
        shop.execute("INSERT INTO audit_log VALUES (now(), 'ann', 'logout')")
        shop.execute("DELETE FROM products WHERE sku = 'gone'")

    def count(table: str) -> Any:
        return warehouse.rows(f"SELECT count(*) FROM raw_sql_database.{table}")

    day = "updated_at >= '2026-01-03Z' AND updated_at < '2026-01-04Z'"
    assert count("orders") == shop.execute(f"SELECT count(*) FROM orders WHERE {day}") > [(0,)]
    assert count("customers") == [(5000,)]
    assert count("products") == [(500,)]  # replaced
    assert count("audit_log") == [(3,)]  # appended
    [(hashed, emails)] = warehouse.rows(
        "SELECT count(*), count(DISTINCT email) FROM raw_sql_database.customers WHERE length(email) = 64"
    )
    assert (hashed, emails) == shop.execute("SELECT count(email), count(DISTINCT email) FROM customers")[0]
    columns = warehouse.rows("SELECT column_name FROM information_schema.columns WHERE table_name = 'customers'")
    assert ("email",) in columns
    assert ("phone_numbers",) not in columns


def test_pools_and_schedules_are_those_of_the_file(warehouse: Warehouse, read: Read) -> None:
    defs = read((EXAMPLE / "tables.yaml").read_text())
    pools = {assets.op.name: assets.op.pool for assets in defs.resolve_asset_graph().assets_defs}
    tick = datetime(2026, 3, 2, 0, 23, tzinfo=UTC)
    context = dg.build_schedule_context(scheduled_execution_time=tick, repository_def=defs.get_repository_def())
    [daily], [whole] = (
        defs.resolve_schedule_def(f"sql_database_{table}").evaluate_tick(context).run_requests or []
        for table in ("orders", "customers")
    )

    assert pools["sql_database_customers"] == "slow_tables"
    assert pools["sql_database_orders"] == "sql_database"
    assert daily.partition_key_range == dg.PartitionKeyRange("2026-03-01", "2026-03-02")
    assert whole.partition_key_range is None


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_of_150_tables_one_fails_alone(
    warehouse: Warehouse, database: Database, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All tables are assets; a run of ten shows that nine load."""
    monkeypatch.setenv("SOURCES__SQL_DATABASE__CREDENTIALS", database.url)
    names = [f"t{number:03}" for number in range(150)]
    defs = read("\n".join(f"- name: {name}" for name in names))
    chosen = names[::15]
    for name in chosen:
        key = "" if name == "t075" else "PRIMARY KEY"
        database.execute(f"CREATE TABLE {name} (id int {key}); INSERT INTO {name} SELECT generate_series(1, 3)")
    result = run(defs, *chosen)

    assert {spec.key.path[-1] for spec in defs.resolve_all_asset_specs()} == set(names)
    [failure] = result.get_step_failure_events()
    assert failure.step_key == "sql_database_t075"
    assert "The table t075 has no primary key to merge on" in str(failure.step_failure_data.user_failure_data)
    for name in chosen:
        if name != "t075":
            assert warehouse.rows(f"SELECT count(*) FROM raw_sql_database.{name}") == [(3,)]


RIGHT = "- name: orders\n- name: customers\n  schedule: '0 3 * * *'\n"


@pytest.mark.parametrize(
    ("wrong", "line", "sentence"),
    [
        ("  cursr: updated_at", 4, "cursr: there is no such option"),
        ("  pool: 1", 4, "pool: Input should be a valid string"),
        ("  daily_since: yesterday\n  cursor: updated_at", 4, "daily_since: Input should be a valid date"),
        ("  daily_since: 2026-01-01", 2, "daily_since needs a cursor, and the disposition merge"),
        ("  disposition: append", 2, "append needs a cursor"),
        ("  disposition: replace\n  cursor: updated_at", 2, "replace reads the whole table"),
        ("  schedule: '0 4 * * *'", 2, "customers or one of its options is listed twice"),
        ("- name: orders", 4, "orders or one of its options is listed twice"),
        ("- name: products\n  schedule: at noon", 4, "at noon"),
        ("- key: [id]", 4, "name: Field required"),
        ("- products", 4, "a table is an entry with a name"),
        ("  - name: products", 4, "expected"),
    ],
)
def test_a_wrong_line_is_named(read: Read, wrong: str, line: int, sentence: str) -> None:
    [asset] = read(RIGHT + wrong).resolve_all_asset_specs()

    assert asset.key.path == ["tables", "not_loaded"]
    assert f"tables.yaml, line {line}: " in (asset.description or "")
    assert sentence in (asset.description or "")


@pytest.mark.parametrize("text", ["", "# nothing\n", "tables:\n- name: orders\n"])
def test_a_file_without_a_list_is_refused(read: Read, text: str) -> None:
    [asset] = read(text).resolve_all_asset_specs()

    assert "tables.yaml, line 1: a table is an entry with a name" in (asset.description or "")


def test_a_column_that_does_not_exist_fails_the_load(warehouse: Warehouse, shop: Database, read: Read) -> None:
    result = run(read("- name: customers\n  hash: [emial]"))

    [failure] = result.get_step_failure_events()
    assert "The table customers has no column emial" in str(failure.step_failure_data.user_failure_data)
    assert warehouse.datasets() == set()


@pytest.fixture(autouse=True)
def _unloaded() -> Iterator[None]:
    yield
    for name in [name for name in sys.modules if name.startswith("tables_")]:
        del sys.modules[name]
