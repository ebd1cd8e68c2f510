"""Starts each run in a container of its own, made like the container of its location."""

import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import docker.errors
import requests
from dagster import DagsterRun
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._core.storage.tags import DOCKER_IMAGE_TAG
from dagster_docker import DockerRunLauncher
from dagster_docker.docker_run_launcher import DOCKER_CONTAINER_ID_TAG

KEPT = timedelta(days=1)  # a container after its run, for whoever wants to read its log
LAST_LINES = 30
ENDED = ("dead", "exited", "removing")
PROJECT, SERVICE, ONE_OFF = (f"com.docker.compose.{name}" for name in ("project", "service", "oneoff"))
FOLDER = f"{PROJECT}.working_dir"
RUN = "dagster/run_id"


class ContainerRunLauncher(DockerRunLauncher):
    """Dagster's launcher, which copies the container of the location: image, variables, volumes, networks, limits.

    With Dagster's own, the webserver and the daemon would have the secrets of all locations, and write them into
    Postgres with each run.
    """

    def launch_run(self, context: LaunchRunContext) -> None:
        """Starts the run, or returns it to the queue if there is no Docker, or no container of its location."""
        try:
            self._remove_old()
            self._server(context.dagster_run)
        except (docker.errors.DockerException, requests.RequestException) as error:
            raise DagsterUserCodeUnreachableError(f"Docker does not answer: {error}") from error
        super().launch_run(context)

    @property
    def supports_resume_run(self) -> bool:
        return False  # a load starts from its beginning: run retries do that

    def _get_docker_image(self, job_code_origin: Any) -> str:
        return ""  # that of the location's container

    def _launch_container_with_command(self, run: DagsterRun, docker_image: str, command: list[str]) -> None:
        location, server = _location(run), self._server(run)
        image = server["Config"]["Image"]
        settings = {name: server["Config"][name] for name in ("Env", "User", "WorkingDir", "StopTimeout")}
        host = {name: value for name, value in server["HostConfig"].items() if name != "PortBindings"}
        # Compose's own labels: `docker compose ps --all` lists the container, `logs` shows it, and `down` removes it.
        labels = {name: server["Config"]["Labels"][name] for name in (PROJECT, SERVICE, FOLDER)} | {ONE_OFF: "True"}
        container = self._docker.create_container_from_config(
            {
                **settings,
                "Image": server["Image"],
                "Cmd": command,
                "Labels": {**labels, RUN: run.run_id, "dagster/job_name": run.job_name},
                "HostConfig": {**host, "RestartPolicy": {"Name": "no"}},
                # Without the location's own names in them, at which the webserver and the daemon look for the server.
                "NetworkingConfig": {"EndpointsConfig": {name: {} for name in server["NetworkSettings"]["Networks"]}},
            },
            name=f"{labels[PROJECT]}-{location}-run-{run.run_id}",  # Docker refuses a second container for the run
        )["Id"]
        self._instance.add_run_tags(run.run_id, {DOCKER_CONTAINER_ID_TAG: container, DOCKER_IMAGE_TAG: image})
        message = f"The run starts in the container {container[:12]} of {image}, with the settings of {location}."
        self._instance.report_engine_event(message, run, cls=self.__class__)
        self._docker.start(container)

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the run's container is alive. While nobody can tell, it is."""
        try:
            state = self._state(run)
        except (docker.errors.DockerException, requests.RequestException):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        if state and state["Status"] not in ENDED:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, _end_of(state))

    def get_run_worker_debug_info(self, run: DagsterRun, include_container_logs: bool | None = True) -> str | None:
        """How the container ended, and the last lines of its log: all that there is of a run that never started."""
        if not (state := self._state(run)):
            return None
        log = self._docker.logs(run.tags[DOCKER_CONTAINER_ID_TAG], tail=LAST_LINES).decode(errors="replace").strip()
        return f"{_end_of(state)}. Its last lines:\n{log or '(none)'}"

    @property
    def _docker(self) -> Any:
        return docker.from_env().api

    def _server(self, run: DagsterRun) -> Mapping[str, Any]:
        """What Docker knows of the container of the run's location."""
        labels = [f"{PROJECT}={os.environ['COMPOSE_PROJECT_NAME']}", f"{SERVICE}={_location(run)}", f"{ONE_OFF}=False"]
        found = self._docker.containers(filters={"label": labels}, limit=1)  # running ones, the newest
        if not found:
            raise docker.errors.NotFound(f"No container of {_location(run)} runs.")
        server: Mapping[str, Any] = self._docker.inspect_container(found[0]["Id"])
        return server

    def _state(self, run: DagsterRun) -> Mapping[str, Any]:
        """Of the run's container. Empty if it is gone."""
        try:
            state: Mapping[str, Any] = self._docker.inspect_container(run.tags.get(DOCKER_CONTAINER_ID_TAG))["State"]
        except (docker.errors.NotFound, docker.errors.NullResource):
            return {}
        return state

    def _remove_old(self) -> None:
        labels = [f"{PROJECT}={os.environ['COMPOSE_PROJECT_NAME']}", RUN]
        ended = self._docker.containers(all=True, filters={"label": labels, "status": ["created", "dead", "exited"]})
        before = (datetime.now(UTC) - KEPT).timestamp()
        for container in ended:
            if container["Created"] < before:
                with suppress(docker.errors.APIError):  # another launch is removing it
                    self._docker.remove_container(container["Id"])


def _location(run: DagsterRun) -> str:
    origin = run.remote_job_origin
    return origin.location_name if origin else "unknown"


def _end_of(state: Mapping[str, Any]) -> str:
    if not state:
        return "The container of this run is gone"
    reason = "more memory than mem_limit of its location allows" if state["OOMKilled"] else state["Error"]
    return f"The container of this run ended with exit code {state['ExitCode']}{reason and f': {reason}'}"
