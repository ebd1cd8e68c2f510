"""`dagster api grpc`, a code location's server, but runs start faster, end before it does, and Postgres may be away."""

import multiprocessing
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster._utils
from dagster._cli import cli, utils
from dagster._core.errors import DagsterInvariantViolationError
from dagster._grpc import server


class LocationServer(server.DagsterApiServer):
    """Dagster's server of a location, where its runs are processes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Dagster starts an interpreter per run. Here a process imports the libraries, once, and runs are its forks.
        forks = multiprocessing.get_context("forkserver")
        forks.set_forkserver_preload(["runtime.preload"])
        self._mp_ctx = forks  # type: ignore[assignment]
        # Dagster's own answer to SIGTERM is to end at once, and the runs with it. This one takes no new runs and ends
        # when the last one has, or when Docker's patience does (`stop_grace_period`).
        signal.signal(signal.SIGTERM, lambda *_: self._shutdown_once_executions_finish_event.set())

    def _check_for_orphaned_runs(self) -> None:
        """Reports run processes that have died. Twice a second, from a thread that an exception would end for good."""
        try:
            super()._check_for_orphaned_runs()
        except Exception:
            self._logger.exception("Runs that have died are reported later: Dagster's Postgres is away")


def stay_small() -> None:
    """Keeps what a server at rest never uses from being imported: 27 MB, mostly SQLAlchemy and what goes with it.

    Dagster finds the definitions by way of a package of test helpers, and opens its instance for components, of which
    there are none here: it does without one where there is no dagster.yaml. Runs are other processes, and whole.
    """
    helpers = ModuleType("dagster._utils.test")
    helpers.__path__ = [str(Path(dagster._utils.__file__).with_name("test"))]
    sys.modules[helpers.__name__] = helpers

    def no_instance(*_: Any, **__: Any) -> Any:
        raise DagsterInvariantViolationError("A server of a location has no instance")

    utils.get_instance_for_cli = no_instance


if __name__ == "__main__":
    stay_small()
    server.DagsterApiServer = LocationServer  # type: ignore[misc]
    cli(["api", "grpc", *sys.argv[1:]])
