"""Where loads go: the `WAREHOUSE` switch, the pipelines that point at it, and turns on a DuckDB file."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, lru_cache, partial
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dlt
from dlt.common.destination import AnyDestination, Destination, DestinationCapabilitiesContext
from dlt.common.destination.exceptions import DestinationUndefinedEntity, UnknownDestinationModule
from dlt.common.normalizers.naming import NamingConvention
from dlt.destinations.impl.duckdb.configuration import DuckDbCredentials
from dlt.destinations.sql_client import SqlClientBase, WithSchemas
from filelock import FileLock, Timeout

from runtime.parquet import PLAIN

if TYPE_CHECKING:
    from runtime.clients.duckdb import DuckDbFromFiles
    from runtime.clients.postgres import PostgresIntoNew


DEFAULT_WAREHOUSE = "duckdb"
DEFAULT_DUCKDB_FILE = "data/warehouse.duckdb"
# dlt's own choice truncates the table before it loads: a reader then, or after a crash, would find it empty.
REPLACE = {"replace_strategy": "insert-from-staging"}
# What dlt is told unless its own variables say otherwise (DESTINATION__POSTGRES__REPLACE_STRATEGY=…).
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "duckdb": REPLACE
    | {
        # dlt's own choice, insert_values, takes 2.4 times as long and 11 times the memory (10,000 issues, 90,000 rows).
        "preferred_loader_file_format": "parquet",
        "parquet_format": PLAIN,
    },
    # Each job has two connections, of the hundred that a server has: dlt's own choice, 20 jobs, would take 40, and four
    # loads at once more than there are. Ten million rows take 0.95 of the time.
    "postgres": REPLACE | {"parquet_format": PLAIN, "max_parallel_load_jobs": 4},
    "snowflake": REPLACE,
    "filesystem": {"preferred_loader_file_format": "parquet"},
}

# What a source yields is not compressed until it is normalized: it took a tenth of a load from an API (10,000 issues).
dlt.config["sources.data_writer.disable_compression"] = True
# Files of one table are loaded at once: a million rows into Postgres take 0.91 of the time. Each is a transaction,
# so an append of more rows is one no longer; a merge or a replace, which go through staging, still are.
dlt.config["sources.data_writer.file_max_items"] = 500_000
# DuckDB may keep rows in another order than they came in: 0.88 of the time (a million rows). As a variable, since dlt
# takes nothing about credentials from its configuration.
os.environ.setdefault("DESTINATION__DUCKDB__CREDENTIALS__GLOBAL_CONFIG", '{"preserve_insertion_order": false}')


class _SameCapabilities(Destination[Any, Any]):
    """What a destination can do is the same however it is configured: true of dlt's DuckDB and Postgres."""

    def capabilities(
        self, config: Any = None, naming: NamingConvention | None = None
    ) -> DestinationCapabilitiesContext:
        # dlt would resolve the configuration first, twenty times in a load: a sixth of a small one's CPU.
        return super().capabilities(self.spec() if config is None else config, naming)


class DuckDb(_SameCapabilities, dlt.destinations.duckdb):
    """dlt's, with a client of our own. By the name of dlt's, which its state has."""

    destination_type = "dlt.destinations.duckdb"

    @property
    def client_class(self) -> type["DuckDbFromFiles"]:
        from runtime.clients.duckdb import DuckDbFromFiles  # the drivers are imported when a load needs them

        return DuckDbFromFiles


class Postgres(_SameCapabilities, dlt.destinations.postgres):
    """The same with Postgres."""

    destination_type = "dlt.destinations.postgres"

    @property
    def client_class(self) -> type["PostgresIntoNew"]:
        from runtime.clients.postgres import PostgresIntoNew

        return PostgresIntoNew


OURS: Mapping[str, Any] = {"duckdb": DuckDb, "postgres": Postgres}


def warehouse_pipeline(pipeline_name: str, dataset_name: str) -> dlt.Pipeline:
    """The pipeline that a `@dlt_assets` names: it says where to load, and is never run itself.

    `pipeline_name` is the lineage of the cursors and must stay the same for ever. The working directory is
    private to the process: `dlt.pipeline()` writes there at import, and two processes that import the same
    location at once would otherwise delete each other's files.
    """
    return dlt.pipeline(
        pipeline_name=pipeline_name,
        dataset_name=dataset_name,
        destination=_destination(),
        pipelines_dir=_import_directory(),
    )


def count(pipeline: dlt.Pipeline, sql: str, *parameters: Any) -> int | None:
    """The number that a `SELECT count(*) …` gives in the pipeline's dataset; None where a table does not exist yet.

    Parameters stand as `%s` in the statement.
    """
    try:
        with warehouse_turn(pipeline), _reader(pipeline) as client:
            rows = client.execute_sql(sql, *parameters)
    except DestinationUndefinedEntity:
        return None
    return int(rows[0][0]) if rows else None


def _reader(pipeline: dlt.Pipeline) -> SqlClientBase[Any]:
    """A client for queries. A table of files is there only if dlt knows its schema, which lies beside the files."""
    client = pipeline.sql_client()
    return pipeline.dataset().sql_client if isinstance(client, WithSchemas) else client


def data_directory(*parts: str) -> Path:
    """A folder below dlt's data directory (`DLT_DATA_DIR`), made if it is missing."""
    path = Path(dlt.current.run_context().data_dir).joinpath(*parts)
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def warehouse_turn(pipeline: dlt.Pipeline, log: Callable[[str], None] | None = None) -> Iterator[None]:
    """Waits for this process's turn on the warehouse, where the warehouse can take only one process at a time.

    DuckDB locks its file against every other process, and dlt does not wait for it: the load fails. All who touch
    the file therefore queue at a lock beside it. Other destinations pass straight through.
    """
    if (credentials := _single_process_file(pipeline)) is None:
        yield
        return
    database = Path(credentials.database)
    database.parent.mkdir(parents=True, exist_ok=True)
    with waiting_lock(Path(f"{database}.lock"), f"another run is using {database.name}", log), _kept_open(credentials):
        yield


@contextmanager
def _kept_open(credentials: DuckDbCredentials) -> Iterator[None]:
    """Opens the file for the whole turn. dlt would open and close it four times in a load: a third of a small one."""
    pool = credentials.conn_pool
    assert pool  # there is one as soon as they are resolved
    try:
        connection = pool.borrow_conn()
    except Exception:  # whatever is wrong with it, dlt finds as well, and says what
        yield
        return
    try:
        yield
    finally:
        pool.return_conn(connection)


@contextmanager
def waiting_lock(path: Path, reason: str, log: Callable[[str], None] | None = None) -> Iterator[None]:
    """Holds a lock between processes, and says in the log why it has to wait for it."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if log:
            log(f"Waiting: {reason}.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@lru_cache(maxsize=64)  # of pipelines: dlt resolves the whole configuration to tell, 15 ms each time
def _single_process_file(pipeline: dlt.Pipeline) -> DuckDbCredentials | None:
    """How to open the DuckDB file that a pipeline loads into; None for what takes many connections, or is in memory."""
    credentials = getattr(pipeline.destination_client().config, "credentials", None)
    if not isinstance(credentials, DuckDbCredentials) or credentials.is_partial():
        return None
    if credentials.database == ":memory:" or credentials.external_conn() is not None:
        return None
    return credentials


def warehouse_name() -> str:
    """The destination that the switch is at."""
    return os.environ.get("WAREHOUSE", "").strip() or DEFAULT_WAREHOUSE


def _destination() -> AnyDestination:
    name = warehouse_name()
    options = {key: value for key, value in OPTIONS.get(name, {}).items() if not _configured(name, key)}
    if name == "duckdb" and not _configured(name, "credentials"):
        options["credentials"] = DEFAULT_DUCKDB_FILE
    try:
        make = OURS.get(name) or partial(Destination.from_reference, name)
        destination: AnyDestination | None = make(**options)
    except UnknownDestinationModule as error:
        raise ValueError(
            f"WAREHOUSE={name} is not a destination that dlt knows. Set it to duckdb, postgres, snowflake or "
            "another name from https://dlthub.com/docs/dlt-ecosystem/destinations."
        ) from error
    assert destination is not None
    return destination


def _configured(destination: str, key: str) -> bool:
    return bool(dlt.config.get(f"destination.{destination}.{key}") or dlt.config.get(f"destination.{key}"))


@cache
def _import_directory() -> str:
    """Removed when the process ends, a run's too: those are forks, which `tempfile.TemporaryDirectory` does not see."""
    path = tempfile.mkdtemp(prefix="dlt-import-")
    Finalize(None, shutil.rmtree, args=(path, True), exitpriority=0)
    return path
