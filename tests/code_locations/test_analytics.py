"""The analytics location: what its models say of the loaded rows, on DuckDB and on Postgres."""

import fcntl
import shutil
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import dagster as dg
import dlt
import duckdb
import psycopg2
import pytest
import yaml
from dagster_dbt import DbtCliResource
from dlt.common.destination import Destination

from code_locations.analytics import prepare
from tests.support.database import Database
from tests.support.location import Location
from tests.support.stack import wait_for

DBT = str(Path(sys.executable).with_name("dbt"))
PROJECT = str(Path(__file__).parents[2] / "code_locations/analytics/dbt_project")
START, END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
DAYS = {START: "2026-01-01", END: "2026-01-31"}


def at(day: int, hour: int = 12) -> datetime:
    return datetime(2026, 1, day, hour, tzinfo=UTC)


def issue(number: int, opened: int, closed: int | None = None, **others: Any) -> dict[str, Any]:
    return {
        "repository_owner": "acme",
        "repository_name": "app",
        "number": number,
        "title": f"Issue {number}",
        "state": "CLOSED" if closed else "OPEN",
        "author__login": "ada",
        "created_at": at(opened),
        "closed_at": at(closed) if closed else None,
        **others,
    }


def transaction(id: str, amount: int, currency: str, category: str = "charge", fee: int = 0) -> dict[str, Any]:
    return {
        "id": id,
        "reporting_category": category,
        "currency": currency,
        "amount": amount,
        "fee": fee,
        "net": amount - fee,
        "created": at(5, 23),
    }


def order(id: int, total: str, updated: int, **others: Any) -> dict[str, Any]:
    return {
        "id": id,
        "customer_id": 1,
        "status": "placed",
        "total": Decimal(total),
        "exchange_rate": Decimal("0.5"),
        "placed_at": at(5),
        "updated_at": at(updated),
        **others,
    }


def item(order: int, line: int, quantity: int) -> dict[str, Any]:
    return {
        "order_id": order,
        "line": line,
        "product_id": 1,
        "quantity": quantity,
        "unit_price": Decimal("2.50"),
        "updated_at": at(5),
    }


RAW: dict[str, dict[str, list[dict[str, Any]]]] = {
    "github": {
        "issues": [issue(1, 5), issue(2, 5, closed=13), issue(3, 12)],
        "pull_requests": [
            issue(4, 5, closed=6, comments=[{"author__login": "ada", "created_at": at(5, 13)},
                                            {"author__login": "bob", "created_at": at(5, 16)}]),
            issue(5, 5),
        ],
    },
    "stripe": {
        "balance_transaction": [
            transaction("a", 1050, "usd", fee=50),
            transaction("b", -50, "usd", "refund"),
            transaction("c", -900, "usd", "payout"),
            transaction("d", 500, "jpy"),
        ],
        "customer": [{"id": "cus_1", "email": "Ada@example.com", "name": "Ada", "created": at(3)}],
    },
    "stripe_eu": {
        "balance_transaction": [transaction("e", 200, "eur")],
        "customer": [{"id": "cus_2", "email": "ada@example.com", "name": "Ada", "created": at(2)}],
    },
    "hubspot": {
        "contacts": [
            {"id": "1", "email": "bob@example.com", "lifecyclestage": "lead", "createdate": at(1), "is_deleted": False},
            {"id": "2", "email": "eve@example.com", "lifecyclestage": "lead", "createdate": at(1), "is_deleted": True},
        ]
    },
    "thinkific": {
        "courses": [{"id": 1, "name": "Typography"}, {"id": 2, "name": "Baking"}],
        "enrollments": [
            {"id": 1, "course_id": 1, "user_id": 1, "percentage_completed": 1.0, "is_free_trial": False,
             "started_at": at(1), "completed_at": at(6)},
            {"id": 2, "course_id": 1, "user_id": 2, "percentage_completed": 0.5, "is_free_trial": False,
             "started_at": at(1), "completed_at": None},
            {"id": 3, "course_id": 1, "user_id": 3, "percentage_completed": 0.0, "is_free_trial": True,
             "started_at": None, "completed_at": None},
        ],
    },
    "filesystem": {"deliveries": [{"id": "1", "city": "Köln", "delivered_at": "2026-01-05T23:30:00+00:00"}]},
    "sql_database": {
        "customers": [{"id": 1, "email": "ada@example.com", "name": "Ada"}],
        "orders": [order(1, "10.00", 5), order(2, "30.00", 6, deleted_at=None)],
        "order_items": [item(1, 1, 3), item(1, 2, 1), item(2, 1, 1)],
    },
}  # fmt: skip
KEYS = {"issues": ("repository_name", "number"), "pull_requests": ("repository_name", "number"),
        "order_items": ("order_id", "line")}  # fmt: skip


class Warehouse:
    """A warehouse with loaded tables, and the location that reads it."""

    def __init__(self, name: str, url: str, folder: Path) -> None:
        self.name, self.url = name, url
        credentials = f"DESTINATION__{name.upper()}__CREDENTIALS"
        self.location = Location("analytics", "marts", folder, WAREHOUSE=name, **{credentials: url})
        self.location.environment["PYTHONPATH"] = str(Path(__file__).parents[2])

    def load(self, source: str, **tables: list[dict[str, Any]]) -> None:
        pipeline = dlt.pipeline(
            f"{source}_{self.name}",
            pipelines_dir=str(self.location.folder / "pipelines"),
            destination=Destination.from_reference(self.name, credentials=self.url),
            dataset_name=f"raw_{source}",
        )
        resources = [
            dlt.resource(rows, name=name, primary_key=KEYS.get(name, "id"), write_disposition="merge")
            for name, rows in tables.items()
        ]
        pipeline.run(resources)

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        if self.name == "duckdb":
            with duckdb.connect(self.url) as file:
                file.execute("SET timezone = 'UTC'")
                return file.execute(statement).fetchall()
        with psycopg2.connect(self.url) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    def dbt(self, *arguments: str) -> None:
        """dbt alone, as an analyst runs it."""
        where = {"DBT_DATABASE": self.url}
        if self.name == "postgres":
            url = urlsplit(self.url)
            host = parse_qs(url.query)["host"][0]
            where = {"DBT_HOST": host, "DBT_USER": str(url.username), "DBT_DATABASE": url.path.strip("/")}
        folder = self.location.folder
        done = subprocess.run(
            [DBT, *arguments, "--target", self.name, "--project-dir", PROJECT, "--profiles-dir", PROJECT],
            env={"PATH": "/usr/bin:/bin", "HOME": str(folder), **where}
            | {"DBT_TARGET_PATH": str(folder / "dbt"), "DBT_LOG_PATH": str(folder / "dbt")},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stdout

    def build(self, *assets: str, days: dict[str, str] | None = None) -> dict[str, Any]:
        """A run of Dagster."""
        [report] = self.location.run(
            {"assets": [name.split("/") for name in assets], "tags": days or {}, "config": {}},
        )
        return report


@pytest.fixture
def kind() -> str:
    return "duckdb"


@pytest.fixture
def warehouse(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> Warehouse:
    url = str(tmp_path / "facts.duckdb")  # not `warehouse`: the manifest names that database
    if kind == "postgres":
        database: Database = request.getfixturevalue("database")
        url = database.url.replace(":@/", ":unused@localhost/")  # dlt demands both, and the socket needs none
    loaded = Warehouse(kind, url, tmp_path)
    for source, tables in RAW.items():
        loaded.load(source, **tables)
    return loaded


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["duckdb", pytest.param("postgres", marks=pytest.mark.slow)])
def test_marts_say_what_the_sources_have(warehouse: Warehouse) -> None:
    warehouse.dbt("build")
    rows = warehouse.sql

    monday, next_monday = date(2026, 1, 5), date(2026, 1, 12)
    assert rows("SELECT * FROM marts.issues_per_week ORDER BY week") == [
        ("acme/app", monday, 2, 0),
        ("acme/app", next_monday, 1, 1),
    ]
    assert rows("SELECT * FROM marts.reviews_per_week") == [("acme/app", monday, 2, 1, 4.0, 24.0)]
    assert rows(
        "SELECT account, currency, day, charged, refunded, fees, net FROM marts.revenue_per_day ORDER BY 2"
    ) == [
        ("stripe_eu", "eur", monday, 2, 0, 0, 2),
        ("stripe", "jpy", monday, 500, 0, 0, 500),
        ("stripe", "usd", monday, Decimal("10.5"), Decimal("0.5"), Decimal("0.5"), Decimal("9.5")),
    ]
    assert rows("SELECT order_id, euros, lines, pieces FROM marts.orders ORDER BY 1") == [(1, 5, 2, 4), (2, 15, 1, 1)]
    assert rows("SELECT * FROM marts.deliveries_per_day") == [(monday, 2, 1)]
    assert rows("SELECT * FROM marts.course_progress ORDER BY 1") == [
        (1, "Typography", 2, 2, 1, 75.0),
        (2, "Baking", 0, 0, 0, None),
    ]
    assert rows("SELECT email, in_shop, in_stripe, in_hubspot, orders FROM marts.customers ORDER BY 1") == [
        ("ada@example.com", True, True, False, 2),
        ("bob@example.com", False, False, True, 0),
    ]
    before = rows("SELECT * FROM marts.weekly_summary ORDER BY week, figure")
    warehouse.dbt("build")
    assert rows("SELECT * FROM marts.weekly_summary ORDER BY week, figure") == before


@pytest.mark.timeout(300)
def test_orders_follow_the_days_on_which_they_change(warehouse: Warehouse) -> None:
    warehouse.dbt("run", "--select", "orders")
    warehouse.load(
        "sql_database", orders=[order(1, "12.00", 20, status="paid"), order(3, "4.00", 20), order(4, "2.00", 6)]
    )
    warehouse.load("sql_database", order_items=[item(4, 1, 9) | {"updated_at": at(20)}])  # a line, not its order
    warehouse.sql("DELETE FROM raw_sql_database.orders WHERE id = 2")
    report = warehouse.build("marts/orders", days={"dagster/partition": "2026-01-20"})

    assert report["success"], report["failures"]
    assert set(report["checks"].values()) == {True}
    orders = "SELECT order_id, status, euros, pieces FROM marts.orders ORDER BY 1"
    assert warehouse.sql(orders) == [(1, "paid", 6, 4), (3, "placed", 2, 0), (4, "placed", 1, 9)]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_rows_of_an_incomplete_load_do_not_count_and_a_nested_table_may_be_missing(warehouse: Warehouse) -> None:
    warehouse.load("github", issues=[issue(9, 5)])
    newest = "(SELECT max(inserted_at) FROM raw_github._dlt_loads)"
    warehouse.sql(f"DELETE FROM raw_github._dlt_loads WHERE inserted_at = {newest}")
    warehouse.sql("DROP TABLE raw_github.pull_requests__comments")  # dlt creates it with the first comment
    warehouse.dbt("run", "--select", "stg_github__issues", "stg_github__pull_requests", "reviews_per_week")

    assert warehouse.sql("SELECT number FROM staging.stg_github__issues ORDER BY 1") == [(1,), (2,), (3,)]
    assert warehouse.sql("SELECT reviewed, median_hours_to_review FROM marts.reviews_per_week") == [(0, None)]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_team_that_leaves_out_personal_data_has_its_marts(warehouse: Warehouse) -> None:
    warehouse.sql("ALTER TABLE raw_hubspot.contacts DROP COLUMN email")
    for table in ("raw_sql_database.customers", "raw_stripe_eu.customer"):
        warehouse.sql(f"ALTER TABLE {table} DROP COLUMN name")
    warehouse.dbt("build", "--select", "+customers")

    assert warehouse.sql("SELECT contact_id, email FROM staging.stg_hubspot__contacts") == [("1", None)]
    assert warehouse.sql("SELECT email, in_shop, in_stripe, in_hubspot FROM marts.customers") == [
        ("ada@example.com", True, True, False)
    ]


@pytest.mark.timeout(300)
def test_a_failed_model_or_test_is_the_first_line_of_the_failure(warehouse: Warehouse) -> None:
    warehouse.sql("UPDATE raw_sql_database.orders SET status = 'lost' WHERE id = 1")
    report = warehouse.build("marts/orders", days=DAYS)

    assert not report["success"]
    assert [name for name, passed in report["checks"].items() if not passed] == [
        "marts/orders.accepted_values_orders_status__placed__paid__shipped__returned"
    ]
    assert "accepted_values_orders_status__placed__paid__shipped__returned: Got 1 result" in report["failures"][0]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["postgres"])
def test_a_test_of_two_models_waits_for_the_second(warehouse: Warehouse) -> None:
    report = warehouse.build("staging/stg_thinkific__courses", "staging/stg_stripe__balance_transactions")
    assert report["success"], report["failures"]

    report = warehouse.build("staging/stg_thinkific__courses", "staging/stg_thinkific__enrollments")
    assert report["success"], report["failures"]
    relationships = [passed for name, passed in report["checks"].items() if "relationships" in name]
    assert relationships == [True]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["postgres"])
def test_a_source_that_is_missing_is_named_and_the_report_shows_what_is_there(warehouse: Warehouse) -> None:
    warehouse.dbt("run")
    warehouse.sql("DROP TABLE raw_filesystem.deliveries CASCADE")
    report = warehouse.build("staging/stg_filesystem__deliveries", "reports/weekly_summary")

    assert "stg_filesystem__deliveries: " in report["failures"][0].splitlines()[0]
    assert "raw_filesystem.deliveries" in report["failures"][0].splitlines()[0]
    page = (warehouse.location.folder / "data/reports/weekly_summary.html").read_text()
    assert "stripe net USD" in page
    assert "<svg" in page


@pytest.mark.timeout(300)
def test_dbt_waits_for_its_turn_at_the_duckdb_file_and_gives_it_back(tmp_path: Path) -> None:
    warehouse = Warehouse("duckdb", str(tmp_path / "facts.duckdb"), tmp_path)
    warehouse.load("github", **RAW["github"])
    held = (tmp_path / "facts.duckdb.lock").open("a")
    fcntl.flock(held, fcntl.LOCK_EX)
    connection = duckdb.connect(warehouse.url)  # as a load does in its turn
    build_and_open = (
        "from code_locations.analytics import marts\n"
        "import dagster as dg, subprocess, sys\n"
        "job = dg.Definitions.merge(marts.defs).resolve_implicit_global_asset_job_def()\n"
        "job.execute_in_process(asset_selection=[dg.AssetKey(['staging', 'stg_github__issues'])])\n"
        f"open_it = 'import duckdb; duckdb.connect(\"{warehouse.url}\")'\n"
        "sys.exit(subprocess.run([sys.executable, '-c', open_it]).returncode)\n"
    )
    output, location = tmp_path / "output", warehouse.location
    command = [sys.executable, "-c", build_and_open]
    with (
        output.open("w") as file,
        subprocess.Popen(command, cwd=location.folder, env=location.environment, stdout=file, stderr=file) as process,
    ):
        waiting = "Waiting: another run is using facts.duckdb."
        wait_for(lambda: waiting in output.read_text() or process.poll() is not None, 200, "dbt to wait for its turn")
        connection.close()
        held.close()

    assert process.returncode == 0, output.read_text()[-2000:]
    assert waiting in output.read_text()


def test_every_column_of_the_models_is_described() -> None:
    """An unquoted comma ends a description in YAML, and makes a property of the rest of it."""
    for file in (prepare.PROJECT / "models").rglob("_*.yml"):
        for model in yaml.safe_load(file.read_text()).get("models", ()):
            [sql] = (prepare.PROJECT / "models").rglob(f"{model['name']}.sql")
            assert {"description", "columns"} <= model.keys(), sql
            for column in model["columns"]:
                assert {"name", "description"} <= column.keys() <= {"name", "description", "data_tests"}, model["name"]


def test_what_dbt_writes_does_not_make_another_project_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = tmp_path / "dbt_project"
    shutil.copytree(prepare.PROJECT, copied, ignore=shutil.ignore_patterns("target", "logs"))
    monkeypatch.setattr(prepare, "PROJECT", copied)
    parsed: list[Path] = []
    monkeypatch.setattr(prepare, "_parse", lambda target, folder: parsed.append(folder))

    for path, text in {"logs/dbt.log": "12:00 Running", "target/run_results.json": "{}"}.items():
        prepare.prepared_project("duckdb")
        (copied / path).parent.mkdir(exist_ok=True)
        (copied / path).write_text(text)
        prepare.prepared_project("duckdb")
    (copied / "models" / "new.sql").write_text("select 1 as one")
    prepare.prepared_project("duckdb")

    assert [folder == parsed[0] for folder in parsed] == [True, True, True, True, False]


def test_dbt_has_the_version_that_it_says_itself() -> None:
    project = prepare.prepared_project("duckdb")
    stock = DbtCliResource(project_dir=project, dbt_executable=prepare.DBT)

    assert prepare.dbt_resource(project)._cli_version == stock._cli_version


def test_a_warehouse_that_dbt_has_no_target_for_is_named(tmp_path: Path) -> None:
    location = Location("analytics", "marts", tmp_path, WAREHOUSE="filesystem")
    done = location.definitions()

    assert (
        "WAREHOUSE='filesystem' has no target in dbt's profiles.yml. It has duckdb, postgres, snowflake." in done.stderr
    )


@pytest.mark.slow
def test_snowflake_models_compile_to_its_own_functions(tmp_path: Path) -> None:
    command = [DBT, "compile", "--target", "snowflake", "--no-introspect",
               "--no-populate-cache", "--select", "reviews_per_week", "--quiet"]  # fmt: skip
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "DBT_TARGET_PATH": str(tmp_path),
                   "DBT_LOG_PATH": str(tmp_path)}  # fmt: skip
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=100)

    assert done.returncode == 0, done.stdout
    compiled = (tmp_path / "compiled/analytics/models/marts/reviews_per_week.sql").read_text()
    assert "convert_timezone('UTC', created_at)" in compiled
    assert "datediff('millisecond', created_at, first_review_at)" in compiled


def requested(result: Any) -> set[str]:
    return {
        result_of.key.to_user_string()
        for result_of in result.results
        if not result_of.true_subset.is_empty and not isinstance(result_of.key, dg.AssetCheckKey)
    }


@pytest.mark.filterwarnings("ignore:Parameter `include_sources`")  # Dagster's own evaluation of conditions
def test_a_model_is_built_when_a_source_changes_and_waits_for_one_that_has_never_been_loaded() -> None:
    from code_locations.analytics.marts import follows_sources

    days = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-05")
    orders = dg.AssetSpec("orders", partitions_def=days)
    customers = dg.AssetSpec("customers")
    items = dg.AssetSpec("items", partitions_def=days)

    @dg.asset(deps=[orders, customers], automation_condition=follows_sources)
    def mart() -> None: ...

    @dg.asset(deps=[orders, items], automation_condition=follows_sources, partitions_def=days)
    def daily_mart() -> None: ...

    defs = dg.Definitions(assets=[orders, customers, items, mart, daily_mart])
    instance = dg.DagsterInstance.ephemeral()

    def evaluate(cursor: Any = None) -> Any:
        return dg.evaluate_automation_conditions(defs, instance, cursor=cursor)

    def load(key: str, partition: str | None = None) -> None:
        instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition))

    result = evaluate()
    assert result.total_requested == 0
    load("orders", "2026-01-02")
    result = evaluate(result.cursor)
    assert result.total_requested == 0  # `customers` and the day's items are missing
    load("customers")
    result = evaluate(result.cursor)
    assert requested(result) == {"mart"}  # although most days of `orders` are missing
    load("items", "2026-01-02")
    result = evaluate(result.cursor)
    assert requested(result) == {"daily_mart"}
    assert result.get_requested_partitions(dg.AssetKey("daily_mart")) == {"2026-01-02"}
    assert evaluate(result.cursor).total_requested == 0


def test_the_report_has_all_sources_upstream() -> None:
    from code_locations.analytics.definitions import defs

    graph = defs.resolve_asset_graph()
    found, new = set[dg.AssetKey](), {dg.AssetKey(["reports", "weekly_summary"])}
    while new:
        found |= new
        new = {parent for key in new for parent in graph.get(key).parent_keys} - found
    assert {key.path[0] for key in found} == {*RAW, "staging", "marts", "reports"}
