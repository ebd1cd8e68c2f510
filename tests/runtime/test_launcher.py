"""The launcher's answer to run monitoring: does the process of this run still live?"""

import json
import socket
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRun, serialize_value
from dagster._core.instance.ref import InstanceRef
from dagster._core.launcher.base import WorkerStatus
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.types import ExecuteExternalJobArgs

from runtime.instance import launcher
from runtime.instance.launcher import LocationRunLauncher
from runtime.instance.server import execute
from tests.support.database import Database
from tests.support.stack import wait_for


def run_at(port: int) -> DagsterRun:
    return DagsterRun(
        job_name="job", run_id="a-run", tags={GRPC_INFO_TAG: json.dumps({"host": "127.0.0.1", "port": port})}
    )


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_location_that_is_away_for_a_moment_is_given_time(monkeypatch: pytest.MonkeyPatch) -> None:
    run, asked = run_at(unused_port()), LocationRunLauncher()

    assert asked.check_run_worker_health(run).status == WorkerStatus.RUNNING
    assert asked.check_run_worker_health(run).status == WorkerStatus.RUNNING
    monkeypatch.setattr(launcher, "UNREACHABLE_SECONDS", 0)
    result = asked.check_run_worker_health(run)
    assert result.status == WorkerStatus.FAILED
    assert "unreachable" in str(result.msg)


def test_a_run_that_was_never_launched_is_left_alone() -> None:
    run = DagsterRun(job_name="job", run_id="a-run")

    assert LocationRunLauncher().check_run_worker_health(run).status == WorkerStatus.RUNNING


@pytest.fixture
def instance(database: Database, tmp_path: Path) -> Iterator[DagsterInstance]:
    """An instance on Postgres."""
    config = {"postgres_url": database.url.replace("postgresql:", "postgresql+psycopg2:")}
    custom = {"module": "runtime.instance.storage", "class": "PostgresStorage", "config": config}
    with DagsterInstance.local_temp(str(tmp_path), overrides={"storage": {"custom": custom}}) as instance:
        yield instance


def live(instance: InstanceRef) -> None:
    """The process of a run, which does nothing for a minute."""
    location = RegisteredCodeLocationOrigin("location")
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(location, "repository"), "job")
    asked = ExecuteExternalJobArgs(job_origin=origin, run_id="a-run", instance_ref=instance)
    execute(lambda _: time.sleep(60), serialize_value(asked))


def test_a_run_that_another_server_has_is_alive_until_its_process_ends(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while a location is replaced: the new server answers, and the old one still has the run."""
    monkeypatch.setattr(LocationRunLauncher, "_is_executing", lambda self, run: False)
    asked = LocationRunLauncher()
    asked.register_instance(instance)

    def status() -> WorkerStatus:
        return asked.check_run_worker_health(run_at(1)).status

    assert status() == WorkerStatus.FAILED
    process = get_context("fork").Process(target=live, args=(instance.get_ref(),))
    process.start()
    wait_for(lambda: status() == WorkerStatus.RUNNING, 30, "the process to show that it lives")
    process.kill()
    process.join()
    wait_for(lambda: status() == WorkerStatus.FAILED, 10, "its lock to be free")
