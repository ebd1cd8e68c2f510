"""Starts runs in the container of their location, and notices when one dies there."""

import json
import time

from dagster import DagsterRun, DefaultRunLauncher
from dagster._core.errors import (
    DagsterCodeLocationNotFoundError,
    DagsterLaunchFailedError,
    DagsterUserCodeUnreachableError,
)
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import ConfigurableClassData, deserialize_value

from runtime.instance import run_lock

# After this time without an answer, a location and its runs are considered lost. Longer than a deploy.
UNREACHABLE_SECONDS = 300
ANSWER_SECONDS = 10


class LocationRunLauncher(DefaultRunLauncher):
    """Dagster's default launcher with a health check for its runs.

    A run is a process of its location's gRPC server. When the container restarts, the process is gone but the run
    stays STARTED for ever. This launcher asks the new server whether it executes the run. If not, and no other process
    holds the run's lock, run monitoring marks the run as failed and run retries relaunch it. While a location is
    replaced, its old server may still have runs that the new one does not know.
    """

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(inst_data)
        self._unreachable_since: dict[str, float] = {}

    def launch_run(self, context: LaunchRunContext) -> None:
        """Starts the run, or returns it to the queue if its location does not take runs yet.

        Dagster returns a run to the queue only if its location does not answer. A location that is shutting down for
        a deploy, or cannot reach Postgres, answers with an error: Dagster would mark the run as failed.
        """
        try:
            super().launch_run(context)
        except (DagsterLaunchFailedError, DagsterCodeLocationNotFoundError) as error:
            if error.args == (None,):  # an error without a message: the job does not exist
                raise
            raise DagsterUserCodeUnreachableError(f"The location does not take runs yet: {error}") from error

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the run's process is alive. Run monitoring asks once per interval for each started run."""
        if GRPC_INFO_TAG not in run.tags:
            return CheckRunHealthResult(WorkerStatus.RUNNING)  # not launched yet
        try:
            executing = self._is_executing(run)
        except DagsterUserCodeUnreachableError:
            return self._unreachable(run)
        self._unreachable_since.pop(run.run_id, None)
        if executing or run_lock.is_held(run.run_id, self._instance.get_ref()):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(
            WorkerStatus.FAILED,
            f"The process of this run is gone: the location {_location(run)} was restarted or the process was killed",
        )

    def _is_executing(self, run: DagsterRun) -> bool:
        address = json.loads(run.tags[GRPC_INFO_TAG])
        client = DagsterGrpcClient(
            host=address.get("host"),
            port=address.get("port"),
            socket=address.get("socket"),
            use_ssl=address.get("use_ssl", False),
        )
        answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run.run_id), timeout=ANSWER_SECONDS)
        return deserialize_value(answer, CanCancelExecutionResult).can_cancel

    def _unreachable(self, run: DagsterRun) -> CheckRunHealthResult:
        """A server that does not answer for a moment may still execute the run. Later, the run is considered lost."""
        since = self._unreachable_since.setdefault(run.run_id, time.monotonic())
        if time.monotonic() - since < UNREACHABLE_SECONDS:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        del self._unreachable_since[run.run_id]
        return CheckRunHealthResult(
            WorkerStatus.FAILED,
            f"The location {_location(run)} of this run has been unreachable for {UNREACHABLE_SECONDS} s",
        )


def _location(run: DagsterRun) -> str:
    origin = run.remote_job_origin
    return origin.location_name if origin else "unknown"
