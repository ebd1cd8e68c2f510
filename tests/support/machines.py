"""Runs on machines of their own: processes that share two databases and no folder.

While one has the lock of a partition, it holds a file that only the test has. A second one that has the lock at the
same time ends with `OVERLAP`.
"""

import fcntl
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import dagster as dg
from dagster._core.launcher import LaunchRunContext, RunLauncher
from dagster._serdes import ConfigurableClass, ConfigurableClassData
from psycopg2 import OperationalError

from runtime.instance import advisory_lock
from runtime.load import locks
from runtime.load.pipeline import RunPipeline
from runtime.load.resource import IsolatedDltResource
from tests.support.colours import SHADES, colours_assets

OVERLAP = 3  # the exit code of a process that was not alone


@contextmanager
def alone(folder: Path, partition: str) -> Iterator[None]:
    """Ends the process if another one is within it for the same partition, unless that one is just ending."""
    with (folder / f"{partition}.held").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            other = Path("/proc", file.read(), "stat")
            fcntl.flock(file, fcntl.LOCK_EX)
            time.sleep(0.2)
            if other.exists() and other.read_text().rpartition(")")[2].split()[0] != "Z":
                os._exit(OVERLAP)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def take_turns(home: str, folder: str, seed: int, rounds: int, settled: float) -> None:
    """A process that holds every partition for a moment, in rounds, and starts where an earlier one has ended."""
    advisory_lock.SETTLED_SECONDS = settled
    os.environ["DLT_DATA_DIR"] = f"{folder}/machine{seed}"
    os.dup2(os.open(f"{folder}/stderr{seed}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    progress = Path(folder, f"progress{seed}")
    done = len(progress.read_bytes()) if progress.exists() else 0
    turns = [shade for _ in range(rounds) for shade in random.Random(seed).sample(SHADES, len(SHADES))]
    pipeline = SimpleNamespace(
        pipeline_name="colours", dataset_name="raw", destination=SimpleNamespace(destination_name="postgres")
    )
    with dg.DagsterInstance.from_config(home) as instance:
        log = SimpleNamespace(info=lambda _: None)
        while done < len(turns):
            run = dg.DagsterRun(job_name="load", run_id=str(uuid4()))
            op = cast(Any, SimpleNamespace(instance=instance, run=run, log=log))
            try:
                lock = locks.partition_lock(op, cast(Any, pipeline), turns[done])
                with lock as confirm, alone(Path(folder), turns[done]):
                    confirm()
                    time.sleep(0.01)
                    confirm()
                with progress.open("ab") as file:
                    file.write(b".")
                done += 1
            except OperationalError:  # a load is tried again after it, too
                time.sleep(0.2)


def load(environment: dict[str, str], home: str, folder: str, shade: str, pause: bool, answer: Any) -> None:
    """The process of a run. It sends "loading" before the warehouse changes, and pauses there if it is to."""
    advisory_lock.SETTLED_SECONDS = 0
    os.environ |= {**environment, "DLT_DATA_DIR": str(Path(folder, uuid4().hex)), "DAGSTER_HOME": home}
    os.dup2(os.open(f"{folder}/stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    load_once = RunPipeline.load_once

    def watched(self: RunPipeline, *args: Any, **kwargs: Any) -> Any:
        with alone(Path(folder), shade):
            if pause:
                answer.send("loading")
                answer.recv()
            return load_once(self, *args, **kwargs)

    RunPipeline.load_once = watched  # type: ignore[method-assign]
    with dg.DagsterInstance.from_config(home) as instance:
        result = dg.materialize(
            [colours_assets()],
            partition_key=shade,
            resources={"dlt": IsolatedDltResource()},
            instance=instance,
            raise_on_error=False,
        )
        failed = [str(event.step_failure_data.error) for event in result.get_step_failure_events()]
    answer.send("; ".join(failed) or "loaded")


class FarLauncher(RunLauncher, ConfigurableClass):
    """As a launcher of Kubernetes: it may start runs on several machines."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> "FarLauncher":
        return cls(inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        raise NotImplementedError

    def terminate(self, run_id: str) -> bool:
        raise NotImplementedError
