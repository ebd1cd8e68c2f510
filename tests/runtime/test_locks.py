"""Which loads wait for which, with locks in files and in Dagster's Postgres."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import dagster as dg
import dlt
import pytest

from runtime.instance import advisory_lock
from runtime.load.locks import Lock, named_lock, partition_lock, pipeline_lock


class Runs:
    """Makes runs of one instance, each with a data directory of its own where locks are in Postgres."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.messages: list[str] = []

    def op(self) -> Any:
        """What a lock uses of an op's context."""
        run = dg.DagsterRun(job_name="load", run_id=str(uuid4()))
        log = SimpleNamespace(info=self.messages.append, error=self.messages.append)
        return cast(Any, SimpleNamespace(instance=self.instance, run=run, log=log))

    def day(self, partition: str, pipeline: str = "shop", dataset: str = "raw_shop") -> AbstractContextManager[Any]:
        return partition_lock(self.op(), to(pipeline, dataset), partition)

    def everything(self, pipeline: str = "shop") -> AbstractContextManager[Any]:
        return pipeline_lock(self.op(), to(pipeline))


def to(pipeline: str, dataset: str = "raw_shop") -> dlt.Pipeline:
    """What a lock uses of a pipeline. Not every name can be a pipeline's."""
    destination = SimpleNamespace(destination_name="duckdb")
    found = SimpleNamespace(pipeline_name=pipeline, dataset_name=dataset, destination=destination)
    return cast(dlt.Pipeline, found)


@pytest.fixture(params=["file", "postgres"])
def runs(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(advisory_lock, "SETTLED_SECONDS", 0)
    made = (
        dg.DagsterInstance.ephemeral()
        if request.param == "file"
        else dg.DagsterInstance.from_config(str(request.getfixturevalue("home")))
    )
    with made as instance:
        yield Runs(instance)
    if request.param == "postgres":
        assert not (tmp_path / "locks").exists(), "a file is on one machine only"


def waits(second: AbstractContextManager[Any], first: AbstractContextManager[Any]) -> bool:
    """Whether the second lock is only given once the first is released."""
    taken = Event()

    def take() -> None:
        with second as confirm:
            confirm()
            taken.set()

    thread = Thread(target=take, daemon=True)
    with first as confirm:
        thread.start()
        waited = not taken.wait(0.5)
        confirm()
    thread.join(10)
    assert taken.is_set()
    return waited


def test_a_partition_waits_for_itself_alone(runs: Runs) -> None:
    assert waits(runs.day("2026-01-02"), runs.day("2026-01-02"))
    assert not waits(runs.day("2026-01-03"), runs.day("2026-01-02"))
    assert not waits(runs.day("2026-01-02", "other"), runs.day("2026-01-02"))
    assert waits(runs.day(""), runs.day(""))


def test_a_run_of_several_partitions_waits_for_all_and_all_wait_for_it(runs: Runs) -> None:
    assert waits(runs.everything(), runs.day("2026-01-02"))
    assert waits(runs.day("2026-01-02"), runs.everything())
    assert waits(runs.everything(), runs.everything())
    assert not waits(runs.everything("other"), runs.everything())


def test_long_and_odd_names_have_locks_of_their_own(runs: Runs) -> None:
    assert not waits(runs.day("x" * 300 + "a"), runs.day("x" * 300 + "b"))
    assert waits(runs.day("../" * 100), runs.day("../" * 100))


def test_a_lock_that_is_not_of_a_pipeline_is_one_for_all(runs: Runs) -> None:
    backup = Lock("backups", "makes a backup")

    assert waits(named_lock(runs.op(), backup), named_lock(runs.op(), backup))


@pytest.mark.parametrize("runs", ["file"], indirect=True)
def test_a_file_says_what_a_run_waits_for(runs: Runs) -> None:
    assert waits(runs.day("2026-01-02"), runs.day("2026-01-02"))
    assert waits(runs.day("2026-01-02"), runs.everything())

    assert runs.messages == [
        "Waiting: another run loads shop, partition 2026-01-02.",
        "Waiting: another run loads several partitions of shop.",
    ]


@pytest.mark.parametrize("runs", ["postgres"], indirect=True)
def test_in_postgres_a_run_says_which_run_it_waits_for_with_a_link(runs: Runs) -> None:
    first, second, third = runs.op(), runs.op(), runs.op()
    for op in (first, second, third):
        runs.instance.add_run(op.run)

    assert waits(partition_lock(second, to("shop"), "2026-01-02"), partition_lock(first, to("shop"), "2026-01-02"))
    assert waits(pipeline_lock(third, to("shop")), partition_lock(second, to("shop"), "2026-01-02"))

    for waiting, holder, does in (
        (second, first, "loads shop, partition 2026-01-02"),
        (third, second, "loads shop"),
    ):
        [entry] = runs.instance.all_logs(waiting.run.run_id)
        assert entry.dagster_event
        assert entry.dagster_event.message == f"Waiting for run {holder.run.run_id}, which {does}."
        link = entry.dagster_event.engine_event_data.metadata["waits for"]
        assert link == dg.MetadataValue.dagster_run(holder.run.run_id)


@pytest.mark.parametrize("runs", ["postgres"], indirect=True)
def test_locations_that_load_elsewhere_under_the_same_name_do_not_wait_for_each_other(runs: Runs) -> None:
    assert not waits(runs.day("", dataset="raw_shop_eu"), runs.day("", dataset="raw_shop"))
