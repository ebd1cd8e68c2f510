"""Of rows that share a primary key within one load, the last one stays.

An API that is read page by page gives a row twice if it changes meanwhile. Warehouses merge one of the two, and which
one is left to chance.
"""

import gzip
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import dlt
from dlt.common import json
from dlt.common.schema import Schema
from dlt.common.schema.utils import get_columns_names_with_prop, get_merge_strategy
from dlt.extract.source import DltSource

from runtime.load.cursors import columns_with, disposition_of

Keys = Mapping[str, "KeyRecorder"]
NUMBER = "number of the row"


class KeyRecorder:
    """Remembers a hash of the key of each dictionary that a resource yields."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = columns
        self._hashes = array("q")
        self._normalize: Callable[[str], str]

    def __call__(self, item: Any) -> Any:
        if not self._hashes:
            self._normalize = dlt.current.source_schema().naming.normalize_identifier
        if (key := self.key_of(item)) is not None:
            self._hashes.append(hash(key))
        return item

    def key_of(self, item: Any) -> str | None:
        """The key of a row. None if it has none."""
        if type(item) is not dict:
            return None
        values = [item.get(column) for column in self.columns]
        if None in values:  # `orderId` may be what the hint calls `order_id`
            spelled = {self._normalize(name): value for name, value in item.items() if _is_name(name)}
            values = [spelled.get(self._normalize(column)) for column in self.columns]
        return None if None in values else repr(values)

    def may_have_duplicates(self) -> bool:
        return len(set(self._hashes)) < len(self._hashes)


def record_keys(source: DltSource) -> Keys:
    """Records the keys of the resources that merge by a primary key, by the name of their table.

    A resource with a `dedup_sort` column says itself which row stays.
    """
    recorders = {}
    for resource in source.selected_resources.values():
        columns = columns_with(resource, "primary_key") if disposition_of(resource) == "merge" else []
        if columns and not callable(resource.table_name) and not columns_with(resource, "dedup_sort"):
            recorders[str(resource.table_name)] = KeyRecorder(columns)
            resource.add_map(recorders[str(resource.table_name)])
    return recorders


def keep_last_rows(pipeline: dlt.Pipeline, keys: Keys) -> None:
    """Removes from what a pipeline has extracted all rows but the last of each key, and with them their children."""
    for load_id in pipeline.list_extracted_load_packages():
        package = pipeline.get_load_package_info(load_id)
        for table, recorder in keys.items():
            name = package.schema.naming.normalize_tables_path(table)
            jobs = [job for job in package.jobs["new_jobs"] if job.job_file_info.table_name == name]
            if not jobs or not _merges_by(pipeline.schemas[package.schema.name], name, recorder.columns):
                continue
            files: dict[str, list[Path]] = {"parquet": [], "typed-jsonl": []}
            for job in sorted(jobs, key=lambda job: Path(job.file_path).stat().st_mtime_ns):
                files.setdefault(job.job_file_info.file_format, []).append(Path(job.file_path))
            if files["parquet"]:
                columns = [package.schema.naming.normalize_path(column) for column in recorder.columns]
                _keep_last_arrow_rows(files["parquet"], columns)
            if recorder.may_have_duplicates():
                _keep_last_rows(files["typed-jsonl"], recorder.key_of)


def _merges_by(schema: Schema, table: str, columns: Sequence[str]) -> bool:
    """Whether rows with the same values in these columns replace each other. Options of `dlt.run` may say otherwise."""
    found = schema.tables.get(table)
    if not found or found.get("write_disposition") != "merge":
        return False
    keys = set(get_columns_names_with_prop(found, "primary_key", include_incomplete=True))
    strategy = get_merge_strategy(schema.tables, table) or "delete-insert"
    return strategy in ("delete-insert", "upsert") and keys == {schema.naming.normalize_path(key) for key in columns}


def _keep_last_rows(files: Sequence[Path], key_of: Callable[[Any], str | None]) -> None:
    items = (item for file in files for line in _lines(file) for item in line)
    last = {key_of(item): number for number, item in enumerate(items)}
    numbers = count()
    for file in files:
        kept = [[one for one in line if _stays(next(numbers), key_of(one), last)] for line in _lines(file)]
        content = "".join(f"{json.dumps(line)}\n" for line in kept if line).encode()
        file.write_bytes(gzip.compress(content) if _is_compressed(file) else content)


def _keep_last_arrow_rows(files: Sequence[Path], columns: Sequence[str]) -> None:
    """The same for Arrow tables. A row without a key stays."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    keys = [_arrow_keys(file, columns) for file in files]
    try:
        numbered = pa.concat_tables(keys, promote_options="permissive")
        if any(map(pa.types.is_floating, numbered.schema.types)) and len({table.schema for table in keys}) > 1:
            raise pa.ArrowTypeError("whole numbers would be rounded")
    except (pa.ArrowTypeError, pa.ArrowInvalid):  # types with no common one: no key of a file is one of another
        for file in files if len(files) > 1 else ():
            _keep_last_arrow_rows([file], columns)
        return
    numbers = pa.array(range(len(numbered)), pa.int64())
    numbered = numbered.append_column(NUMBER, numbers).drop_null()
    last = numbered.group_by(columns).aggregate([(NUMBER, "max")])[f"{NUMBER}_max"]
    if len(last) == len(numbered):
        return
    superseded = numbered[NUMBER].filter(pc.invert(pc.is_in(numbered[NUMBER], last)))
    start = 0
    for file in files:
        table = pq.read_table(file)
        stays = pc.invert(pc.is_in(numbers.slice(start, len(table)), superseded))
        pq.write_table(table.filter(stays), file)
        start += len(table)


def _arrow_keys(file: Path, columns: Sequence[str]) -> Any:
    """The columns of the key, with null where the file lacks one, and as JSON what Arrow cannot group by."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(file)
    found = parquet.read([name for name in columns if name in parquet.schema_arrow.names])
    keys = {}
    for name in columns:
        column = found[name] if name in found.column_names else pa.nulls(parquet.metadata.num_rows)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        elif pa.types.is_nested(column.type):
            column = pa.array([one if one is None else json.dumps(one) for one in column.to_pylist()], pa.string())
        keys[name] = column
    return pa.table(keys)


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and bool(key) and not key.isspace()


def _stays(number: int, key: str | None, last: Mapping[str | None, int]) -> bool:
    return key is None or last[key] == number


def _lines(file: Path) -> Iterator[list[Any]]:
    """The lines of a file that dlt has extracted: lists of rows, with types that JSON lacks as marked texts."""
    with gzip.open(file) if _is_compressed(file) else file.open("rb") as lines:
        for line in lines:
            yield json.loadb(line)


def _is_compressed(file: Path) -> bool:
    with file.open("rb") as content:
        return content.read(2) == b"\x1f\x8b"
