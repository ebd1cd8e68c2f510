"""What a code location's server rests on. How its runs live and die is in `tests/stack`."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from runtime.instance.server import RunContext
from tests.support.paths import ROOT

Serving = health_pb2.HealthCheckResponse


@pytest.fixture
def servicer(monkeypatch: pytest.MonkeyPatch) -> Iterator[health.HealthServicer]:
    """What a server answers about itself, served where the probe asks."""
    server, servicer = grpc.server(ThreadPoolExecutor(1)), health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    monkeypatch.setenv("DAGSTER_GRPC_HOST", "127.0.0.1")
    monkeypatch.setenv("DAGSTER_GRPC_PORT", str(server.add_insecure_port("127.0.0.1:0")))
    server.start()
    yield servicer
    server.stop(None).wait()


def healthy() -> bool:
    return subprocess.run([sys.executable, "-m", "runtime.instance.health"], capture_output=True).returncode == 0


def test_a_server_is_healthy_while_it_serves_dagster(servicer: health.HealthServicer) -> None:
    assert not healthy()
    servicer.set("DagsterApi", Serving.SERVING)
    assert healthy()
    servicer.set("DagsterApi", Serving.NOT_SERVING)
    assert not healthy()


def test_a_server_that_is_not_there_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_GRPC_HOST", "127.0.0.1")
    monkeypatch.setenv("DAGSTER_GRPC_PORT", "1")
    assert not healthy()


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="only Linux lists a process's threads")
def test_the_process_that_runs_are_forks_of_has_one_thread() -> None:
    code = "import os, runtime.accelerate.preload; print(len(os.listdir('/proc/self/task')))"
    counted = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert counted.stdout == "1\n", counted.stderr


def test_a_run_takes_its_import_folder_with_it() -> None:
    script = """
import multiprocessing
from runtime.load.warehouse import warehouse_pipeline
run = multiprocessing.get_context("fork").Process(target=lambda: print(warehouse_pipeline("p", "d").pipelines_dir))
run.start(), run.join()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    folder = Path(done.stdout.strip())

    assert folder.name.startswith("dlt-import-")
    assert not folder.exists()


def test_a_pool_in_a_run_does_not_import_the_libraries_again(tmp_path: Path) -> None:
    script = """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

HAS_DLT = "'dlt' in __import__('sys').modules"

def run():
    with ProcessPoolExecutor(1) as pool:
        print(eval(HAS_DLT), pool.submit(eval, HAS_DLT).result())

if __name__ == "__main__":
    context = get_context("forkserver")
    context.set_forkserver_preload(["runtime.accelerate.preload"])
    process = context.Process(target=run)
    process.start()
    process.join()
"""
    (tmp_path / "server.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "server.py"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True
    )

    assert done.stdout == b"True False\n", done.stderr


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="not on Linux")
def test_a_run_lives_on_when_the_process_that_it_was_forked_from_dies(tmp_path: Path) -> None:
    context = RunContext(get_context("forkserver"))
    process = context.Process(target=wait_for_file, args=(str(tmp_path / "end"),))
    process.start()
    parent = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1]
    os.kill(int(parent), signal.SIGKILL)
    time.sleep(0.5)

    assert process.is_alive()
    (tmp_path / "end").touch()
    until(lambda: not process.is_alive())


def test_a_run_that_has_ended_is_not_alive() -> None:
    process = RunContext(get_context("forkserver")).Process(target=os.getpid)
    process.start()
    until(lambda: not process.is_alive())


def wait_for_file(path: str) -> None:
    until(Path(path).exists)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
