"""The process: it starts quickly, says where it listens, and ends when told."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import requests

if TYPE_CHECKING:
    from tests.conftest import Sandbox

ROOT = Path(__file__).resolve().parents[2]


def test_health_names_the_vendors(sandbox: Sandbox) -> None:
    health = sandbox.http.get(f"{sandbox.url}/health", timeout=60).json()
    assert health == {"status": "ok", "vendors": ["github", "hubspot", "stripe", "thinkific"]}


def test_sigterm_ends_it_at_once_even_under_a_request() -> None:
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
