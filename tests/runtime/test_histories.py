"""Histories of loads that crash, overlap and start again while the API changes: the warehouse always equals the API.

A history that fails is shown as the shortest list of steps that fails. `make stress` plays many more of them.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance
from dlt.common.destination.exceptions import DestinationUndefinedEntity
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from tests.support.orders import POINTS, SHOPS, Disposition, Load, Plan, Run
from tests.support.warehouse import Warehouse

STRESS = os.environ.get("HYPOTHESIS_PROFILE") == "stress"
SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck))  # a history takes seconds
SETTINGS = settings(SETTINGS, print_blob=True) if STRESS else settings(SETTINGS, derandomize=True, database=None)

MERGE = Disposition("merge")
SCD2 = Disposition({"disposition": "merge", "strategy": "scd2"}, incremental=False, merge_key="shop")
APPEND = Disposition("append", partitioned=False)
REPLACE = Disposition("replace", incremental=False, partitioned=False)
DISPOSITIONS = {
    "merge": MERGE,
    "upsert": Disposition({"disposition": "merge", "strategy": "upsert"}),
    "scd2": SCD2,
    "truncate-and-insert": REPLACE,
    "insert-from-staging": replace(REPLACE, replace_strategy="insert-from-staging"),
    "staging-optimized": replace(REPLACE, replace_strategy="staging-optimized"),
    "append": APPEND,
}
PAUSES = [point for point in POINTS if point not in ("tables", "uncommitted")]  # those hold locks in the warehouse


@dataclass(frozen=True)
class Change:
    """An order is new, or has a new version with so many lines; `None` deletes it."""

    shop: str
    order: int
    lines: int | None
    later: bool  # else at the same moment as the change before, if that was another order


@dataclass(frozen=True)
class Overlap:
    """While a load pauses, the API changes and another load runs, until it ends or waits for the first."""

    first: Load
    change: Change
    second: Load


Step = Change | Load | Overlap
New = Callable[[], tuple[Warehouse, Path]]


class World:
    """An API, an empty warehouse, an instance of Dagster, and what has happened so far."""

    def __init__(self, disposition: Disposition, warehouse: Warehouse, folder: Path, home: str = "") -> None:
        self.disposition = disposition
        self.warehouse = warehouse
        self.folder = folder
        self.home = home  # of an instance in Postgres, for runs on machines of their own
        self.now = 0
        self.orders: dict[tuple[str, int], dict[str, Any]] = {}
        self.versions: set[tuple[str, int, int]] = set()  # of each order, all that ever were
        self.lost: list[str] = []
        self.runs: list[Run] = []
        for shop in SHOPS:
            for order in range(3):
                self.change(Change(shop, order, lines=order, later=False))

    def play(self, steps: list[Step]) -> None:
        """A history, and in the end two loads of each partition: one that catches up, one with nothing to do."""
        try:
            for step in steps:
                match step:
                    case Change():
                        self.change(step)
                    case Load():
                        self.end(self.start(step))
                    case Overlap():
                        self.overlap(step)
            for shop in sorted({run.plan.load.shop for run in self.runs}):
                self.end(self.start(Load(shop)))
                rows = self.end(self.start(Load(shop)))
                if self.disposition.incremental:
                    assert rows in (0, self.rows_at_the_cursor(shop))
        finally:
            for run in self.runs:
                run.process.kill()
        if self.runs:
            assert self.warehouse.datasets() == {"raw_orders"}
            if not self.home:  # else what a crash left is on its own machine
                assert not any((self.folder / "dlt" / "runs").iterdir())

    def rows_at_the_cursor(self, shop: str) -> int:
        """The rows that a merge gets again, because they may have changed within the cursor's last value."""
        if self.disposition.write == "append":
            return 0
        times = [row["changed_at"] for (of, _), row in self.orders.items() if shop in ("", of)]
        return times.count(max(times, default=0))

    def change(self, change: Change) -> None:
        key = (change.shop, change.order)
        before = self.orders.pop(key, None)
        if change.lines is None:
            return
        self.now += bool(change.later or (before and before["changed_at"] == self.now))
        version = 1 + max((version for *order, version in self.versions if tuple(order) == key), default=0)
        self.versions.add((*key, version))
        lines = [{"n": n} for n in range(change.lines)]
        row = {"shop": change.shop, "id": change.order, "version": version, "changed_at": self.now, "lines": lines}
        self.orders[key] = row

    def overlap(self, overlap: Overlap) -> None:
        first = self.start(overlap.first)
        paused = first.hears() == "paused"
        if not paused:
            self.end(first)
        self.change(overlap.change)
        second = self.start(overlap.second)
        if not paused or second.hears() != "waiting":
            self.end(second)
        if paused:
            first.go_on()
            self.end(first, check=False)  # what it read is of before the change
            if second.said == "waiting":
                self.end(second)

    def start(self, load: Load) -> Run:
        rows = [row for (shop, _), row in sorted(self.orders.items()) if load.shop in ("", shop)]
        lost, self.lost = self.lost, []
        run = Run(Plan(load, self.disposition, rows, dict(os.environ), self.folder.parent, lost, self.home))
        self.runs.append(run)
        return run

    def end(self, run: Run, check: bool = True) -> int | str | None:
        outcome, load = run.outcome(), run.plan.load
        if load.retry and self.disposition.write == "append":
            assert "would append rows" in str(outcome)
        elif load.crash:
            assert outcome is None, outcome
            self.lost.append(run.plan.run_id)
        else:
            assert isinstance(outcome, int), outcome
            if check:
                self.check(load.shop)
        return outcome

    def check(self, shop: str) -> None:
        """The warehouse equals the API, as far as a load of this partition brings it."""
        if self.disposition.write == "append":
            self.tidy()
        orders = self.warehouse.rows("SELECT shop, id, version, _dlt_id FROM raw_orders.orders")
        try:
            lines = self.warehouse.rows("SELECT _dlt_parent_id, n FROM raw_orders.orders__lines")
        except DestinationUndefinedEntity:  # no order ever had one
            lines = []
        assert {parent for parent, _ in lines} <= {row[3] for row in orders}, "orphans"
        every = [row[:3] for row in orders]
        assert len(every) == len(set(every)), "twice"
        assert set(every) <= self.versions
        current = {(*key, row["version"]): row for key, row in self.orders.items() if shop in ("", key[0])}
        if self.disposition == SCD2:
            orders = self.warehouse.rows(
                "SELECT shop, id, version, _dlt_id FROM raw_orders.orders WHERE _dlt_valid_to IS NULL"
            )
        elif self.disposition.write == "append":
            orders = [row for row in orders if row[:3] in current]  # earlier versions stay
        found = {
            row[:3]: sorted(n for parent, n in lines if parent == row[3]) for row in orders if shop in ("", row[0])
        }
        expected = {version: [line["n"] for line in row["lines"]] for version, row in current.items()}
        assert found == expected

    def tidy(self) -> None:
        """As the runtime says when it refuses to append again."""
        complete = "SELECT load_id FROM raw_orders._dlt_loads"
        self.warehouse.rows(f"DELETE FROM raw_orders.orders WHERE _dlt_load_id NOT IN ({complete})")
        parents = "SELECT _dlt_id FROM raw_orders.orders"
        self.warehouse.rows(f"DELETE FROM raw_orders.orders__lines WHERE _dlt_parent_id NOT IN ({parents})")


def histories(disposition: Disposition) -> st.SearchStrategy[list[Step]]:
    shops = st.sampled_from(SHOPS)
    partitions = shops if disposition.partitioned else st.just("")
    # A merge or an append does not see what is gone. The last order stays, as an empty answer replaces nothing.
    gone = st.none() if not disposition.incremental else st.nothing()
    changes = st.builds(Change, shops, st.integers(0, 3), st.integers(0, 3), st.booleans())
    deletions = st.builds(Change, shops, st.integers(1, 3), gone, st.booleans())
    loads = st.builds(Load, partitions, crash=st.none() | st.sampled_from(POINTS), retry=st.booleans())
    pausing = st.builds(
        Load, partitions, crash=st.none() | st.sampled_from(POINTS), pause=st.sampled_from(PAUSES), retry=st.booleans()
    )
    overlaps = st.builds(Overlap, pausing, changes, loads)
    return st.lists(st.one_of(changes, deletions, loads, loads, overlaps), min_size=2, max_size=8)


@pytest.fixture
def new_warehouse(warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> New:
    """Makes an empty warehouse and a data directory for each history of a test."""
    numbers = count()
    monkeypatch.setenv("LOAD__PARALLELISM_STRATEGY", "sequential")  # jobs in the order of their names

    def new() -> tuple[Warehouse, Path]:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        monkeypatch.setenv("DLT_DATA_DIR", str(folder / "dlt"))
        if warehouse.name == "duckdb":
            monkeypatch.setenv("DESTINATION__DUCKDB__CREDENTIALS", str(folder / "warehouse.duckdb"))
        else:
            for dataset in warehouse.datasets():
                warehouse.rows(f"DROP SCHEMA {dataset} CASCADE")
        return warehouse, folder

    return new


def crashes(disposition: Disposition) -> list[Step]:
    """A history with a crash at each point where rows may be there in part."""
    one = "north" if disposition.partitioned else ""
    return [
        Load(one, crash="job 2"),
        Load(one, retry=True),
        Load(one),
        Change("north", 1, lines=3, later=False),
        Change("north", 2, lines=0, later=True),
        Load(one, crash="uncommitted"),
        Load(one, crash="complete", retry=True),
        Change("north", 3, lines=1, later=True),
        Load(one, crash="completed"),
    ]


def overlaps(disposition: Disposition) -> list[Step]:
    """A history with overlaps of every kind: of other partitions and of the same, one of them killed, or both."""
    one, other = ("north", "south") if disposition.partitioned else ("", "")
    return [
        Load(one),
        Change("north", 0, lines=1, later=False),
        Overlap(Load(one, pause="job 4"), Change("south", 0, 2, True), Load(other)),
        Change("north", 0, lines=2, later=True),
        Overlap(Load(one, pause="page 1"), Change("north", 0, 1, True), Load(one)),
        Change("north", 1, lines=1, later=True),
        Overlap(Load(one, pause="job 3", crash="complete"), Change("south", 1, 0, True), Load(other, crash="job 3")),
    ]


@pytest.mark.timeout(0 if STRESS else 300)
@pytest.mark.parametrize(
    "name",
    [name if name in ("merge", "append") else pytest.param(name, marks=pytest.mark.slow) for name in DISPOSITIONS],
)
def test_whatever_happens_the_warehouse_equals_the_api(
    name: str,
    warehouse: Warehouse,
    new_warehouse: New,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disposition = DISPOSITIONS[name]
    if (warehouse.name, name) == ("duckdb", "staging-optimized"):
        pytest.skip("DuckDB has no such strategy")
    monkeypatch.setenv("DESTINATION__REPLACE_STRATEGY", disposition.replace_strategy)

    phases = tuple(Phase) if STRESS or name == "merge" else (Phase.explicit,)

    @settings(SETTINGS, max_examples=20 if STRESS else 2, phases=phases)
    @given(histories(disposition))
    @example(crashes(disposition))
    def play(steps: list[Step]) -> None:
        World(disposition, *new_warehouse()).play(steps)

    play()


@pytest.mark.parametrize("name", ["merge", pytest.param("append", marks=pytest.mark.slow)])
def test_loads_that_overlap_do_each_other_no_harm(name: str, new_warehouse: New) -> None:
    World(DISPOSITIONS[name], *new_warehouse()).play(overlaps(DISPOSITIONS[name]))


@pytest.mark.timeout(0 if STRESS else 300)
@pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
def test_on_several_machines_the_warehouse_equals_the_api_too(new_warehouse: New, home: Path) -> None:
    with DagsterInstance.from_config(str(home)):
        pass  # makes the tables

    @settings(SETTINGS, max_examples=20, phases=tuple(Phase) if STRESS else (Phase.explicit,))
    @given(histories(MERGE))
    @example(overlaps(MERGE))
    def play(steps: list[Step]) -> None:
        World(MERGE, *new_warehouse(), str(home)).play(steps)

    play()


@pytest.mark.parametrize(
    ("name", "crash", "refused"),
    [
        ("append", "normalized", False),
        ("append", "job 2", True),
        ("append", "completed", True),
        ("merge", "job 2", False),
    ],
)
def test_a_lost_run_that_is_executed_again_by_hand_loads_nothing_twice(
    name: str, crash: str, refused: bool, new_warehouse: New
) -> None:
    disposition = DISPOSITIONS[name]
    world, shop = World(disposition, *new_warehouse()), "north" if disposition.partitioned else ""
    parent = world.start(Load(shop, crash=crash))
    world.end(parent)
    for _ in range(2):  # the second one repeats a run that was refused
        again = world.start(Load(shop, parent=parent.plan.run_id))
        assert ("would append rows that the lost run" in str(again.outcome())) is refused
        parent = again
    if refused:
        world.tidy()
        world.end(world.start(Load(shop)), check=False)
    world.check(shop)
