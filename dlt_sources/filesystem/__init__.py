"""Files that arrive in a folder or an S3-compatible bucket, by subfolder: `orders/2026-01-31.csv` → table `orders`.

dlt's own `filesystem` source lists and opens the files. This source decides which are new, and what happens to a broken
one:

- A file is loaded once, and again when its modification date or its size has changed. The state has both for each file:
  with a single cursor, a file that arrives with an old date (`cp -p`, `mv`, `rsync`) would be missed.
- Each row has its file, the file's modification date and the row's number (`_file`, `_file_modified_at`, `_file_row`).
  A file that is loaded again replaces its own rows. Rows of a removed file stay, so files may be archived once loaded.
- A broken file is left out completely, with the reason, and every load tries it again. The other files are loaded.

Write a file under a name that begins with `.` or `_`, which is never read, and rename it when it is complete. A file
that changes while it is read is left to the next load. A file whose writer pauses looks complete: its rows are replaced
once the rest is there. Two versions of an S3 object with the same size and within the same second look the same.

Variables: SOURCES__FILESYSTEM__BUCKET_URL; for a bucket optional SOURCES__FILESYSTEM__CREDENTIALS__AWS_ACCESS_KEY_ID,
SOURCES__FILESYSTEM__CREDENTIALS__AWS_SECRET_ACCESS_KEY (by default boto's own sources, such as the machine's role),
SOURCES__FILESYSTEM__CREDENTIALS__ENDPOINT_URL and SOURCES__FILESYSTEM__CREDENTIALS__REGION_NAME.
"""

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import dlt
import pyarrow as pa
from botocore.exceptions import BotoCoreError, HTTPClientError
from botocore.exceptions import ConnectionError as NoConnection
from dlt.common import logger
from dlt.common.configuration.specs import AwsCredentials, BaseConfiguration
from dlt.common.storages.configuration import FilesystemConfiguration
from dlt.common.storages.fsspec_filesystem import MTIME_DISPATCH, FileItemDict, fsspec_filesystem
from dlt.extract import DltResource
from dlt.extract.exceptions import ResourceExtractionError
from dlt.sources.filesystem import filesystem
from fsspec import AbstractFileSystem

from dlt_sources import settings
from dlt_sources.columns import columns
from dlt_sources.errors import PermanentSourceError, TransientSourceError
from dlt_sources.filesystem.readers import (
    READERS,
    BrokenFile,
    KeyCheck,
    Rows,
    SameTypes,
    check_columns,
    check_nul,
    check_values,
    check_width,
    known_columns,
)

__all__ = ["filesystem_tables", "list_files"]

BUCKET_URL = settings.variable("filesystem", "bucket_url")
CREDENTIALS = settings.variable("filesystem", "credentials")


# `spec=BaseConfiguration` switches dlt's injection off: it would take arguments from any variable of that name.
@dlt.source(name="filesystem", section="filesystem", spec=BaseConfiguration)
def filesystem_tables(
    tables: Mapping[str, str], broken: dict[str, str] | None = None, full_reload: bool = False
) -> Iterator[DltResource]:
    """One resource per table. `tables` maps each to the format of its files: csv, jsonl or parquet, gzipped or not.

    Broken files are logged and added to `broken` (file → line and reason); they do not fail the load.
    """
    for table, file_format in tables.items():
        yield _resource(table, file_format, {} if broken is None else broken, full_reload)


def list_files(tables: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The files of each table with the version of each: `{table: {file: version}}`."""
    return {
        table: {item["relative_path"]: _version(item) for item in _files(table, file_format)}
        for table, file_format in tables.items()
    }


def _resource(table: str, file_format: str, broken: dict[str, str], full_reload: bool) -> DltResource:
    def rows() -> Iterator[Any]:
        state = dlt.current.resource_state()
        is_first, has_rows = "files" not in state, False
        destination = dlt.current.pipeline().destination
        for_postgres = destination is not None and destination.destination_type.endswith("postgres")
        loaded: dict[str, str] = state.get("files", {})
        items = {item["relative_path"]: item for item in _files(table, file_format)}
        # Removed files are dropped from the state, so that it does not grow for ever.
        state["files"] = {path: version for path, version in loaded.items() if path in items}
        known = known_columns(table)
        root = dlt.current.source_schema().naming.normalize_table_identifier(table)
        same_types = SameTypes(known[root])
        for path, item in items.items():
            broken.pop(path, None)  # of an earlier attempt of the same load
            if loaded.get(path) == _version(item) and not full_reload:
                continue
            try:
                with _copy(item) as copy:
                    if copy is None:
                        logger.warning(f"{path} changed while it was read; it is left to the next load.")
                        continue
                    # Read to the end before the first row is passed on, so that no row of a broken file is loaded.
                    count, columns, check_keys = 0, deepcopy(known), KeyCheck(table, reserved=_COLUMNS)
                    schema = None
                    if for_postgres:
                        check_nul(copy, file_format)
                    for batch in READERS[file_format](copy):
                        if isinstance(batch, pa.RecordBatch):
                            columns[root] |= check_columns(batch.schema, table, reserved=_COLUMNS)
                            schema = same_types(batch).schema
                            check_values(batch, for_postgres)
                        else:
                            check_keys(batch, count + 1, columns)
                        if for_postgres:
                            check_width(columns)
                        count += len(batch)
                    has_rows = has_rows or count > 0
                    copy.seek(0)
                    if path in loaded and not count:
                        yield _emptied(path, file_format)
                    if schema:
                        same_types.remember(schema, path)
                    batches = READERS[file_format](copy)
                    yield from _with_file(map(same_types, batches) if schema else batches, item)
            except BrokenFile as error:
                broken[path] = str(error)
                logger.error(f"{path} is broken and was left out: {error}")
            else:
                known = columns
                state["files"][path] = _version(item)
        if is_first and not has_rows:  # the table is created even if no row has arrived yet
            # dlt cannot load a Parquet file without rows into Postgres, and has columns in an empty table that Arrow
            # rows lack.
            empty = dlt.mark.materialize_table_schema() if file_format == "jsonl" else _EMPTY
            yield dlt.mark.with_hints(empty, dlt.mark.make_hints(file_format="preferred"))

    rows.__doc__ = f"Rows of all files `{table}/*.{file_format}` that have arrived and are not broken."
    return dlt.resource(
        rows,
        name=table,
        write_disposition="merge",
        merge_key="_file",
        columns=_COLUMNS,
        # Parquet keeps Arrow as it is. In CSV, dlt's default for Postgres, empty text would become null.
        file_format="preferred" if file_format == "jsonl" else "parquet",
    )


def _version(item: Mapping[str, Any]) -> str:
    return f"{item['modification_date'].isoformat()} {item['size_in_bytes']}"


def _with_file(batches: Iterator[Rows], item: FileItemDict) -> Iterator[Rows]:
    """The rows of a file with the columns of their origin."""
    path, modified, row = item["relative_path"], item["modification_date"], 0
    for batch in batches:
        numbers = range(row + 1, row + len(batch) + 1)
        row += len(batch)
        if isinstance(batch, pa.RecordBatch):
            origin = ([path] * len(batch), [modified] * len(batch), numbers)
            for field, values in zip(_ORIGIN, origin, strict=True):
                batch = batch.append_column(field, pa.array(values, field.type))
            yield batch
        else:
            yield [
                {**fields, "_file": path, "_file_modified_at": modified, "_file_row": number}
                for number, fields in zip(numbers, batch, strict=True)
            ]


def _emptied(path: str, file_format: str) -> Rows:
    """A row that is not loaded but deletes all rows of its file, in which there may be none any more."""
    rows = [{"_file": path, "_file_row": 0, "_file_emptied": True}]
    return rows if file_format == "jsonl" else pa.RecordBatch.from_pylist(rows, _EMPTY.schema)


def _files(table: str, file_format: str) -> list[FileItemDict]:
    """The files of a table, in any folder below its own, by name. Names that begin with `.` or `_` are ignored."""
    url = settings.require("filesystem", "bucket_url", "to a folder or to s3://bucket/folder").rstrip("/")
    with _explain_errors(url):
        items = list(filesystem(url, _client(url), file_glob=f"{table}/**/*"))
    endings = (f".{file_format}", f".{file_format}.gz")
    return sorted(
        (
            item
            for item in items
            if item["relative_path"].lower().endswith(endings)
            and not any(part.startswith((".", "_")) for part in item["relative_path"].split("/"))
        ),
        key=lambda item: str(item["relative_path"]),
    )


def _client(url: str) -> AbstractFileSystem:
    if FilesystemConfiguration.is_local_path(url) or url.startswith("file:"):
        path = url if url.startswith("file:") else FilesystemConfiguration.make_file_url(url)
        if not Path(FilesystemConfiguration.make_local_path(path)).is_dir():
            raise PermanentSourceError(f"{BUCKET_URL}: the folder {url} does not exist.")
        return fsspec_filesystem("file")[0]
    if not url.startswith("s3://") or "@" in url:
        raise PermanentSourceError(f"{BUCKET_URL} must be a folder or s3://bucket/folder.")
    timeouts = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 2}}
    return fsspec_filesystem(url, _credentials(), kwargs={"config_kwargs": timeouts})[0]


def _credentials() -> AwsCredentials:
    """The credentials as configured; those of the machine if there is no key."""
    keys = ("aws_access_key_id", "aws_secret_access_key", "endpoint_url", "region_name")
    given: dict[str, Any] = {
        key: settings.read("filesystem.credentials", key, "to read from a bucket", secret=True) or None for key in keys
    }
    if (given["aws_access_key_id"] is None) != (given["aws_secret_access_key"] is None):
        missing = "AWS_SECRET_ACCESS_KEY" if given["aws_access_key_id"] else "AWS_ACCESS_KEY_ID"
        raise PermanentSourceError(
            f"{CREDENTIALS}__{missing} is missing, empty or a placeholder: the key's id and secret must both be set."
        )
    endpoint = urlsplit(given["endpoint_url"] or "https://s3")
    if endpoint.scheme not in ("http", "https") or not endpoint.hostname or "@" in endpoint.netloc:
        raise PermanentSourceError(f"{CREDENTIALS}__ENDPOINT_URL must look like https://s3.example.com.")
    credentials = AwsCredentials(**given)
    if given["aws_access_key_id"] is None:
        credentials.on_partial()
        if not credentials.has_default_credentials():
            raise PermanentSourceError(
                f"{CREDENTIALS}__AWS_ACCESS_KEY_ID and {CREDENTIALS}__AWS_SECRET_ACCESS_KEY are missing, empty or "
                "placeholders, and this machine has no role: set them to read from a bucket."
            )
    return credentials


@contextmanager
def _explain_errors(url: str) -> Iterator[None]:
    """Raises errors of the bucket as a SourceError that says what to change."""
    try:
        yield
    except (ResourceExtractionError, BotoCoreError, OSError, ValueError) as error:
        cause = error.__cause__ if isinstance(error, ResourceExtractionError) and error.__cause__ else error
        if isinstance(cause, FileNotFoundError) and url.startswith("s3://"):  # a folder was checked before
            raise PermanentSourceError(f"{BUCKET_URL}: {url} does not exist ({cause}).") from error
        if isinstance(cause, PermissionError):
            raise PermanentSourceError(
                f"Access to {url} is denied ({cause}): check {CREDENTIALS}__AWS_ACCESS_KEY_ID and its secret."
            ) from error
        if isinstance(cause, HTTPClientError | NoConnection | OSError):
            raise TransientSourceError(f"{url} cannot be reached ({cause}).") from error
        raise PermanentSourceError(f"{BUCKET_URL} and {CREDENTIALS}__… do not form a valid URL ({cause}).") from error


@contextmanager
def _copy(item: FileItemDict) -> Iterator[IO[bytes] | None]:
    """The file's content, unpacked, in a temporary file; None if the file was changed or removed meanwhile."""
    folder = Path(dlt.current.run_context().data_dir)  # on a disk, which /tmp in a container is not
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as copy:
        path = item["file_url"] if "s3" in item.fsspec.protocol else item.local_file_path
        try:
            with item.open() as file:
                shutil.copyfileobj(file, copy, 1024 * 1024)
        except FileNotFoundError:
            yield None
            return
        except PermissionError as error:
            raise BrokenFile(f"access is denied ({error.strerror or error})") from error
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise BrokenFile(f"not gzip, or incomplete ({error})") from error
        except (BotoCoreError, OSError) as error:
            raise TransientSourceError(f"{item['relative_path']} cannot be read at the moment ({error}).") from error
        now = item.fsspec.info(path)
        modified = MTIME_DISPATCH["s3" if "s3" in item.fsspec.protocol else "file"](now)
        is_same = _version(item) == _version({"modification_date": modified, "size_in_bytes": now["size"]})
        copy.seek(0)
        yield copy if is_same else None


_ORIGIN = (
    pa.field("_file", pa.string(), nullable=False),
    pa.field("_file_modified_at", pa.timestamp("us", "UTC")),
    pa.field("_file_row", pa.int64()),
)
_EMPTY = pa.RecordBatch.from_pylist([], pa.schema([*_ORIGIN, pa.field("_file_emptied", pa.bool_())]))
_COLUMNS = columns(
    _file=("text", "File that the row was read from: its path below the folder or bucket."),
    _file_modified_at=("timestamp", "Modification date of the file when it was loaded (UTC)."),
    _file_row=("bigint", "Number of the row in its file, from 1."),
    _file_emptied=("bool", "Always null: used to remove the rows of a file that is replaced."),
)
_COLUMNS["_file_emptied"]["hard_delete"] = True
