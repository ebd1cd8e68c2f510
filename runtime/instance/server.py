"""`python -m runtime.instance.server`: `dagster api grpc` that drains runs on SIGTERM and survives Postgres outages.

It takes the options and environment variables of `dagster api grpc`.
"""

import json
import logging
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import synchronize
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Semaphore
from typing import Any, ClassVar

import click
from dagster import DagsterInstance
from dagster._cli.api import grpc_command
from dagster._cli.utils import resolve_serialized_defs_state_info
from dagster._core.origin import DEFAULT_DAGSTER_ENTRY_POINT, get_python_environment_entry_point
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.utils import FuturesAwareThreadPoolExecutor
from dagster._grpc.server import DagsterApiServer, DagsterGrpcServer
from dagster._grpc.types import ExecuteExternalJobArgs
from dagster._serdes import deserialize_value
from dagster._utils.log import configure_loggers
from dagster_postgres.utils import DagsterPostgresException
from dagster_shared.cli import PythonPointerOpts
from sqlalchemy.exc import OperationalError

from runtime.instance import run_lock

RETRY_SECONDS = 2.0


class TerminationEvent(synchronize.Event):
    """An event that can be set although a process that waits for it was killed.

    The standard one waits for each waiting process to wake up: the server would hang for ever, and its lock with it.
    """

    _flag: Semaphore

    def set(self) -> None:
        self._flag.release()

    def is_set(self) -> bool:
        return self.wait(0)

    def wait(self, timeout: float | None = None) -> bool:
        if reached := self._flag.acquire(timeout=timeout):
            self._flag.release()
        return reached


class RunProcess:
    """The process of a run. It is alive until it has ended, also if the process that it was forked from has died.

    `multiprocessing` then loses sight of it, and Dagster would restart a run that goes on.
    """

    def __init__(self, process: BaseProcess) -> None:
        self._process = process
        self._pidfd: int | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process, name)

    def start(self) -> None:
        self._process.start()
        with suppress(OSError, AttributeError):  # it has ended, or this is not Linux
            self._pidfd = os.pidfd_open(self._process.pid or -1)

    def is_alive(self) -> bool:
        if self._process.is_alive():
            return True
        if self._pidfd is not None and not _is_readable(self._pidfd):
            return True
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        return False


def _is_readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


class RunContext:
    """A context of `multiprocessing` whose events are `TerminationEvent`s, and its processes `RunProcess`es.

    `around`, if there is one, is called in place of each target, with it and its arguments.
    """

    def __init__(self, context: BaseContext, around: Callable[..., object] | None = None) -> None:
        self._context, self._around = context, around

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def Event(self) -> TerminationEvent:  # as `multiprocessing` calls it
        return TerminationEvent(ctx=self._context)

    def Process(self, target: Callable[..., object], args: Sequence[Any] = ()) -> RunProcess:
        process = self._context.Process  # type: ignore[attr-defined]  # each context has it
        given = (self._around, [target, *args]) if self._around else (target, args)
        return RunProcess(process(target=given[0], args=given[1]))


def execute(target: Callable[..., None], run: str, *args: Any) -> None:
    """The process of a run: Dagster's, with the run's lock. `run` is an ExecuteExternalJobArgs, serialized."""
    asked = deserialize_value(run, ExecuteExternalJobArgs)
    run_lock.hold(asked.run_id, asked.instance_ref)
    target(run, *args)


class LocationServer(DagsterApiServer):
    """Dagster's server of a location. Each of its runs is a process of its own."""

    # How the process of a run starts. May be replaced, for example by forks of a process that has the imports.
    process_context: ClassVar[BaseContext] = multiprocessing.get_context("spawn")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._mp_ctx = RunContext(self.process_context, execute)  # type: ignore[assignment]
        # Dagster ends at once on SIGTERM, and its runs with it. This server takes no new runs and ends after the last
        # one, unless Docker's `stop_grace_period` ends first.
        signal.signal(signal.SIGTERM, lambda *_: self._shutdown_once_executions_finish_event.set())

    def _clear_run(self, run_id: str) -> None:
        """Forgets a run. Two threads do so if its process dies as it starts, and in Dagster the second one fails."""
        for known in (self._executions, self._termination_events, self._termination_times):
            known.pop(run_id, None)

    def _check_for_orphaned_runs(self) -> None:
        """Reports run processes that died. Called in a thread that would end for good at the first exception."""
        try:
            super()._check_for_orphaned_runs()
        except Exception:
            self._logger.exception("Cannot reach Dagster's Postgres. Runs that died are reported later.")


def wait_for_instance(logger: logging.Logger) -> None:
    """Waits while Dagster's Postgres is down, for example because the machine was just started.

    A server that starts meanwhile would show the location as broken until somebody reloads it.
    """
    if not os.environ.get("DAGSTER_HOME"):
        return
    while True:
        try:
            with DagsterInstance.get():
                return
        except (OperationalError, DagsterPostgresException) as error:
            reason = error.__cause__ if isinstance(error, DagsterPostgresException) else error
            logger.warning("Waiting for Dagster's Postgres: %s", str(reason).strip().splitlines()[0])
            time.sleep(RETRY_SECONDS)


def serve(
    port: int | None,
    socket: str | None,
    host: str,
    max_workers: int | None,
    log_level: str,
    log_format: str,
    use_python_environment_entry_point: bool,
    empty_working_directory: bool,
    container_image: str | None,
    container_context: str | None,
    instance_ref: str | None,
    defs_state_info: str | None,
    enable_metrics: bool,
    **options: Any,
) -> None:
    """Serves one location until it is told to end. Takes the options of `dagster api grpc`, parsed."""
    if bool(port) == bool(socket):
        raise click.UsageError("Pass one of --port and --socket.")
    target = PythonPointerOpts.extract_from_cli_options(options)
    configure_loggers(formatter=log_format, log_level=log_level.upper())
    logger = logging.getLogger("dagster.code_server")
    ended = threading.Event()
    executor = FuturesAwareThreadPoolExecutor(max_workers=max_workers)
    state = resolve_serialized_defs_state_info(defs_state_info, logger)
    wait_for_instance(logger)
    location = LocationServer(
        server_termination_event=ended,
        logger=logger,
        server_threadpool_executor=executor,
        loadable_target_origin=LoadableTargetOrigin(
            executable_path=sys.executable,
            python_file=target.python_file,
            module_name=target.module_name,
            package_name=target.package_name,
            attribute=target.attribute,
            autoload_defs_module_name=target.autoload_defs_module_name,
            working_directory=None if empty_working_directory else target.working_directory or os.getcwd(),
        ),
        entry_point=get_python_environment_entry_point(sys.executable)
        if use_python_environment_entry_point
        else DEFAULT_DAGSTER_ENTRY_POINT,
        container_image=container_image or os.environ.get("DAGSTER_CURRENT_IMAGE"),
        container_context=json.loads(container_context) if container_context else None,
        instance_ref=deserialize_value(instance_ref) if instance_ref else None,
        defs_state_info=deserialize_value(state) if state else None,
        enable_metrics=enable_metrics,
        **options,
    )
    server = DagsterGrpcServer(
        server_termination_event=ended,
        dagster_api_servicer=location,
        logger=logger,
        threadpool_executor=executor,
        host=host,
        port=port,
        socket=socket,
        enable_metrics=enable_metrics,
    )
    logger.info("Serving %s on %s", target.module_name or target.python_file or target.package_name, port or socket)
    server.serve()  # type: ignore[no-untyped-call]


def main() -> None:
    command = click.Command("server", params=grpc_command.params, callback=serve)
    command.main(auto_envvar_prefix="DAGSTER_CLI_API_GRPC")


if __name__ == "__main__":
    # The module that others import, not a second copy of it called __main__: `process_context` is set there.
    from runtime.instance import server

    # Otherwise each process that `multiprocessing` starts here or in a run, such as a pool's, imports this module.
    __spec__ = None  # type: ignore[assignment]
    del __file__
    server.main()
