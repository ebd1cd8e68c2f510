"""The profile `metrics` on the real stack: what Prometheus would read agrees with what the UI's API says."""

import re
from collections.abc import Iterator
from urllib.request import urlopen

import pytest

from tests.support.metrics import Scraped, named, parsed, value
from tests.support.stack import LOCATIONS, Stack, free_port, wait_for

COURSES = {"asset_key": "thinkific/courses"}  # every load reads all of them
JOB = {"job_name": "__ASSET_JOB", "location": "learning", "status": "success"}


@pytest.fixture
def metrics(stack: Stack) -> Iterator[str]:
    """Its address. Without the profile, nothing of it runs."""
    assert "metrics" not in stack.container_ids()
    port = free_port()
    stack.set("METRICS_PORT", str(port))
    stack.compose("--profile", "metrics", "up", "--build", "--detach", "--wait", "metrics")
    yield f"http://127.0.0.1:{port}/metrics"
    stack.compose("--profile", "metrics", "rm", "--stop", "--force", "metrics")


def test_a_load_is_counted_and_every_number_agrees_with_graphql(stack: Stack, metrics: str) -> None:
    def said() -> str:
        with urlopen(metrics, timeout=30) as response:
            return str(response.read().decode())

    def scraped() -> Scraped:
        return parsed(said())

    wait_for(lambda: set(stack.locations().values()) == {"loaded"}, 90, "every location to load")
    wait_for(lambda: value(scraped(), "dagster_completed_runs_total", **JOB) == 0, 60, "the first scrape")
    assert stack.materialize([["thinkific", "courses"]], None, "learning")["status"] == "SUCCESS"
    wait_for(lambda: value(scraped(), "dagster_load_rows_count", **COURSES) == 1, 60, "the load to be counted")

    def complete() -> Scraped | None:
        found = scraped()
        return found if set(named(found, "dagster_exporter_last_scrape_success").values()) == {1} else None

    now: Scraped = wait_for(complete, 60, "a scrape in which every part answered in time")
    answer = stack.graphql(
        """{ assetOrError(assetKey: {path: ["thinkific", "courses"]}) { ... on Asset { assetMaterializations(limit: 1) {
               timestamp metadataEntries { label ... on IntMetadataEntry { intValue } } } } }
             instance { concurrencyLimits { concurrencyKey limit }
               daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"""
    )
    [load] = answer["assetOrError"]["assetMaterializations"]
    [rows] = [entry["intValue"] for entry in load["metadataEntries"] if entry["label"] == "rows_loaded"]
    assert value(now, "dagster_load_rows_sum", **COURSES) == rows > 0
    assert value(now, "dagster_completed_runs_total", **JOB) == 1
    when = value(now, "dagster_asset_last_materialization_timestamp_seconds", **COURSES)
    assert when == pytest.approx(int(load["timestamp"]) / 1000, abs=1)
    limits = {pool: limit for (pool, _), limit in named(now, "dagster_op_pool_concurrency_limit").items()}
    assert limits == {pool["concurrencyKey"]: pool["limit"] for pool in answer["instance"]["concurrencyLimits"]}
    daemons = answer["instance"]["daemonHealth"]["allDaemonStatuses"]
    healthy = {part for (part, _), found in named(now, "dagster_daemon_healthy").items() if found}
    assert healthy >= {one["daemonType"] for one in daemons if one["required"] and one["healthy"]}
    assert named(now, "dagster_code_location_load_error") == {(name,): 0 for name in LOCATIONS}

    text, settings = said(), stack.env_file.read_text()
    secrets = re.findall(r"^\w*(?:PASSWORD|TOKEN|KEY|SECRET)\w*=(.{8,})$", settings, re.MULTILINE)
    assert secrets
    assert [secret for secret in secrets if secret in text] == []
