"""A backfill over several locations: one click on the last asset, upstream included."""

import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus, PartitionBackfill
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.backfill import execute_backfill_iteration

from runtime.instance import backfills

LOCATION = """
import dagster as dg

days = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-04")
names = dg.StaticPartitionsDefinition(["de", "fr"])


@dg.asset(key=["{name}", "whole"])
def whole() -> None: ...


@dg.asset(key=["{name}", "by_day"], partitions_def=days, backfill_policy=dg.BackfillPolicy.single_run())
def by_day() -> None: ...


@dg.asset(key=["{name}", "by_name"], partitions_def=names)
def by_name() -> None: ...


defs = dg.Definitions(assets=[whole, by_day, by_name], executor=dg.in_process_executor)
"""
MARTS = """
import dagster as dg


@dg.asset(deps=[[location, table] for location in ("north", "south") for table in ("whole", "by_day", "by_name")])
def mart() -> None: ...


defs = dg.Definitions(assets=[mart], executor=dg.in_process_executor)
"""
IN_PROCESS = {
    "run_launcher": {
        "module": "dagster._core.launcher.sync_in_memory_run_launcher",
        "class": "SyncInMemoryRunLauncher",
    },
    "run_coordinator": {"module": "dagster._core.run_coordinator", "class": "QueuedRunCoordinator"},
}
MODULES = {"north": LOCATION.format(name="north"), "south": LOCATION.format(name="south"), "marts": MARTS}


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[WorkspaceProcessContext]:
    """Three locations, in an instance that executes runs in this process."""
    origins = []
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
        target = LoadableTargetOrigin(executable_path=sys.executable, python_file=str(tmp_path / f"{name}.py"))
        origins.append(InProcessCodeLocationOrigin(loadable_target_origin=target, location_name=name))
    with (
        dg.instance_for_test(overrides=IN_PROCESS) as instance,
        WorkspaceProcessContext(instance, InProcessWorkspaceLoadTarget(origins)) as context,
    ):
        yield context


@pytest.mark.filterwarnings("ignore:Parameter `backfill_policy`")
def test_each_run_has_assets_of_one_location_and_the_mart_comes_last(workspace: WorkspaceProcessContext) -> None:
    backfills.install()
    instance = workspace.instance
    graph = workspace.create_request_context().asset_graph
    instance.add_backfill(
        PartitionBackfill.from_asset_partitions(
            backfill_id="all",
            asset_graph=graph,
            partition_names=None,
            asset_selection=list(graph.materializable_asset_keys),
            backfill_timestamp=time.time(),
            tags={},
            dynamic_partitions_store=instance,
            all_partitions=True,
            title=None,
            description=None,
            run_config=None,
        )
    )
    while instance.get_backfills(filters=BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED])):
        assert not any(execute_backfill_iteration(workspace, logging.getLogger("backfill")))
        for queued in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])):
            instance.launch_run(queued.run_id, workspace.create_request_context())
    runs = list(reversed(instance.get_runs()))
    assets = [{key.to_user_string() for key in run.asset_selection or ()} for run in runs]

    assert all(run.is_success for run in runs)
    assert assets.pop() == {"mart"}
    assert sorted(map(sorted, assets)) == [
        *[
            [f"{location}/{table}"]
            for location in ("north", "south")
            for table in ("by_day", "by_name", "by_name", "whole")
        ]
    ]
