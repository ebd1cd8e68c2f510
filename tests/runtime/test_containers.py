"""What the launcher of a container per run makes of what Docker says. More is in tests/stack/test_docker_runs.py."""

from typing import Any

import dagster as dg
import docker.errors
import pytest
from dagster._core.launcher.base import WorkerStatus

from runtime.instance.containers import ContainerRunLauncher

RUN = dg.DagsterRun(job_name="load", tags={"docker/container_id": "4f1c"})
ENDED = {"Status": "exited", "ExitCode": 137, "OOMKilled": False, "Error": ""}


class Docker:
    """Its API: answers with the state of a container, or fails."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    @property
    def api(self) -> "Docker":
        return self

    def inspect_container(self, container: str) -> dict[str, Any]:
        assert container == "4f1c"
        if isinstance(self.answer, Exception):
            raise self.answer
        return {"State": self.answer}


@pytest.mark.parametrize(
    ("answer", "status", "sentence"),
    [
        ({"Status": "created"}, WorkerStatus.RUNNING, None),
        ({"Status": "running"}, WorkerStatus.RUNNING, None),
        ({"Status": "paused"}, WorkerStatus.RUNNING, None),
        (docker.errors.APIError("the proxy restarts"), WorkerStatus.RUNNING, None),
        (ENDED, WorkerStatus.FAILED, "The container of this run ended with exit code 137"),
        (
            ENDED | {"OOMKilled": True},
            WorkerStatus.FAILED,
            "The container of this run ended with exit code 137: more memory than mem_limit of its location allows",
        ),
        (docker.errors.NotFound("no such container"), WorkerStatus.FAILED, "The container of this run is gone"),
    ],
)
def test_a_run_is_lost_when_its_container_has_ended_and_not_while_nobody_can_tell(
    answer: Any, status: WorkerStatus, sentence: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "from_env", lambda: Docker(answer))
    found = ContainerRunLauncher().check_run_worker_health(RUN)

    assert (found.status, found.msg) == (status, sentence)
