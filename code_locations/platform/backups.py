"""Backups of Dagster's database and of the warehouse. Each is restored and compared before it counts.

`python -m code_locations.platform.backups` makes one without a run.
"""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import dlt
import duckdb
import psycopg2
from dagster_postgres import PostgresEventLogStorage
from psycopg2 import sql
from psycopg2.errors import LockNotAvailable, UndefinedTable
from psycopg2.extensions import make_dsn, parse_dsn
from sqlalchemy import make_url
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from code_locations.platform.backup_store import BackupFailed, store
from runtime.load.directories import data_directory
from runtime.load.locks import destination_client, duckdb_file_lock, interprocess_lock
from runtime.load.retries import disable_run_retries
from runtime.load.warehouse import warehouse_name, warehouse_pipeline

LOCK_SECONDS = 5  # a load may wait so long for a dump that waits for it, too
GIVE_WAY_SECONDS = 600  # in which such a dump starts again
STAGING = f"*_staging_{'[a-z2-7]' * 29}"  # of a run (runtime/load/sweep.py): dropped when the load ends
ROW_COUNTS = (Path(__file__).parent / "row_counts.sql").read_text()

Counts = dict[str, int]


@dataclass
class Dump:
    """A file of a backup, and the rows by table that it was verified to have."""

    file: str
    bytes: int
    rows: Counts


class TablesInUse(BackupFailed):
    """Loads change tables that are to be dumped."""


def keep() -> int:
    """The number of backups that stay, from BACKUP_KEEP."""
    value = os.environ.get("BACKUP_KEEP", "").strip() or "7"
    if not value.isdecimal() or int(value) < 1:
        raise BackupFailed(f"BACKUP_KEEP={value!r} must be a number of backups, such as 7.")
    return int(value)


def dump_postgres(url: str, file: Path) -> Dump:
    """Dumps a database, restores the dump beside it, compares the rows of every table, and drops the copy.

    A load that is about to empty, change or drop a table waits for a dump that has read it. If the dump waits for the
    load, too, the dump gives way and starts again.

    Raises:
        BackupFailed: the dump or the restore failed, or the copy has other rows.
    """
    again = Retrying(
        retry=retry_if_exception_type(TablesInUse),
        wait=wait_fixed(LOCK_SECONDS),
        stop=stop_after_delay(GIVE_WAY_SECONDS),
        reraise=True,
    )
    database, expected = again(_dump_snapshot, url, file)
    with scratch_database(url, database) as copy:
        postgres_program("pg_restore", copy, "--exit-on-error", "--no-owner", "--no-privileges", str(file))
        with closing(psycopg2.connect(copy)) as restored, restored.cursor() as cursor:
            found = row_counts(cursor)
    demand_same(database, expected, found)
    return Dump(file.name, file.stat().st_size, expected)


def _dump_snapshot(url: str, file: Path) -> tuple[str, Counts]:
    """Dumps a database. Returns its name and its rows, counted in the same snapshot: loads may go on meanwhile."""
    with closing(psycopg2.connect(url)) as source:
        source.set_session(isolation_level="REPEATABLE READ", readonly=True)
        with source.cursor() as cursor:
            cursor.execute("SET lock_timeout = %s", [f"{LOCK_SECONDS}s"])
            cursor.execute("SELECT pg_export_snapshot(), current_database()")
            snapshot, database = cursor.fetchone()
            try:
                expected = row_counts(cursor)  # from here on, no load can empty a table that the dump is to have
            except (LockNotAvailable, UndefinedTable) as error:
                raise TablesInUse(f"{database} cannot be dumped, because loads change its tables: {error}") from error
        options = ["--format=custom", "--no-owner", "--no-privileges", f"--exclude-schema={STAGING}"]
        options += [f"--snapshot={snapshot}", f"--lock-wait-timeout={LOCK_SECONDS}s", f"--file={file}"]
        try:
            postgres_program("pg_dump", url, *options)
        except BackupFailed as error:
            if "due to statement timeout" in str(error):  # by which pg_dump limits its wait for locks
                raise TablesInUse(str(error)) from error
            raise
    return database, expected


def row_counts(cursor: Any) -> Counts:
    """The number of rows of every table in a Postgres database."""
    counts: Counts = {}
    cursor.execute(ROW_COUNTS)
    for (statement,) in cursor.fetchall():
        cursor.execute(statement)
        counts |= dict(cursor.fetchall())
    return counts


def demand_same(database: str, expected: Counts, found: Counts) -> None:
    """Raises BackupFailed with the first tables whose rows differ."""
    tables = sorted(table for table in {*expected, *found} if expected.get(table) != found.get(table))
    if tables:
        different = ", ".join(
            f"{table} has {found.get(table, 'no table')} instead of {expected.get(table, 'no table')}"
            for table in tables[:3]
        )
        raise BackupFailed(
            f"The backup of {database} was restored and has other rows: {different}"
            f"{f', and {len(tables) - 3} more tables' if len(tables) > 3 else ''}. Earlier backups stay."
        )


@contextmanager
def scratch_database(url: str, database: str) -> Iterator[str]:
    """A new database on the same server, which is dropped at the end. Drops those that killed runs left, too."""
    prefix = f"{database[:40]}_verify_"
    name = f"{prefix}{uuid4().hex[:12]}"
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True

        def drop(database: str) -> None:
            cursor.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))

        cursor.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", [prefix])
        for (left,) in cursor.fetchall():
            drop(left)
        try:
            cursor.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        except psycopg2.errors.InsufficientPrivilege as error:
            raise BackupFailed(
                f"The backup of {database} cannot be verified: its user may not create a database. "
                "Grant it: ALTER ROLE … CREATEDB."
            ) from error
    try:
        yield make_dsn(**{**parse_dsn(url), "dbname": name})
    finally:
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            drop(name)


def postgres_program(program: str, url: str, *arguments: str) -> None:
    """Runs pg_dump or pg_restore. The password is not in its arguments, which every process can see."""
    parts = parse_dsn(url)
    environment = os.environ | {"PGPASSWORD": parts.pop("password", "")}
    command = [program, "--dbname", make_dsn(**parts), *arguments]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError:
        raise BackupFailed(f"{program} is not installed. The image of this location has it.") from None
    if done.returncode:
        raise BackupFailed(f"{program} failed for {parts['dbname']}: {' '.join(done.stderr.split())[:500]}")


def copy_duckdb(pipeline: dlt.Pipeline, file: Path, log: Any) -> Dump:
    """Copies the file while no load has it open, and compares the rows of every table."""
    credentials: Any = destination_client(pipeline).config.credentials
    original = Path(credentials.database)
    if not original.exists():
        raise BackupFailed(f"{original} does not exist yet: load something first.")
    with duckdb_file_lock(pipeline, log):
        with duckdb.connect(str(original)) as connection:
            connection.execute("CHECKPOINT")
            expected = duckdb_counts(connection)
        shutil.copyfile(original, file)
    with duckdb.connect(str(file), read_only=True) as connection:
        demand_same(original.name, expected, duckdb_counts(connection))
    return Dump(file.name, file.stat().st_size, expected)


def duckdb_counts(connection: Any) -> Counts:
    names = connection.execute(
        "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE'"
    ).fetchall()
    quoted = [".".join('"{}"'.format(part.replace('"', '""')) for part in name) for name in names]
    return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in quoted}


def dagster_url(instance: dg.DagsterInstance) -> str | None:
    """libpq's URL of Dagster's database. None if it is SQLite."""
    storage = instance.event_log_storage
    if not isinstance(storage, PostgresEventLogStorage):
        return None
    return make_url(storage.postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)


def dump_all(instance: dg.DagsterInstance, url: str, folder: Path, log: Any) -> dict[str, Dump]:
    """Dumps Dagster's database, and the warehouse if it is Postgres or a DuckDB file."""
    dumps = {"dagster": dump_postgres(url, folder / "dagster.dump")}
    pipeline = warehouse_pipeline("platform", "raw_dagster")
    if warehouse_name() == "postgres":
        credentials: Any = destination_client(pipeline).config.credentials
        warehouse_url = credentials.to_native_representation()
        dumps["warehouse"] = dump_postgres(warehouse_url, folder / "warehouse.dump")
    elif warehouse_name() == "duckdb":
        dumps["warehouse"] = copy_duckdb(pipeline, folder / "warehouse.duckdb", log)
    else:
        log(f"{warehouse_name()} is not backed up: use its own means.")
    return dumps


def put_backup(instance: dg.DagsterInstance, url: str, log: Any) -> tuple[str, dict[str, Dump], list[str]]:
    """Stores a verified backup and deletes old ones. Returns its name, its dumps and the names of the deleted ones.

    Raises:
        BackupFailed: a dump failed or differs, or BACKUP_URL or BACKUP_KEEP is wrong. Earlier backups stay.
    """
    place, kept, started = store(), keep(), time.monotonic()
    with (
        interprocess_lock(data_directory("locks") / "backups.lock", "another backup is under way", log),
        tempfile.TemporaryDirectory(dir=data_directory("backups")) as temporary,
    ):
        name = f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}"
        dumps = dump_all(instance, url, Path(temporary), log)
        manifest = {
            "verified": True,
            "seconds": time.monotonic() - started,
            "dumps": {key: asdict(dump) for key, dump in dumps.items()},
        }
        place.put(name, Path(temporary), manifest)
        return name, dumps, place.delete_old(kept)


@dg.asset(
    key=["platform", "backup"],
    group_name="platform",
    owners=["team:platform"],
    kinds={"postgres"},
    freshness_policy=dg.FreshnessPolicy.time_window(timedelta(hours=26)),
    description="A backup of Dagster's database and of the warehouse at BACKUP_URL. It was restored and compared table "
    "by table; a backup that differs fails the run, and earlier ones stay.",
)
def backup(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    url = dagster_url(context.instance)
    if url is None:
        context.log.info("Nothing is backed up: Dagster's records are in SQLite files, as in `make dev`.")
        return dg.MaterializeResult()
    started = time.monotonic()
    try:
        name, dumps, deleted = put_backup(context.instance, url, context.log.info)
    except BackupFailed as error:
        disable_run_retries(context.op_execution_context)
        raise dg.Failure(str(error), allow_retries=False) from error
    return dg.MaterializeResult(
        metadata={
            "backup": name,
            "last verified": dg.MetadataValue.timestamp(datetime.now(UTC)),
            "seconds": time.monotonic() - started,
            **{f"{key}/bytes": dump.bytes for key, dump in dumps.items()},
            **{f"{key}/rows": sum(dump.rows.values()) for key, dump in dumps.items()},
            "bytes": sum(dump.bytes for dump in dumps.values()),
            "kept": len(store().names()),
            "deleted": dg.MetadataValue.json(deleted),
            "restore it": f"make restore FROM={name}",
        }
    )


defs = dg.Definitions(
    assets=[backup],
    schedules=[
        dg.ScheduleDefinition(
            name="backup_daily",
            target=dg.AssetSelection.assets(backup),
            cron_schedule="10 2 * * *",
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description="Each night, to BACKUP_URL. The newest BACKUP_KEEP backups stay. On from the first start.",
        )
    ],
)


def main() -> None:
    """Makes a backup outside of a run, as `make upgrade` does, and prints its name."""
    with dg.DagsterInstance.get() as instance:
        url = dagster_url(instance)
        try:
            if url is None:
                raise BackupFailed("Dagster's records are in SQLite files, which are not backed up.")
            name, _, _ = put_backup(instance, url, logging.getLogger(__name__).info)
        except BackupFailed as error:
            sys.exit(str(error))
    sys.stdout.write(f"{name}\n")


if __name__ == "__main__":
    main()
