"""What a crash leaves is removed, and nothing else is."""

import os
import time
from pathlib import Path
from uuid import uuid4

import dagster as dg
import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from runtime.load import sweep
from runtime.load.sweep import staging_layout
from runtime.load.warehouse import warehouse_pipeline
from tests.support.colours import load
from tests.support.warehouse import Warehouse


def run(instance: DagsterInstance, status: DagsterRunStatus) -> str:
    """A run as a crash leaves it, or as one that lives."""
    run_id = str(uuid4())
    instance.add_run(DagsterRun(job_name="colours", run_id=run_id, status=status))
    return run_id


def make_staging(run_id: str, dataset: str = "raw_colours") -> str:
    name = staging_layout(dataset, run_id, "colours") % dataset
    with warehouse_pipeline("maker", dataset).sql_client() as client:
        client.execute_sql(f"CREATE SCHEMA {name}")
    return name


def test_only_the_staging_of_runs_that_ended_is_dropped(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "SETTLED_SECONDS", 0)
    with dg.instance_for_test() as instance:
        left = make_staging(run(instance, DagsterRunStatus.FAILURE))
        alive = make_staging(run(instance, DagsterRunStatus.STARTED))
        unknown = make_staging(str(uuid4()))  # of another deployment on the same warehouse
        other = make_staging(run(instance, DagsterRunStatus.FAILURE), "raw_other")
        time.sleep(0.1)
        assert load("red", instance=instance).success

    assert left not in warehouse.datasets()
    assert warehouse.datasets() == {"raw_colours", alive, unknown, other}


def test_what_sources_left_that_are_not_loaded_any_more_is_dropped(warehouse: Warehouse) -> None:
    pipeline = warehouse_pipeline("platform", "raw_dagster")
    with dg.instance_for_test() as instance:
        left = make_staging(run(instance, DagsterRunStatus.FAILURE), "raw_other")
        alive = make_staging(run(instance, DagsterRunStatus.STARTED), "raw_other")
        time.sleep(0.1)
        assert sweep.drop_abandoned_staging(pipeline, instance, 3600, print) == []
        assert sweep.drop_abandoned_staging(pipeline, instance, 0, print, dry_run=True) == [left]
        assert warehouse.datasets() == {left, alive}
        assert sweep.drop_abandoned_staging(pipeline, instance, 0, print) == [left]

    assert warehouse.datasets() == {alive}


def test_a_run_that_has_just_ended_is_left_in_peace(warehouse: Warehouse) -> None:
    with dg.instance_for_test() as instance:
        staging = make_staging(run(instance, DagsterRunStatus.FAILURE))
        assert load("red", instance=instance).success

    assert staging in warehouse.datasets()


def test_files_of_failed_runs_stay_for_a_week(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.instance_for_test() as instance:
        failed, alive = run(instance, DagsterRunStatus.FAILURE), run(instance, DagsterRunStatus.STARTED)
        folders = [tmp_path / "dlt" / "runs" / name for name in (failed, alive, "unknown")]
        for folder in folders:
            os.makedirs(folder / "colours-abc")
        load("red", instance=instance)
        assert all(folder.exists() for folder in folders)

        monkeypatch.setattr(sweep, "KEEP_FILES_SECONDS", 0)
        time.sleep(0.1)
        load("red", instance=instance)
        assert [folder.exists() for folder in folders] == [False, True, False]


@pytest.mark.parametrize("dataset", ["raw_colours", "raw_a_name_that_is_long_but_not_too_long_for_postgres"])
def test_staging_is_dropped_whatever_the_length_of_the_name(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, dataset: str
) -> None:
    monkeypatch.setattr(sweep, "SETTLED_SECONDS", 0)
    layout = staging_layout(dataset, str(uuid4()), "colours")
    assert len(layout.replace("%s", dataset)) <= 63
    with dg.instance_for_test() as instance:
        run_id = run(instance, DagsterRunStatus.FAILURE)
        name = staging_layout(dataset, run_id, "colours").replace("%s", dataset)
        pipeline = warehouse_pipeline("maker", dataset)
        with pipeline.sql_client() as client:
            client.execute_sql(f"CREATE SCHEMA {name}")
        time.sleep(0.1)
        sweep.sweep_staging(pipeline, instance, print)

    assert name not in warehouse.datasets()
