"""`stock.py` replaces one partition: rows that are gone go, other partitions stay, all in one transaction."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib import reload
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dlt.destinations.exceptions import DatabaseTerminalException
from dlt.destinations.job_client_impl import SqlLoadJob

from runtime.load.resource import IsolatedDltResource
from tests.examples import stock
from tests.support.warehouse import Warehouse

STORES = stock.stores.get_partition_keys()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOURCES__STOCK__FOLDER", str(tmp_path))
    return tmp_path


def deliver(folder: Path, store: str, shelves: Mapping[str, Sequence[str]]) -> None:
    """Writes what the source has: the items on each shelf of a store."""
    rows = [{"shelf": shelf, "items": [{"item": item} for item in items]} for shelf, items in shelves.items()]
    (folder / f"{store}.json").write_text(json.dumps(rows))


def load(store: str) -> bool:
    """One run, as in a process of its own: the module reads from the environment where to load."""
    assets = reload(stock).stock_assets
    resources = {"dlt": IsolatedDltResource()}
    return dg.materialize([assets], partition_key=store, resources=resources, raise_on_error=False).success


def loaded(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    return warehouse.rows(
        "SELECT store, shelf, item FROM raw_stock.shelves AS s "
        "LEFT JOIN raw_stock.shelves__items AS i ON i._dlt_parent_id = s._dlt_id ORDER BY 1, 2, 3"
    )


def test_a_partition_is_replaced_with_its_children_and_others_stay(warehouse: Warehouse, folder: Path) -> None:
    for store in ("bern", "rome"):
        deliver(folder, store, {"a": ["nails", "screws"], "b": ["paint"]})
        assert load(store)
    rome = [("rome", "a", "nails"), ("rome", "a", "screws"), ("rome", "b", "paint")]
    deliver(folder, "bern", {"a": ["nails"], "c": ["glue"]})
    assert load("bern")
    assert loaded(warehouse) == [("bern", "a", "nails"), ("bern", "c", "glue"), *rome]

    deliver(folder, "bern", {})
    assert load("bern")
    assert loaded(warehouse) == rome
    assert warehouse.rows("SELECT count(*) FROM raw_stock.shelves__items") == [(3,)]


def test_a_load_that_fails_before_its_commit_changes_nothing(
    warehouse: Warehouse, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(folder, "bern", {"a": ["nails"]})
    assert load("bern")
    before, begin = loaded(warehouse), SqlLoadJob.maybe_transaction

    @contextmanager
    def failing(job: SqlLoadJob, sql: str) -> Iterator[None]:
        with begin(job, sql):
            yield
            raise DatabaseTerminalException(ValueError("after the last statement"))

    deliver(folder, "bern", {"b": ["glue"]})
    with monkeypatch.context() as patches:
        patches.setattr(SqlLoadJob, "maybe_transaction", failing)
        assert not load("bern")
    assert loaded(warehouse) == before

    assert load("bern")
    assert loaded(warehouse) == [("bern", "b", "glue")]


def test_six_partitions_at_once_have_all_their_rows(warehouse: Warehouse, folder: Path) -> None:
    with ProcessPoolExecutor(len(STORES), mp_context=get_context("spawn")) as workers:
        for number in (60, 50):
            for store in STORES:
                deliver(folder, store, {f"{n:02}": ["nails", "screws"] for n in range(number)})
            assert all(workers.map(load, STORES))

    count = "SELECT store, count(*), count(DISTINCT shelf) FROM raw_stock.shelves GROUP BY 1 ORDER BY 1"
    assert warehouse.rows(count) == [(store, 50, 50) for store in STORES]
    assert warehouse.rows("SELECT count(*) FROM raw_stock.shelves__items") == [(6 * 50 * 2,)]
