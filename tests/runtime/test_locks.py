"""Which loads wait for which."""

from contextlib import AbstractContextManager
from threading import Event, Thread
from typing import Any

import pytest

from runtime.load.locks import partition_lock, pipeline_lock


def waits(second: AbstractContextManager[Any], first: AbstractContextManager[Any]) -> bool:
    """Whether the second lock is only given once the first is released."""
    taken = Event()

    def take() -> None:
        with second:
            taken.set()

    thread = Thread(target=take, daemon=True)
    with first:
        thread.start()
        waited = not taken.wait(0.5)
    thread.join(10)
    assert taken.is_set()
    return waited


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path))


def day(name: str, pipeline: str = "shop", messages: list[str] | None = None) -> AbstractContextManager[Any]:
    return partition_lock(pipeline, name, (messages if messages is not None else []).append)


def everything(pipeline: str = "shop") -> AbstractContextManager[Any]:
    return pipeline_lock(pipeline, print)


def test_a_partition_waits_for_itself_alone() -> None:
    messages: list[str] = []

    assert waits(day("2026-01-02", messages=messages), day("2026-01-02"))
    assert messages == ["Waiting: another run loads shop, partition 2026-01-02."]
    assert not waits(day("2026-01-03"), day("2026-01-02"))
    assert not waits(day("2026-01-02", "other"), day("2026-01-02"))
    assert waits(day(""), day(""))


def test_a_run_of_several_partitions_waits_for_all_and_all_wait_for_it() -> None:
    assert waits(everything(), day("2026-01-02"))
    assert waits(day("2026-01-02"), everything())
    assert waits(everything(), everything())
    assert not waits(everything("other"), everything())


def test_long_and_odd_names_have_locks_of_their_own() -> None:
    assert not waits(day("x" * 300 + "a"), day("x" * 300 + "b"))
    assert waits(day("../" * 100), day("../" * 100))
