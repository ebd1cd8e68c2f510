"""Who launched a run or a backfill is in its tag `user`: the user of the request's header, and nobody else."""

import json
import logging
import threading
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import uvicorn
import yaml
from dagster import AssetKey, DagsterInstance
from dagster._core.execution.backfill import PartitionBackfill
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._scheduler.scheduler import launch_scheduled_runs
from dagster_webserver.webserver import DagsterWebserver

from tests.support.paths import ROOT
from tests.support.stack import free_port, wait_for

HEADER = "X-Forwarded-User"
ANN, BEN = {HEADER: "ann"}, {HEADER: "ben@example.com"}
LOCATION = """
import dagster as dg

@dg.asset
def report(): ...

@dg.asset(partitions_def=dg.StaticPartitionsDefinition(["a", "b"]))
def orders(): ...

daily = dg.define_asset_job("daily", [report])
schedule = dg.ScheduleDefinition(job=daily, cron_schedule="0 6 * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
defs = dg.Definitions([report, orders], schedules=[schedule], jobs=[daily])
"""
SELECTOR = {"repositoryLocationName": "stock", "repositoryName": "__repository__"}


class Webserver:
    """A webserver with a location, on the run coordinator of dagster.yaml. No daemon takes runs off its queue."""

    def __init__(self, process: WorkspaceProcessContext, url: str) -> None:
        self.process, self.instance, self.url = process, process.instance, url

    def post(self, path: str, headers: dict[str, str], body: Any) -> Any:
        headers = {"Content-Type": "application/json", **headers}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def graphql(self, query: str, headers: dict[str, str], **variables: Any) -> Any:
        answer = self.post("/graphql", headers, {"query": query, "variables": variables})
        assert "errors" not in answer, answer["errors"]
        [result] = answer["data"].values()
        assert "Error" not in result["__typename"], result
        return result

    def launch(self, headers: dict[str, str], *tags: dict[str, str]) -> str:
        mutation = """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) {
            __typename ... on PythonError { message } ... on LaunchRunSuccess { run { runId } } } }"""
        params = {"selector": {**SELECTOR, "jobName": "daily"}, "executionMetadata": {"tags": [*tags]}}
        return str(self.graphql(mutation, headers, p=params)["run"]["runId"])

    def backfill(self, headers: dict[str, str], *tags: dict[str, str]) -> PartitionBackfill:
        mutation = """mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {
            __typename ... on PythonError { message } ... on LaunchBackfillSuccess { backfillId } } }"""
        params = {"assetSelection": [{"path": ["orders"]}], "partitionNames": ["a", "b"], "tags": [*tags]}
        return self.found(self.graphql(mutation, headers, p=params))

    def found(self, launched: dict[str, str]) -> PartitionBackfill:
        backfill = self.instance.get_backfill(launched["backfillId"])
        assert backfill
        return backfill

    def tags(self, run_id: str) -> dict[str, str]:
        run = self.instance.get_run_by_id(run_id)
        assert run
        return dict(run.tags)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webserver]:
    home = tmp_path_factory.mktemp("home")
    deployed = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    kept = {key: deployed[key] for key in ("run_coordinator", "concurrency", "telemetry")}
    (home / "dagster.yaml").write_text(yaml.safe_dump(kept))
    (home / "stock.py").write_text(LOCATION)
    target = PythonFileTarget(str(home / "stock.py"), None, str(home), "stock")
    with (
        pytest.MonkeyPatch.context() as patch,
        DagsterInstance.from_config(str(home)) as instance,
        WorkspaceProcessContext(instance, target) as process,
    ):
        patch.setenv("USER_HEADER", HEADER)
        assert instance.run_coordinator  # made when it is first used
        port = free_port()
        app = DagsterWebserver(process).create_asgi_app()
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
        thread = threading.Thread(target=server.run)
        thread.start()
        wait_for(lambda: server.started, 30, "the webserver")
        yield Webserver(process, f"http://127.0.0.1:{port}")
        server.should_exit = True
        thread.join()


@pytest.fixture
def webserver(served: Webserver, monkeypatch: pytest.MonkeyPatch) -> Webserver:
    monkeypatch.setenv("USER_HEADER", HEADER)
    return served


def test_a_run_is_by_who_launched_it(webserver: Webserver) -> None:
    assert webserver.tags(webserver.launch(ANN))["user"] == "ann"


def test_a_client_cannot_launch_a_run_as_somebody_else(webserver: Webserver) -> None:
    forged = {"key": "user", "value": "root"}

    assert webserver.tags(webserver.launch(ANN, forged))["user"] == "ann"
    assert webserver.tags(webserver.launch({}, forged))["user"] == "unknown"


def test_a_re_execution_is_by_who_asked_for_it(webserver: Webserver) -> None:
    first = webserver.launch(ANN)
    run = webserver.instance.get_run_by_id(first)
    assert run
    webserver.instance.report_run_failed(run)
    mutation = """mutation($p: ReexecutionParams!) { launchRunReexecution(reexecutionParams: $p) {
        __typename ... on PythonError { message } ... on LaunchRunSuccess { run { runId } } } }"""
    params = {"parentRunId": first, "strategy": "ALL_STEPS"}
    again = webserver.graphql(mutation, BEN, p=params)["run"]["runId"]

    assert webserver.tags(again)["dagster/parent_run_id"] == first
    assert webserver.tags(again)["user"] == "ben@example.com"
    assert webserver.tags(first)["user"] == "ann"


def test_a_backfill_and_the_runs_that_the_daemon_starts_for_it_are_by_who_launched_it(
    webserver: Webserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    backfill = webserver.backfill(ANN, {"key": "user", "value": "root"})
    assert backfill.tags["user"] == "ann"

    monkeypatch.delenv("USER_HEADER")  # the daemon has none
    list(execute_backfill_iteration(webserver.process, logging.getLogger("daemon")))
    runs = [run for run in webserver.instance.get_runs() if run.tags.get("dagster/backfill") == backfill.backfill_id]
    assert len(runs) == 2
    assert {run.tags["user"] for run in runs} == {"ann"}


def test_a_re_execution_of_a_backfill_is_by_who_asked_for_it(webserver: Webserver) -> None:
    first = webserver.backfill(ANN)
    mutation = """mutation($p: ReexecutionParams) { reexecutePartitionBackfill(reexecutionParams: $p) {
        __typename ... on PythonError { message } ... on LaunchBackfillSuccess { backfillId } } }"""
    cancel = """mutation($id: String!) { cancelPartitionBackfill(backfillId: $id) { __typename } }"""
    webserver.graphql(cancel, ANN, id=first.backfill_id)
    list(execute_backfill_iteration(webserver.process, logging.getLogger("daemon")))
    again = webserver.found(
        webserver.graphql(mutation, BEN, p={"parentRunId": first.backfill_id, "strategy": "ALL_STEPS"})
    )

    assert again.tags["dagster/parent_backfill_id"] == first.backfill_id
    assert again.tags["user"] == "ben@example.com"


def test_a_reported_materialization_is_by_who_reported_it(webserver: Webserver) -> None:
    webserver.post("/report_asset_materialization/report", ANN, {})
    event = webserver.instance.get_latest_materialization_event(AssetKey("report"))

    assert event
    assert event.asset_materialization
    assert event.asset_materialization.tags
    assert event.asset_materialization.tags["dagster/reporting_user"] == "ann"


def test_a_scheduled_run_is_by_nobody(webserver: Webserver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("USER_HEADER")  # the daemon has none
    before = {run.run_id for run in webserver.instance.get_runs()}
    for days in (0, 1):  # the first tick only notes that the schedule is on
        now = datetime.now(UTC) + timedelta(days=days)
        list(launch_scheduled_runs(webserver.process, logging.getLogger("daemon"), now, {}))

    [run] = [run for run in webserver.instance.get_runs() if run.run_id not in before]
    assert run.tags["dagster/schedule_name"] == "daily_schedule"
    assert "user" not in run.tags


def test_without_a_login_the_header_counts_for_nothing(webserver: Webserver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("USER_HEADER")

    assert "user" not in webserver.tags(webserver.launch(ANN))
    assert "user" not in webserver.backfill(ANN).tags
