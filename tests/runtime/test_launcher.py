"""The launcher's answer to run monitoring: does the process of this run still live?"""

import json
import socket

import pytest
from dagster import DagsterRun
from dagster._core.launcher.base import WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG

from runtime.instance import launcher
from runtime.instance.launcher import LocationRunLauncher


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
