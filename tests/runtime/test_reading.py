"""What a reader sees of a load that was cut off, by the queries that docs/reading.md recommends."""

import re
from pathlib import Path

import pytest

from tests.runtime.test_histories import MERGE, Change, World
from tests.support.orders import Load
from tests.support.paths import ROOT
from tests.support.warehouse import Warehouse

PAGE = (ROOT / "docs" / "reading.md").read_text()
COMPLETE, UNFINISHED = (
    query.replace("raw_github.issues", "raw_orders.orders").replace("raw_github.", "raw_orders.")
    for query in re.findall(r"^    (SELECT .* _dlt_load_id .*)$", PAGE, re.MULTILINE)
)


@pytest.fixture
def world(warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Three orders of a shop are loaded, one of them twice, and that one has changed since."""
    monkeypatch.setenv("LOAD__PARALLELISM_STRATEGY", "sequential")
    folder = tmp_path / "history"
    folder.mkdir()
    world = World(MERGE, warehouse, folder)
    world.end(world.start(Load("north")))
    world.change(Change("north", 2, lines=2, later=True))
    world.end(world.start(Load("north")))
    world.change(Change("north", 2, lines=3, later=True))
    return world


def complete(world: World) -> list[tuple[int, int]]:
    """Order and version of the rows that a reader of complete loads sees."""
    query = COMPLETE.replace("SELECT *", "SELECT id, version")
    return sorted((order, version) for order, version in world.warehouse.rows(query))


def unfinished(world: World) -> int:
    [(rows,)] = world.warehouse.rows(UNFINISHED)
    return int(rows)


def test_rows_of_a_load_that_was_cut_off_are_told_apart(world: World) -> None:
    assert (complete(world), unfinished(world)) == ([(0, 1), (1, 1), (2, 2)], 0)

    world.end(world.start(Load("north", crash="complete")))
    assert (complete(world), unfinished(world)) == ([(0, 1), (1, 1)], 1)

    world.end(world.start(Load("north")))
    assert (complete(world), unfinished(world)) == ([(0, 1), (1, 1), (2, 3)], 0)


def test_a_row_and_its_children_change_together(world: World) -> None:
    world.end(world.start(Load("north", crash="uncommitted")))

    lines = "SELECT count(*) FROM raw_orders.orders o JOIN raw_orders.orders__lines l ON l._dlt_parent_id = o._dlt_id"
    assert complete(world) == [(0, 1), (1, 1), (2, 2)]
    assert world.warehouse.rows(f"{lines} WHERE o.id = 2") == [(2,)]
    assert world.warehouse.rows("SELECT count(*) FROM raw_orders.orders__lines") == [(3,)]
