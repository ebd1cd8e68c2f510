"""MySQL through `sqlalchemy`: a MariaDB server with the character set latin1, which cuts and compares most."""

import getpass
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import dlt
import pyarrow as pa
import pytest
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType
from sqlalchemy import URL, create_engine
from tenacity import Retrying, stop_after_delay, wait_fixed

from runtime.load.checks import primary_key_checks
from runtime.load.resource import IsolatedDltResource
from runtime.load.warehouse import warehouse_pipeline
from tests.support.tallies import GOODS, SHOPS, load_at_once

# dlt's merge warns with SQLAlchemy 2.1, and dlt leaves connections to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.timeout(400),
]

PATH = f"{os.environ['PATH']}:/usr/sbin"
BERLIN = datetime(2026, 7, 1, 12, 0, 0, 123456, ZoneInfo("Europe/Berlin"))


@pytest.fixture(scope="session")
def server() -> Iterator[Path]:
    """The socket of a running server. Its folder has a short name, because a socket's path is limited."""
    if not (program := shutil.which("mariadbd", path=PATH)):
        pytest.skip("mariadbd is not installed: apt-get install mariadb-server")
    with tempfile.TemporaryDirectory() as folder:
        data, socket = Path(folder, "data"), Path(folder, "s")
        options = ["--no-defaults", f"--user={getpass.getuser()}", f"--datadir={data}"]
        subprocess.run(
            [shutil.which("mariadb-install-db", path=PATH) or "", *options, "--skip-test-db"],
            check=True,
            capture_output=True,
            timeout=100,
        )
        settings = [f"--socket={socket}", "--skip-networking", "--skip-grant-tables", "--character-set-server=latin1"]
        with subprocess.Popen([program, *options, *settings], stderr=subprocess.DEVNULL) as running:
            try:
                for attempt in Retrying(stop=stop_after_delay(60), wait=wait_fixed(0.1), reraise=True):
                    with attempt:
                        query(socket, "SELECT 1")
                yield socket
            finally:
                running.terminate()


def url(socket: Path) -> URL:
    return URL.create("mysql+pymysql", "root", "-", "localhost", None, "mysql", {"unix_socket": str(socket)})


def query(socket: Path, sql: str) -> list[tuple[Any, ...]]:
    engine = create_engine(url(socket), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        result = connection.exec_driver_sql(sql)
        rows = [tuple(row) for row in result] if result.returns_rows else []
    engine.dispose()
    return rows


@pytest.fixture
def mysql(server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The server without datasets, as the warehouse."""
    monkeypatch.setenv("WAREHOUSE", "sqlalchemy")
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    monkeypatch.setenv("DESTINATION__SQLALCHEMY__CREDENTIALS", url(server).render_as_string(hide_password=False))
    yield server
    for dataset in datasets(server):
        query(server, f"DROP DATABASE {dataset}")
    query(server, "SET GLOBAL sql_mode = DEFAULT")


def datasets(socket: Path) -> list[str]:
    return [name for (name,) in query(socket, "SHOW DATABASES LIKE 'raw%%'")]


def load(data: Any, merge: bool = True, columns: Any = None) -> dg.ExecuteInProcessResult:
    """Loads, counts and checks the table `things`."""
    hints: Any = {"write_disposition": "merge", "primary_key": "id"} if merge else {"write_disposition": "append"}

    @dlt.source(name="things", section="things")
    def things() -> Any:
        return dlt.resource(data, name="things", columns=columns, **hints)

    @dlt_assets(dlt_source=things(), dlt_pipeline=warehouse_pipeline("things", "raw_things"), name="things")
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        yield from dlt.run(context=context).fetch_row_count()

    checks = [primary_key_checks(assets)] if merge else []
    resources = {"dlt": IsolatedDltResource()}
    return dg.materialize([assets, *checks], resources=resources, raise_on_error=False)


def refusal(result: dg.ExecuteInProcessResult) -> str:
    [event] = result.get_step_failure_events()
    assert event.step_failure_data.error
    return event.step_failure_data.error.message


ROW = {
    "id": "1",
    "exact": Decimal("12345678901234567890.123456789"),
    "at": BERLIN,
    "text_at": BERLIN.isoformat(),
    "clock": time(1, 2, 3, 456789),
    "day": date(2026, 1, 2),
    "sign": "😀 é :name 100% %s \\ ' \" \n \0",
    "empty": "",
    "long": "é" * 70_000,
    "big": 2**63 - 1,
    "low": -(2**63),
    "huge": 2**90,
    "fraction": 0.1,
    "tiny": 1e-320,
    "flag": True,
    "bytes": bytes(range(256)) * 300,
    "json": {"a": [1, {"b": None, "c": "😀"}]},
}
STORED = ROW | {"at": BERLIN.astimezone(UTC).replace(tzinfo=None), "clock": timedelta(0, 3723, 456789), "flag": 1}
STORED |= {"text_at": STORED["at"]}


def count(socket: Path, table: str) -> int:
    [(rows,)] = query(socket, f"SELECT count(*) FROM raw_tallies.{table}")
    return int(rows)


def test_values_reach_mysql_as_they_are(mysql: Path) -> None:
    for _ in range(2):
        result = load([ROW], columns={"json": {"data_type": "json"}})
        assert result.success
        assert [check.passed for check in result.get_asset_check_evaluations()] == [True]

    names = ", ".join(f"`{name}`" for name in STORED)
    [row] = query(mysql, f"SELECT {names} FROM raw_things.things")
    found = dict(zip(STORED, row, strict=True))
    found["json"] = json.loads(found["json"])
    assert found == STORED
    metadata = result.get_asset_materialization_events()[0].materialization.metadata
    assert (metadata["dagster/row_count"].value, metadata["dagster/table_name"].value) == (1, "raw_things.things")
    assert datasets(mysql) == ["raw_things"]


def test_arrow_tables_reach_mysql_as_they_are(mysql: Path) -> None:
    table = pa.table(
        {
            "id": pa.array([1]),
            "at": pa.array([BERLIN], pa.timestamp("us", "Europe/Berlin")),
            "clock": pa.array([time(1, 2, 3, 456789)]),
            "exact": pa.array([Decimal("1.123456789012")]),
            "unsigned": pa.array([2**64 - 1], pa.uint64()),
            "sign": pa.array(["😀"]),
            "bytes": pa.array([bytes(range(256))]),
        }
    )
    assert load(table, merge=False).success

    assert query(mysql, "SELECT at, clock, exact, `unsigned`, sign, `bytes` FROM raw_things.things") == [
        (STORED["at"], STORED["clock"], Decimal("1.123456789012"), Decimal(2**64 - 1), "😀", bytes(range(256)))
    ]


def test_keys_that_mysql_would_take_for_one_are_several(mysql: Path) -> None:
    keys = ["a", "A", "á", "ß", "ss"]
    assert load([{"id": key, "parts": [1, 2]} for key in keys]).success
    assert load([{"id": "a", "parts": [3]}]).success

    assert sorted(query(mysql, "SELECT id FROM raw_things.things")) == sorted((key,) for key in keys)
    assert query(mysql, "SELECT count(*), max(value) FROM raw_things.things__parts") == [(9, 3)]


def test_partitions_that_load_into_mysql_at_once_lose_nothing(mysql: Path) -> None:
    goods = len(SHOPS) * GOODS
    for number in (1, 2):
        load_at_once()

        tables = {"goods": goods, "goods__labels": goods * 2, "sales": goods * number}
        assert {table: count(mysql, table) for table in tables} == tables
        assert query(mysql, "SELECT count(DISTINCT shop, id) FROM raw_tallies.goods") == [(goods,)]
        assert datasets(mysql) == ["raw_tallies"]


def test_a_server_that_cuts_values_is_refused(mysql: Path) -> None:
    query(mysql, "SET GLOBAL sql_mode = ''")

    assert "cuts values that do not fit into their columns" in refusal(load([ROW]))
    assert datasets(mysql) == []


def test_a_table_in_which_keys_would_be_equal_is_refused(mysql: Path) -> None:
    assert load([{"id": "a"}]).success
    query(mysql, "ALTER TABLE raw_things.things CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci")

    assert "things, column id: in its collation utf8mb4_general_ci" in refusal(load([{"id": "A"}]))
    assert query(mysql, "SELECT id FROM raw_things.things") == [("a",)]


def test_a_number_that_mysql_would_round_is_refused(mysql: Path) -> None:
    assert load([{"id": "a", "exact": Decimal("1.5")}]).success

    assert "things, column exact: the source sends decimal(38, 12), which the column's type decimal(38, 9)" in refusal(
        load([{"id": "b", "exact": Decimal("1.123456789012")}])
    )
    assert query(mysql, "SELECT id FROM raw_things.things") == [("a",)]
