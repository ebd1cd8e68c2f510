"""`staging=`: a run's files in a bucket, which the destination then copies. Runs share the bucket, and no file."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from uuid import uuid4

import dlt
import pytest
from dlt.destinations import filesystem

from runtime.load.directories import data_directory
from runtime.load.sweep import staging_folder
from tests.support.staged_postgres import StagedPostgres
from tests.support.tallies import DATASET, GOODS, load
from tests.support.warehouse import Warehouse


def load_staged(shop: str) -> bool:
    destination: Any = StagedPostgres(os.environ["DESTINATION__POSTGRES__CREDENTIALS"])
    bucket = filesystem(os.environ["BUCKET"])
    return load(
        shop,
        dlt.pipeline(
            "staged",
            destination=destination,
            staging=bucket,
            dataset_name=DATASET,
            pipelines_dir=str(data_directory("import")),
        ),
    )


@pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
def test_runs_at_once_stage_files_of_their_own(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dlt deletes what is in a table's folder before it stages: also files that another run is about to copy."""
    notes, bucket = tmp_path / "notes", tmp_path / "bucket"
    notes.mkdir()
    monkeypatch.setenv("MEETING_FOLDER", str(notes))
    monkeypatch.setenv("MEETING", "2")
    monkeypatch.setenv("BUCKET", str(bucket))

    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(load_staged, ["a", "b"])) == [True, True]

    count = f"SELECT (SELECT count(*) FROM {DATASET}.goods), (SELECT count(*) FROM {DATASET}.sales)"
    assert warehouse.rows(count) == [(2 * GOODS, 2 * GOODS)]
    folders = {Path(note.read_text()).relative_to(bucket / DATASET).parts[0] for note in notes.iterdir()}
    assert len(folders) == 2

    monkeypatch.setenv("MEETING", "1")
    foreign = bucket / DATASET / staging_folder(str(uuid4()), "step")  # of a run that this deployment does not know
    foreign.mkdir()
    assert load_staged("a")

    assert warehouse.rows(count) == [(2 * GOODS, 3 * GOODS)]
    assert [path for path in (bucket / DATASET).iterdir() if path.is_dir()] == [foreign]
