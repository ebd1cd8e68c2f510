"""The process prints its address when it listens, and stops on SIGTERM."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import requests

from tests.support.paths import ROOT
from tests.support.sandbox import Sandbox


def test_health_names_the_fake_apis(sandbox: Sandbox) -> None:
    health = sandbox.http.get(f"{sandbox.url}/health", timeout=60).json()
    assert health == {"status": "ok", "apis": ["github", "hubspot", "stripe", "thinkific"]}


def test_sigterm_stops_the_server_at_once_even_during_a_request() -> None:
    command = [sys.executable, "-m", "sandbox", "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=ROOT, **pipes) as process:  # type: ignore[call-overload]
        line = process.stdout.readline()
        url = line.removeprefix("The sandbox listens on ").strip()
        assert requests.get(f"{url}/health", timeout=60).ok
        requests.post(f"{url}/_sandbox/settings", json={"latency_ms": 60_000}, timeout=60)
        waiting = threading.Thread(target=lambda: _ignore_the_end(f"{url}/github/rate_limit"))
        waiting.start()
        time.sleep(0.2)
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=10)
        assert time.monotonic() - started < 3
        assert process.stdout.read() == ""
        waiting.join(timeout=10)


def _ignore_the_end(url: str) -> None:
    try:
        requests.get(url, timeout=60)
    except requests.ConnectionError:
        return
