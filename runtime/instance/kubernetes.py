"""Starts each run in a pod of its own, with the image, the secrets and the limits of its location."""

from dagster import DagsterRun
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster_k8s import K8sRunLauncher
from dagster_k8s.client import DagsterK8sAPIRetryLimitExceeded, DagsterK8sUnrecoverableAPIError

GONE = "could not be found"
CONFLICT = 409  # there is a Job of that name


class PodRunLauncher(K8sRunLauncher):
    """Dagster's launcher, made to outlive an upgrade of the control plane: its API is then away for minutes.

    Dagster would mark all runs as failed and start them again, beside the pods that go on, and would fail those that
    it was about to start.
    """

    def launch_run(self, context: LaunchRunContext) -> None:
        """Starts the run, or returns it to the queue if the API does not answer, which may have made the Job before."""
        try:
            super().launch_run(context)
        except DagsterK8sUnrecoverableAPIError as error:
            if getattr(error.k8s_api_exception, "status", None) != CONFLICT:
                raise
        except DagsterK8sAPIRetryLimitExceeded as error:
            raise DagsterUserCodeUnreachableError(f"The API of Kubernetes does not answer: {error}") from error

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the run's pod is alive. While nobody can tell, it is."""
        found: CheckRunHealthResult = super().check_run_worker_health(run)
        if found.status == WorkerStatus.UNKNOWN and not (found.msg or "").endswith(GONE):
            return CheckRunHealthResult(WorkerStatus.RUNNING, found.msg)
        return found
