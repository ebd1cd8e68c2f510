"""A shop's orders, loaded by processes that can be killed or paused at a given point.

Each `Load` is a run in its own process, forked from a server that has only imported modules. Hooks in dlt's methods,
installed in that process only, kill or pause it; the runtime itself is unchanged.
"""

import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import dlt
from dagster._core.storage.tags import PARENT_RUN_ID_TAG, RETRY_NUMBER_TAG, ROOT_RUN_ID_TAG
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType
from dlt.common.destination.client import RunnableLoadJob
from dlt.destinations.job_client_impl import SqlJobClientBase, SqlLoadJob
from dlt.normalize.normalize import Normalize

from runtime.instance import advisory_lock
from runtime.load import sweep
from runtime.load.resource import IsolatedDltResource
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import warehouse_pipeline
from tests.support.processes import FORK

SHOPS = ["north", "south", "west"]
PAGE = 2
Reach = Callable[[str], None]
# Where a load can be killed, in order. A load that never reaches its point is killed at the last one.
POINTS = [
    *["page 1", "page 2"],  # extracted
    *["normalize", "normalized"],
    "tables",  # created, but not yet recorded in _dlt_version
    *["job 1", "job 2", "job 3", "job 4"],  # about to start
    "uncommitted",  # a merge or a replace from staging before its COMMIT
    *["complete", "completed"],  # before and after the row in _dlt_loads
    "returned",  # dlt has finished; the staging dataset still exists
]


@dataclass(frozen=True)
class Disposition:
    """How orders are loaded."""

    write: Any
    incremental: bool = True  # otherwise each load reads everything
    partitioned: bool = True  # by shop
    merge_key: Any = None
    replace_strategy: str = "truncate-and-insert"


@dataclass(frozen=True)
class Load:
    """A run: its partition, where it is killed or paused, and whether it is a retry by Dagster, or of whom by hand."""

    shop: str
    crash: str | None = None
    pause: str | None = None
    retry: bool = False
    parent: str | None = None  # the id of the run that is executed again by hand


@dataclass(frozen=True)
class Plan:
    """Everything that a run's process needs to know."""

    load: Load
    disposition: Disposition
    rows: list[dict[str, Any]]  # the API's response
    environment: dict[str, str]
    instance: Path
    lost: list[str]  # ids of runs whose processes were killed
    home: str = ""  # the folder of an instance in Postgres: the run is on a machine of its own
    run_id: str = field(default_factory=lambda: str(uuid4()))


class Run:
    """A run in its process, controlled by a test."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.said: int | str | None = ""
        self.connection, theirs = FORK.Pipe()
        self.process = FORK.Process(target=work, args=(plan, theirs))
        self.process.start()
        theirs.close()

    def hears(self) -> int | str | None:
        """The run's next message: "paused", "waiting", the rows loaded, or an error; None if it was killed."""
        assert self.connection.poll(60), "the run hangs"
        try:
            self.said = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            assert self.process.exitcode == -signal.SIGKILL, f"a run's process ended with {self.process.exitcode}"
            self.said = None
        return self.said

    def go_on(self) -> None:
        self.said = ""
        self.connection.send("go on")

    def outcome(self) -> int | str | None:
        """The run's last message: the rows loaded, or an error; None if it was killed."""
        while self.said in ("", "paused", "waiting"):
            if self.said == "paused":
                self.go_on()
            self.hears()
        self.process.join()
        self.connection.close()
        return self.said


def work(plan: Plan, test: Connection) -> None:
    """The process of a run."""
    os.environ |= plan.environment
    with open(plan.instance / "stderr.log", "a") as log:
        os.dup2(log.fileno(), 2)
    sweep.SETTLED_SECONDS = sweep.KEEP_FILES_SECONDS = 0
    if plan.home:
        os.environ["DLT_DATA_DIR"] = f"{os.environ['DLT_DATA_DIR']}/machines/{plan.run_id}"
        advisory_lock.SETTLED_SECONDS = 0
        instance = dg.DagsterInstance.from_config(plan.home)
    else:
        instance = dg.DagsterInstance.local_temp(str(plan.instance))
    for run_id in plan.lost:  # as run monitoring would
        run = instance.get_run_by_id(run_id)
        assert run
        instance.report_run_failed(run)
    assets = orders_assets(plan, hooks(plan.load, test))
    location = dg.Definitions([assets], resources={"dlt": IsolatedDltResource()})
    result = location.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        partition_key=plan.load.shop or None,
        raise_on_error=False,
        run_id=plan.run_id,
        tags=tags_of(plan.load),
    )
    if result.success:
        [event] = result.get_asset_materialization_events()
        test.send(event.materialization.metadata["rows_loaded"].value)
    else:
        test.send(str(result.get_step_failure_events()[0].step_failure_data.error))


def tags_of(load: Load) -> dict[str, str]:
    if load.parent:
        return {PARENT_RUN_ID_TAG: load.parent, ROOT_RUN_ID_TAG: load.parent}
    return {RETRY_NUMBER_TAG: "1"} if load.retry else {}


def orders_assets(plan: Plan, reach: Reach) -> dg.AssetsDefinition:
    """The assets that load orders."""

    def pages() -> Iterator[Any]:
        """Orders, with their lines."""
        for number, start in enumerate(range(0, len(plan.rows), PAGE), 1):
            yield plan.rows[start : start + PAGE]
            reach(f"page {number}")

    @dlt.source(name="orders", section="orders")
    def orders() -> Any:
        return dlt.resource(
            pages,
            name="orders",
            primary_key=["shop", "id"],
            merge_key=plan.disposition.merge_key,
            write_disposition=plan.disposition.write,
            incremental=dlt.sources.incremental("changed_at", 0) if plan.disposition.incremental else None,
        )

    @dlt_assets(
        dlt_source=orders(),
        dlt_pipeline=warehouse_pipeline("orders", "raw_orders"),
        name="orders",
        dagster_dlt_translator=SourceTranslator(source="orders"),
        partitions_def=dg.StaticPartitionsDefinition(SHOPS) if plan.disposition.partitioned else None,
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        yield from dlt.run(context=context)

    return assets


def hooks(load: Load, test: Connection) -> Reach:
    """Install a hook at each point, for the rest of this process. Returns the hook that the source calls."""

    def reach(point: str) -> None:
        if point == load.pause:
            test.send("paused")
            test.recv()
        if load.crash and point in (load.crash, POINTS[-1]):
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(owner: type, method: str, before: Callable[[], str] | None, after: str | None = None) -> None:
        original = getattr(owner, method)

        @wraps(original)
        def hooked(*args: Any, **kwargs: Any) -> Any:
            if before:
                reach(before())
            result = original(*args, **kwargs)
            if after:
                reach(after)
            return result

        setattr(owner, method, hooked)

    begin, flock, jobs = SqlLoadJob.maybe_transaction, fcntl.flock, count(1)
    query = advisory_lock._query

    @contextmanager
    def transaction(job: SqlLoadJob, sql: str) -> Iterator[None]:
        with begin(job, sql):
            yield
            reach("uncommitted")

    def flock_or_say(file: Any, operation: int) -> None:
        if operation in (fcntl.LOCK_SH, fcntl.LOCK_EX):  # the runtime tries without blocking first
            test.send("waiting")
        flock(file, operation)

    def query_or_say(connection: Any, statement: str, *parameters: Any, **options: Any) -> Any:
        if "pg_advisory_lock" in statement:  # it tries without blocking first, too
            test.send("waiting")
        return query(connection, statement, *parameters, **options)

    advisory_lock._query = query_or_say
    setattr(SqlLoadJob, "maybe_transaction", transaction)  # noqa: B010
    setattr(fcntl, "flock", flock_or_say)  # noqa: B010
    hook(Normalize, "spool_schema_files", lambda: "normalize", "normalized")
    hook(SqlJobClientBase, "_update_schema_in_storage", lambda: "tables")
    hook(RunnableLoadJob, "run_managed", lambda: f"job {next(jobs)}")
    hook(SqlJobClientBase, "complete_load", lambda: "complete", "completed")
    hook(dlt.Pipeline, "run", None, "returned")
    return reach
