"""Normalizes what a pipeline has extracted twice, by dlt and accelerated, and compares everything that comes of it."""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from dlt.common import json
from dlt.normalize import normalize, worker
from dlt.normalize.exceptions import NormalizeJobFailed
from dlt.normalize.items_normalizers import JsonLItemsNormalizer

ID = re.compile(r"(?<![\w+/-])[\w+/-]{14}(?![\w+/-])", re.ASCII)  # as dlt makes them


@dataclass(frozen=True)
class Outcome:
    """What normalizing has made: by table the contents of its files, what is new in the schema, and the error."""

    files: Mapping[str, Sequence[str]] = field(default_factory=dict)
    schema_updates: str = ""
    null_columns: Mapping[str, set[str]] = field(default_factory=dict)
    error: str = ""


@contextmanager
def compared(normalizer: type[JsonLItemsNormalizer]) -> Iterator[list[tuple[Outcome, Outcome]]]:
    """Pipelines use this normalizer. Yields a list that grows with each package: what came of it, and what by dlt."""
    outcomes: list[tuple[Outcome, Outcome]] = []
    normalize_files = worker.w_normalize_files

    def normalize_twice(
        config: Any, extracted: Any, normalized: Any, schema: Any, load_id: str, *args: Any, **kwargs: Any
    ) -> Any:
        elsewhere = copy(normalized)
        elsewhere.load_volume_path = f"{normalized.load_volume_path}-by-dlt"
        shutil.copytree(normalized.load_volume_path, elsewhere.load_volume_path, dirs_exist_ok=True)

        def by(normalizer: type[JsonLItemsNormalizer], storage: Any) -> tuple[Outcome, Any]:
            patch.setattr(worker, "JsonLItemsNormalizer", normalizer)
            try:
                done = normalize_files(config, extracted, storage, deepcopy(schema), load_id, *args, **kwargs)
            except NormalizeJobFailed as failure:
                return Outcome(error=_stable(failure)), failure
            paths = [metrics.file_path for metrics in done.file_metrics]
            return Outcome(_contents(paths), repr(done.schema_updates), done.null_only_columns), done

        (theirs, _), (ours, result) = by(JsonLItemsNormalizer, elsewhere), by(normalizer, normalized)
        outcomes.append((ours, theirs))
        if isinstance(result, NormalizeJobFailed):
            raise result
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normalize, "w_normalize_files", normalize_twice)
        yield outcomes


def _contents(paths: Sequence[str]) -> dict[str, list[str]]:
    """The files of each table in their order, with numbers in place of dlt's random ids."""
    files: dict[str, list[str]] = {}
    for path in paths:
        files.setdefault(Path(path).name.split(".")[0], []).append(_content(Path(path)))
    numbers: dict[str, str] = {}

    def number(found: re.Match[str]) -> str:
        return numbers.setdefault(found[0], f"<{len(numbers)}>")

    return {table: [ID.sub(number, text) for text in files[table]] for table in sorted(files)}


def _content(path: Path) -> str:
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        return f"{table.schema}\n" + "\n".join(map(str, table.to_pylist()))
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":  # whose keys have no order
        return "\n".join(json.dumps(json.loads(line), sort_keys=True) for line in text.splitlines())
    return text


def _stable(failure: NormalizeJobFailed) -> str:
    """The error without what is random: ids, and which of several values that do not fit was met first."""
    cause = failure.__cause__ or failure.__context__
    return f"{type(cause).__name__}: {re.sub(r'[0-9]+', '0', ID.sub('ID', failure.failed_message))}"
