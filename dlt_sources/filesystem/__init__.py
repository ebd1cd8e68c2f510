"""Files as they arrive in a folder or an S3-compatible bucket, by subfolder: `orders/2026-01-31.csv` → table `orders`.

Built on dlt's own `filesystem` source, which lists and opens; what it leaves to the user is here: which files are
new, and what becomes of a broken one.

- A file is loaded once, and again when its modification date or its size has changed. Both are remembered per file,
  not as one cursor: a file that is copied in with an old date (`cp -p`, `mv`, `rsync`) is new all the same.
- Rows know their file, its modification date and their place in it (`_file`, `_file_modified_at`, `_file_row`). A file
  that is loaded again replaces its own rows. Those of a file that is gone stay: files may be archived once loaded.
- A broken file is left out whole, says why, and is tried again by every load until it is mended. The others load.

Whoever puts files there should write them under a name that begins with `.` or `_`, which is never read, and rename
them when they are complete. A file that changes while it is read is left to the next load; one that pauses half
way cannot be told from a whole one, and its rows are replaced when the rest has come. Two versions of an S3 object of
the same size within one second look alike.

Variables: SOURCES__FILESYSTEM__BUCKET_URL; for a bucket optional SOURCES__FILESYSTEM__CREDENTIALS__AWS_ACCESS_KEY_ID,
SOURCES__FILESYSTEM__CREDENTIALS__AWS_SECRET_ACCESS_KEY (without them boto's usual places, such as the machine's
role), SOURCES__FILESYSTEM__CREDENTIALS__ENDPOINT_URL and SOURCES__FILESYSTEM__CREDENTIALS__REGION_NAME.
"""

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import dlt
import pyarrow as pa
from botocore.exceptions import BotoCoreError, HTTPClientError
from botocore.exceptions import ConnectionError as NoConnection
from dlt.common import logger
from dlt.common.configuration.specs import AwsCredentials, BaseConfiguration
from dlt.common.schema.typing import TTableSchemaColumns
from dlt.common.storages.configuration import FilesystemConfiguration
from dlt.common.storages.fsspec_filesystem import MTIME_DISPATCH, FileItemDict, fsspec_filesystem
from dlt.extract import DltResource
from dlt.extract.exceptions import ResourceExtractionError
from dlt.sources.filesystem import filesystem
from fsspec import AbstractFileSystem

from dlt_sources.filesystem.readers import READERS, BrokenFile, Rows, check_columns
from dlt_sources.http import PermanentSourceError, TransientSourceError

__all__ = ["filesystem_tables", "list_files"]

BUCKET_URL = "SOURCES__FILESYSTEM__BUCKET_URL"
CREDENTIALS = f"{BUCKET_URL.removesuffix('BUCKET_URL')}CREDENTIALS"


# `spec=BaseConfiguration` switches dlt's injection off: it would fill arguments from bare variables of that name.
@dlt.source(name="filesystem", section="filesystem", spec=BaseConfiguration)
def filesystem_tables(
    tables: Mapping[str, str], broken: dict[str, str] | None = None, full_reload: bool = False
) -> Iterator[DltResource]:
    """One resource per table. `tables` says which format its files have: csv, jsonl or parquet, gzipped or not.

    Broken files are logged, and noted in `broken`: file → line and reason. They fail nothing by themselves.
    """
    for table, file_format in tables.items():
        yield _resource(table, file_format, {} if broken is None else broken, full_reload)


def list_files(tables: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The files of each table, and what tells a version of a file from the next: `{table: {file: mark}}`."""
    return {
        table: {item["relative_path"]: _mark(item) for item in _files(table, file_format)}
        for table, file_format in tables.items()
    }


def _resource(table: str, file_format: str, broken: dict[str, str], full_reload: bool) -> DltResource:
    def rows() -> Iterator[Any]:
        state = dlt.current.resource_state()
        is_first = "files" not in state
        loaded: dict[str, str] = state.get("files", {})
        items = {item["relative_path"]: item for item in _files(table, file_format)}
        # What is gone is forgotten, so that the list is no longer than the folder.
        state["files"] = {path: mark for path, mark in loaded.items() if path in items}
        for path, item in items.items():
            broken.pop(path, None)  # a load that is tried again reads it again
            if loaded.get(path) == _mark(item) and not full_reload:
                continue
            try:
                with _copy(item) as copy:
                    if copy is None:
                        logger.warning(f"{path} changes while it is read: left to the next load.")
                        continue
                    # Once to the end before the first row is passed on: no row of a broken file is ever loaded.
                    count = 0
                    for batch in READERS[file_format](copy):
                        count += len(batch)
                        if isinstance(batch, pa.RecordBatch):
                            check_columns(batch.schema, table, reserved=_COLUMNS)
                    copy.seek(0)
                    if path in loaded and not count:
                        yield _emptied(path, file_format)
                    yield from _with_file(READERS[file_format](copy), item)
            except BrokenFile as error:
                broken[path] = str(error)
                logger.error(f"{path} is broken and was left out, {error}")
            else:
                state["files"][path] = _mark(item)
        if is_first:  # the table exists even if no file has arrived yet
            yield dlt.mark.materialize_table_schema()

    rows.__doc__ = f"Rows of all files `{table}/*.{file_format}`, as far as they have arrived and are not broken."
    return dlt.resource(
        rows,
        name=table,
        write_disposition="merge",
        merge_key="_file",
        columns=_COLUMNS,
        # Arrow passes through as it is. In CSV, dlt's choice for Postgres, an empty text would become a null.
        file_format="preferred" if file_format == "jsonl" else "parquet",
    )


def _mark(item: Mapping[str, Any]) -> str:
    return f"{item['modification_date'].isoformat()} {item['size_in_bytes']}"


def _with_file(batches: Iterator[Rows], item: FileItemDict) -> Iterator[Rows]:
    """The rows of a file, and with each where it is from."""
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
    """A row that deletes all rows of the file and is itself not loaded: the file may have none any more."""
    rows = [{"_file": path, "_file_row": 0, "_file_emptied": True}]
    schema = pa.schema([*_ORIGIN, pa.field("_file_emptied", pa.bool_())])
    return rows if file_format == "jsonl" else pa.RecordBatch.from_pylist(rows, schema)


def _files(table: str, file_format: str) -> list[FileItemDict]:
    """The files of a table, in any folder below its own, by name. Names that begin with `.` or `_` are not read."""
    url = str(dlt.config.get("sources.filesystem.bucket_url") or "").strip().rstrip("/")
    if not url:
        raise PermanentSourceError(f"{BUCKET_URL} is missing or empty: set it to a folder or to s3://bucket/folder.")
    with _explained(url):
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
            raise PermanentSourceError(f"{BUCKET_URL}: there is no folder {url}.")
        return fsspec_filesystem("file")[0]
    if not url.startswith("s3://") or "@" in url:
        raise PermanentSourceError(f"{BUCKET_URL} has to be a folder or s3://bucket/folder.")
    patience = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 2}}
    return fsspec_filesystem(url, _credentials(), kwargs={"config_kwargs": patience})[0]


def _credentials() -> AwsCredentials:
    """By exact name: dlt's injection would fall back to a bare `CREDENTIALS__…`. Empty counts as missing."""
    keys = ("aws_access_key_id", "aws_secret_access_key", "endpoint_url", "region_name")
    given: dict[str, Any] = {
        key: str(dlt.secrets.get(f"sources.filesystem.credentials.{key}") or "").strip() or None for key in keys
    }
    if (given["aws_access_key_id"] is None) != (given["aws_secret_access_key"] is None):
        missing = "AWS_SECRET_ACCESS_KEY" if given["aws_access_key_id"] else "AWS_ACCESS_KEY_ID"
        raise PermanentSourceError(
            f"{CREDENTIALS}__{missing} is missing or empty: the key's id and secret go together."
        )
    endpoint = urlsplit(given["endpoint_url"] or "https://s3")
    if endpoint.scheme not in ("http", "https") or not endpoint.hostname or "@" in endpoint.netloc:
        raise PermanentSourceError(f"{CREDENTIALS}__ENDPOINT_URL has to look like https://s3.example.com.")
    credentials = AwsCredentials(**given)
    if given["aws_access_key_id"] is None:
        credentials.on_partial()
        if not credentials.has_default_credentials():
            raise PermanentSourceError(
                f"{CREDENTIALS}__AWS_ACCESS_KEY_ID and {CREDENTIALS}__AWS_SECRET_ACCESS_KEY are missing or empty, "
                "and this machine has no role of its own: set them to read from a bucket."
            )
    return credentials


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Says of an error of the bucket what to change, and whether that is needed."""
    try:
        yield
    except (ResourceExtractionError, BotoCoreError, OSError, ValueError) as error:
        cause = error.__cause__ if isinstance(error, ResourceExtractionError) and error.__cause__ else error
        if isinstance(cause, FileNotFoundError) and url.startswith("s3://"):  # of a folder it is known to be there
            raise PermanentSourceError(f"{BUCKET_URL}: there is no {url} ({cause}).") from error
        if isinstance(cause, PermissionError):
            raise PermanentSourceError(
                f"{url} may not be read ({cause}): check {CREDENTIALS}__AWS_ACCESS_KEY_ID and its secret."
            ) from error
        if isinstance(cause, HTTPClientError | NoConnection | OSError):
            raise TransientSourceError(f"{url} cannot be reached ({cause}).") from error
        raise PermanentSourceError(f"{BUCKET_URL} and {CREDENTIALS}__… do not make an address ({cause}).") from error


@contextmanager
def _copy(item: FileItemDict) -> Iterator[IO[bytes] | None]:
    """The file's content, unpacked, in a temporary file; None if it was changed or removed meanwhile."""
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
            raise BrokenFile(f"it may not be read ({error.strerror or error})") from error
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise BrokenFile(f"not gzip, or not all of it ({error})") from error
        except (BotoCoreError, OSError) as error:
            raise TransientSourceError(f"{item['relative_path']} cannot be read now ({error}).") from error
        now = item.fsspec.info(path)
        modified = MTIME_DISPATCH["s3" if "s3" in item.fsspec.protocol else "file"](now)
        same = _mark(item) == _mark({"modification_date": modified, "size_in_bytes": now["size"]})
        copy.seek(0)
        yield copy if same else None


_ORIGIN = (
    pa.field("_file", pa.string(), nullable=False),
    pa.field("_file_modified_at", pa.timestamp("us", "UTC")),
    pa.field("_file_row", pa.int64()),
)
_COLUMNS: TTableSchemaColumns = {
    "_file": {"data_type": "text", "description": "The file, below the folder or bucket."},
    "_file_modified_at": {"data_type": "timestamp", "description": "The file's modification date when it was loaded."},
    "_file_row": {"data_type": "bigint", "description": "The row's place in its file, from 1."},
    "_file_emptied": {"data_type": "bool", "hard_delete": True, "description": "Null: used while a file is replaced."},
}
