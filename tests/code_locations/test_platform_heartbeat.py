"""The heartbeat, called at a local server, and the daemon itself, which evaluates both sensors of the platform."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._daemon.types import DaemonHeartbeat

from code_locations.platform import heartbeat
from tests.support.paths import ROOT
from tests.support.receiver import Receiver, running_receiver

SHOP = """
import dagster as dg

@dg.asset
def orders():
    raise ValueError("no orders today")

@dg.sensor(target=[orders], default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=1)
def once(context):
    return dg.RunRequest(run_key="once")

@dg.sensor(target=[orders], default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=1)
def broken(context):
    raise OSError("no bucket")

defs = dg.Definitions(assets=[orders], sensors=[once, broken])
"""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


def beat(instance: dg.DagsterInstance) -> str:
    reason = heartbeat.heartbeat(dg.build_sensor_context(instance=instance))
    assert isinstance(reason, dg.SkipReason)
    return str(reason.skip_message)


def test_the_monitor_is_called(
    instance: dg.DagsterInstance, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEARTBEAT_URL", f"http://{receiver.address}/ping/1234")

    assert beat(instance) == "Sent."
    assert receiver.calls == ["/ping/1234"]


def test_a_part_of_the_daemon_that_has_stopped_stops_the_heartbeat(
    instance: dg.DagsterInstance, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEARTBEAT_URL", f"http://{receiver.address}/ping")
    for part, age in {"SENSOR": 10, "BACKFILL": 400}.items():
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - age, part, "1"))

    assert beat(instance) == "Not sent. The daemon's backfill did not work for 300 s."
    assert receiver.calls == []


@pytest.mark.parametrize(
    ("url", "expected"),
    {
        "http://{}/secret": "Not sent. HEARTBEAT_URL answers 503.",
        "http://127.0.0.1:1/secret": "Not sent. HEARTBEAT_URL cannot be reached: ConnectionError.",
        "hc-ping.com/secret": "Not sent. HEARTBEAT_URL has to be an address such as https://hc-ping.com/<id>.",
        " ": "HEARTBEAT_URL is not set in .env: nobody notices when the daemon stops.",
    }.items(),
)
def test_a_call_that_fails_is_a_sentence_without_the_address(
    instance: dg.DagsterInstance, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, url: str, expected: str
) -> None:
    receiver.status = 503
    monkeypatch.setenv("HEARTBEAT_URL", url.format(receiver.address))

    assert beat(instance) == expected


@pytest.mark.slow  # the stack's tests have a daemon, too
@pytest.mark.timeout(400)
def test_the_daemon_sends_alerts_of_another_location_and_heartbeats(receiver: Receiver, tmp_path: Path) -> None:
    """Both locations in servers of their own, sensors on from the start, runs through the queue."""
    (tmp_path / "shop.py").write_text(SHOP)
    platform = {"module_name": "code_locations.platform.definitions", "location_name": "platform"}
    shop = {"relative_path": "shop.py", "location_name": "shop"}
    workspace = {"load_from": [{"python_module": platform}, {"python_file": shop}]}
    (tmp_path / "workspace.yaml").write_text(yaml.dump(workspace))
    settings = {"telemetry": {"enabled": False}, "run_retries": {"enabled": True, "max_retries": 1}}
    (tmp_path / "dagster.yaml").write_text(yaml.dump(settings))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "DAGSTER_HOME": str(tmp_path),
        "DLT_DATA_DIR": str(tmp_path / "dlt"),
        "ALERT_URLS": receiver.alert_url,
        "HEARTBEAT_URL": f"http://{receiver.address}/ping",
    }
    command = [sys.executable, "-m", "runtime.instance.daemon", "run", "--workspace", "workspace.yaml"]
    with (tmp_path / "daemon.log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    expected = {"shop: orders failed", "shop: sensor broken keeps failing"}
    try:
        deadline = time.monotonic() + 300
        while not (receiver.calls and all(title in str(receiver.bodies) for title in expected)):
            assert process.poll() is None, (tmp_path / "daemon.log").read_text()[-3000:]
            assert time.monotonic() < deadline, (receiver.bodies, (tmp_path / "daemon.log").read_text()[-3000:])
            time.sleep(1)
    finally:
        process.terminate()
        process.wait(60)
    text = str(receiver.bodies)
    assert "ValueError: no orders today" in text
    assert "Launched by sensor once" in text
    assert text.count("shop: orders failed") == 1  # of two attempts
    assert "http://127.0.0.1:3000/runs/" in text
