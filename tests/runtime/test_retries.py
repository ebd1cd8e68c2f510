"""What is tried again inside a run, what fails at once, and that nothing loads twice or not at all."""

import errno
import logging
import re
import socket
import subprocess
import sys
import time
import urllib.error
from collections import deque
from collections.abc import Callable, Iterator
from email.message import Message
from functools import partial
from queue import SimpleQueue
from typing import Any

import dagster as dg
import dlt
import psycopg2
import pytest
import requests
import yaml
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType
from dlt.common.exceptions import TerminalException
from dlt.common.schema import Schema
from dlt.extract.source import DltSource

from runtime.load import resource, retries
from runtime.load.resource import IsolatedDltResource
from runtime.load.source_state import source_state
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import warehouse_pipeline
from tests.support.paths import ROOT
from tests.support.warehouse import Warehouse


class NoSuchThingError(TerminalException):
    """As a source raises it for a 404."""


class Flaky:
    """Rows whose source fails the first times it is read, after half of them."""

    def __init__(self, *failures: Exception, disposition: Any = "merge") -> None:
        self.failures = failures
        self.reads = 0
        self.disposition = disposition

    def load(self, stock: bool = False, after: Exception | None = None, **options: Any) -> dg.ExecuteInProcessResult:
        """Materialize all; `after` is raised once everything is loaded."""
        resource = DagsterDltResource() if stock else IsolatedDltResource()
        return dg.materialize(
            [self.assets(lambda: after)], resources={"dlt": resource}, raise_on_error=False, **options
        )

    def assets(self, after: Callable[[], Exception | None]) -> dg.AssetsDefinition:
        """The assets; what `after` returns is raised once everything is loaded."""

        @dlt.source(name="flaky", section="flaky")
        def flaky() -> Any:
            @dlt.resource(primary_key="id", write_disposition=self.disposition)
            def rows() -> Iterator[Any]:
                """Rows."""
                self.reads += 1
                yield [{"id": i} for i in range(50)]
                if self.reads <= len(self.failures):
                    raise self.failures[self.reads - 1]
                yield [{"id": i} for i in range(50, 100)]

            return rows

        @dlt_assets(
            dlt_source=flaky(),
            dlt_pipeline=warehouse_pipeline("flaky", "raw_flaky"),
            dagster_dlt_translator=SourceTranslator(source="flaky"),
        )
        def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
            yield from dlt.run(context=context)
            if error := after():
                raise error

        return assets


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off is not what these tests are about."""
    monkeypatch.setattr(retries, "MAX_WAIT_SECONDS", 0.1)


def counted(warehouse: Warehouse) -> tuple[int, int]:
    [(rows, distinct)] = warehouse.rows("SELECT count(*), count(DISTINCT id) FROM raw_flaky.rows")
    return rows, distinct


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    [event] = result.get_step_failure_events()
    error = event.step_failure_data.error
    assert error is not None
    return error.message


@pytest.mark.parametrize("disposition", ["merge", "append", "replace"])
@pytest.mark.parametrize("stock", [pytest.param(True, marks=[pytest.mark.slow, pytest.mark.xfail(strict=True)]), False])
def test_a_broken_connection_is_tried_again_without_a_row_twice(
    warehouse: Warehouse, stock: bool, disposition: str
) -> None:
    flaky = Flaky(ConnectionError("reset by peer"), TimeoutError("no answer"), disposition=disposition)
    result = flaky.load(stock)

    assert result.success
    assert flaky.reads == 3
    assert counted(warehouse) == (100, 100)


@pytest.mark.parametrize("error", [NoSuchThingError("404"), ValueError("a bug"), FileNotFoundError("no such file")])
def test_what_cannot_pass_fails_at_once(warehouse: Warehouse, error: Exception) -> None:
    flaky = Flaky(error)
    result = flaky.load()

    assert not result.success
    assert flaky.reads == 1
    assert str(error) in failure_of(result)


def test_it_gives_up_in_the_end(warehouse: Warehouse) -> None:
    flaky = Flaky(*[ConnectionError(f"reset {i}") for i in range(9)])
    result = flaky.load()

    assert not result.success
    assert flaky.reads == 7
    assert "reset 6" in failure_of(result)


def test_a_warehouse_that_comes_back_is_waited_for(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    if warehouse.name == "duckdb":
        pytest.skip("DuckDB is a file")
    real = warehouse.credentials
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS", f"postgresql://postgres:-@127.0.0.1:{port}/x")
    attempts: list[str] = []

    def come_back(seconds: float) -> None:
        attempts.append("waited")
        monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS", real)

    monkeypatch.setattr(time, "sleep", come_back)
    result = Flaky().load()

    assert result.success, failure_of(result)
    assert attempts
    assert counted(warehouse) == (100, 100)


def test_a_run_started_again_refuses_to_append_and_says_why(warehouse: Warehouse) -> None:
    flaky = Flaky(disposition="append")
    result = flaky.load(tags={"dagster/retry_number": "1"})

    assert not result.success
    assert flaky.reads == 0
    assert "rows would append rows that the lost run" in failure_of(result)
    assert Flaky().load(tags={"dagster/retry_number": "1"}).success


BACKFILL, AGAIN = {"dagster/backfill": "one"}, {"dagster/backfill": "two", "dagster/parent_backfill_id": "one"}


@pytest.mark.parametrize("disposition", ["merge", "append"])
@pytest.mark.parametrize("tags", [(BACKFILL, AGAIN), ({}, None)], ids=["backfill", "run"])
@pytest.mark.parametrize("complete", [True, False])
def test_what_is_executed_again_by_hand_appends_only_after_a_complete_run(
    warehouse: Warehouse, disposition: str, tags: Any, complete: bool
) -> None:
    flaky = Flaky(disposition=disposition)
    with dg.DagsterInstance.local_temp() as instance:
        first = flaky.load(instance=instance, tags=tags[0], after=None if complete else OSError("lost"))
        again = tags[1] or {"dagster/parent_run_id": first.run_id, "dagster/root_run_id": first.run_id}
        second = flaky.load(instance=instance, tags=again)

    assert first.success is complete
    assert second.success is (complete or disposition == "merge")
    assert second.success or f"the lost run {first.run_id}" in failure_of(second)
    assert counted(warehouse) == (200 if complete and disposition == "append" else 100, 100)


def test_a_step_that_its_job_tries_again_does_not_append_twice(warehouse: Warehouse) -> None:
    flaky, failures = Flaky(disposition="append"), iter([OSError("after the load")])
    assets = flaky.assets(lambda: next(failures, None))
    job = dg.define_asset_job("flaky", [assets], op_retry_policy=dg.RetryPolicy(max_retries=1))
    location = dg.Definitions([assets], jobs=[job], resources={"dlt": IsolatedDltResource()})
    result = location.resolve_job_def("flaky").execute_in_process(raise_on_error=False)

    assert f"rows would append rows that the lost run {result.run_id}" in failure_of(result)
    assert counted(warehouse) == (100, 100)


def test_a_warehouse_that_stays_away_is_named(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    if warehouse.name == "duckdb":
        pytest.skip("DuckDB is a file")
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS", "postgresql://loader:canary-7f3a@127.0.0.1:1/x")
    result = Flaky().load()

    assert not result.success
    sentence = "Check that it is up, and DESTINATION__POSTGRES__CREDENTIALS__…: connection to server"
    assert sentence in failure_of(result)
    assert "canary" not in str([event.event_specific_data for event in result.all_events])


def test_a_warehouse_that_refuses_the_user_fails_at_once(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if warehouse.name == "duckdb":
        pytest.skip("DuckDB is a file")
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS", warehouse.credentials.replace("postgres:", "nobody:", 1))
    result = Flaky().load()

    assert not result.success
    assert "nobody" in failure_of(result)
    assert "Attempt 1" not in capfd.readouterr().err


OPENED = "import duckdb, sys; file = duckdb.connect(sys.argv[1]); print('opened', flush=True); sys.stdin.read()"


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_a_file_that_another_program_has_open_is_waited_for_and_named(
    warehouse: Warehouse, capfd: pytest.CaptureFixture[str]
) -> None:
    assert Flaky().load().success
    with subprocess.Popen(
        [sys.executable, "-c", OPENED, warehouse.credentials], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        assert program.stdout
        assert program.stdout.readline() == b"opened\n"
        result = Flaky().load()
        program.communicate()

    assert not result.success
    assert "Attempt 1" in capfd.readouterr().err
    assert f"PID {program.pid}" in failure_of(result)
    assert Flaky().load().success
    assert counted(warehouse) == (100, 100)


def test_a_full_disk_is_waited_for_and_named(warehouse: Warehouse) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert Flaky(full).load().success

    result = Flaky(*[full] * 9).load()
    assert not result.success
    assert "No space is left in" in failure_of(result)


@pytest.mark.parametrize(
    ("failures", "after", "again"),
    [([NoSuchThingError("404")], None, "false"), ([], OSError("Dagster's database went away"), "true")],
    ids=["the load", "what comes after"],
)
def test_only_a_run_whose_load_did_not_fail_is_started_again(
    warehouse: Warehouse, failures: list[Exception], after: Exception | None, again: str
) -> None:
    settings = yaml.safe_load((ROOT / "dagster.yaml").read_text())["run_retries"]
    with dg.DagsterInstance.local_temp(overrides={"run_retries": settings}) as instance:
        run_id = Flaky(*failures).load(instance=instance, after=after).run_id
        run = instance.get_run_by_id(run_id)
        assert run
        assert run.tags["dagster/will_retry"] == again


def read_queue() -> Callable[[], Iterator[Any]]:
    pages = deque([[{"id": 1}], [{"id": 2}], "broken", [{"id": 3}]])

    def rows() -> Iterator[Any]:
        while pages:
            if (page := pages.popleft()) == "broken":
                raise ConnectionError("reset by peer")
            yield page

    return rows


def read_from_position() -> Callable[[], Iterator[Any]]:
    """A number may also be a count of requests: which it is shows in the first row of the second read."""
    reader = Reader()

    def rows() -> Iterator[Any]:
        while reader.page < 5:
            reader.page += 1
            yield [{"id": reader.page}]
            if reader.page == 3:
                raise ConnectionError("reset by peer")

    return rows


@pytest.mark.parametrize("reading", [read_queue, read_from_position])
def test_a_source_that_remembers_is_read_again_in_a_new_run_only(
    warehouse: Warehouse, reading: Callable[[], Callable[[], Iterator[Any]]]
) -> None:
    """A second read in the same process would begin where the first one ended."""

    @dlt.source(name="flaky", section="flaky")
    def source() -> Any:
        return dlt.resource(reading(), name="rows", write_disposition="append")

    @dlt_assets(
        dlt_source=source(),
        dlt_pipeline=warehouse_pipeline("flaky", "raw_flaky"),
        dagster_dlt_translator=SourceTranslator(source="flaky"),
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        yield from dlt.run(context=context)

    settings = yaml.safe_load((ROOT / "dagster.yaml").read_text())["run_retries"]
    with dg.DagsterInstance.local_temp(overrides={"run_retries": settings}) as instance:
        options: dict[str, Any] = {"resources": {"dlt": IsolatedDltResource()}, "raise_on_error": False}
        failed = dg.materialize([assets], instance=instance, **options)
        run = instance.get_run_by_id(failed.run_id)
        assert run

    assert "reset by peer" in failure_of(failed)
    assert warehouse.datasets() == set()
    assert run.tags["dagster/will_retry"] == "true"
    assert not [tag for tag in run.tags if tag.startswith("dlt/")]  # it has not begun to append


class Reader:
    """A source's client. Its attributes are what it remembers."""

    __slots__ = ("page", "pages", "session")

    def __init__(self) -> None:
        self.page = 0
        self.pages: SimpleQueue[int] = SimpleQueue()
        self.session = requests.Session()

    def read(self) -> Iterator[int]:
        yield from range(3)

    def turn(self) -> Iterator[int]:
        self.page += 1
        yield self.page

    def take(self) -> Iterator[int]:
        self.pages.put(1)
        yield 1


LOGGER = logging.getLogger(__name__)
PAGE = 0
SESSION = requests.Session()


def turn_global() -> Iterator[int]:
    global PAGE
    PAGE += 1
    yield PAGE


def turn_default(seen: list[int] = []) -> Iterator[int]:  # noqa: B006
    seen.append(1)
    yield from seen


def turn_attribute() -> Iterator[int]:
    turn_attribute.page = getattr(turn_attribute, "page", 0) + 1  # type: ignore[attr-defined]
    yield 1


def turn_nested() -> Iterator[int]:
    def inner() -> Iterator[int]:
        yield from turn_global()

    yield from inner()


def log_and_match() -> Iterator[int]:
    LOGGER.info("%s", re.compile(r"\d").match("1"))
    SESSION.mount("http://one", requests.adapters.HTTPAdapter())
    yield 1


@pytest.mark.parametrize(
    ("read", "remembers"),
    [
        (Reader().turn, True),
        (Reader().take, True),
        (turn_global, True),
        (turn_default, True),
        (turn_attribute, True),
        (turn_nested, True),
        (Reader().read, False),
        (log_and_match, False),
        (partial(iter, range(3)), False),
    ],
    ids=["counter", "queue", "global", "default", "attribute", "nested", "reader", "logs-and-matches", "partial"],
)
def test_what_a_function_changes_is_what_it_remembers(read: Callable[[], Iterator[int]], remembers: bool) -> None:
    @dlt.resource
    def rows() -> Iterator[int]:
        yield from read()

    source = DltSource(Schema("flaky"), "flaky", [rows])
    before = source_state(source, strict=True)
    assert source_state(source, strict=True) == before

    list(read())

    assert (source_state(source, strict=True) != before) is remembers


def caused(error: Exception, cause: BaseException) -> Exception:
    try:
        raise error from cause
    except Exception as raised:
        return raised


def in_a_handler(error: Exception) -> Exception:
    try:
        try:
            raise ConnectionError
        except ConnectionError:
            raise error  # noqa: B904
    except Exception as raised:
        return raised


ITSELF = ValueError("its own cause")


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (ConnectionError("reset"), True),
        (requests.exceptions.ChunkedEncodingError("cut off"), True),
        (requests.exceptions.ReadTimeout("slow"), True),
        (caused(RuntimeError("page 3"), ConnectionError("reset")), True),
        (DagsterExecutionInterruptedError(), False),
        (caused(ITSELF, ITSELF), False),
        (in_a_handler(KeyError("a bug")), False),
        (requests.exceptions.MissingSchema("no scheme"), False),
        (requests.exceptions.JSONDecodeError("no JSON", "", 0), False),
        (requests.exceptions.SSLError("certificate verify failed: CERTIFICATE_VERIFY_FAILED"), False),
        (urllib.error.HTTPError("http://x", 404, "Not Found", Message(), None), False),
        (urllib.error.HTTPError("http://x", 503, "Unavailable", Message(), None), True),
        (NotADirectoryError("x"), False),
        (psycopg2.errors.CheckViolation("amount > 0"), False),
        (psycopg2.errors.DeadlockDetected("deadlock"), True),
    ],
    ids=repr,
)
def test_only_what_may_pass_is_transient(error: BaseException, transient: bool) -> None:
    assert retries.is_transient(error) is transient


def test_a_host_that_cannot_be_resolved_is_named(warehouse: Warehouse) -> None:
    cause = requests.exceptions.ConnectionError(
        "HTTPSConnectionPool(host='api.nowhere.invalid', port=443): Max retries exceeded with url: /v1 (Caused by "
        "NameResolutionError(\"Failed to resolve 'api.nowhere.invalid' ([Errno -2] Name or service not known)\"))"
    )
    flaky = Flaky(cause)
    result = flaky.load()

    sentence = "Cannot resolve api.nowhere.invalid. Check the address, and that this container is online."
    assert sentence in failure_of(result)
    assert flaky.reads == 1


def test_a_load_that_the_warehouse_refuses_names_the_table_and_the_reason(warehouse: Warehouse) -> None:
    assert Flaky().load().success
    with warehouse_pipeline("flaky", "raw_flaky").sql_client() as client:
        if warehouse.name == "duckdb":
            pytest.skip("DuckDB cannot add a constraint to a table")
        client.execute_sql("ALTER TABLE raw_flaky.rows ADD CONSTRAINT small CHECK (id < 50) NOT VALID")
    result = Flaky().load()

    assert 'load failed: table rows: new row for relation "rows" violates check constraint "small"' in failure_of(
        result
    )
    assert "Traceback" not in failure_of(result)


def test_an_error_after_the_load_does_not_load_again(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise OSError("the state cannot be written")

    monkeypatch.setattr(resource, "resource_metadata", fail)
    flaky = Flaky(disposition="append")
    result = flaky.load()

    assert "the state cannot be written" in failure_of(result)
    assert flaky.reads == 1
    assert counted(warehouse) == (100, 100)
