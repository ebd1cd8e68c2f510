"""What Dagster costs around the loads, on the running system: `docker compose up`, and runs as the UI launches them.

The seconds of a run are its client's: from the request to the moment that Dagster records as the run's end. CPU is what
all containers have used meanwhile, less what they use while nothing happens; memory is their processes' PSS.
"""

import http.client
import json
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.measure import spread, table
from tests.support.paths import ROOT
from tests.support.stack import LOCATIONS, Stack, wait_for

ASSET = [["github", "stargazers"]]
PARTITIONS = [f"sandbox/bench-{number:03}" for number in range(200)]
AT_ONCE = (1, 4, 8)
SOCKET = "/var/run/docker.sock"


class Api(http.client.HTTPConnection):
    """Docker's own API: its command line prints CPU in percent, not in seconds."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(SOCKET)


def cpu_seconds(stack: Stack) -> dict[str, float]:
    """What each service has used since its container started."""
    return {service: cpu(container) for service, container in of(stack)}


def cpu(container: str) -> float:
    return float(ask(f"{container}/stats?stream=false&one-shot=true")["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9


def ask(path: str) -> Any:
    api = Api("localhost")
    api.request("GET", f"/containers/{path}")
    return json.load(api.getresponse())


def of(stack: Stack) -> Iterator[tuple[str, str]]:
    """Each service that runs, and its container."""
    for line in stack.compose("ps", "--format", "{{.Service}} {{.ID}}").stdout.splitlines():
        service, container = line.split()
        yield service, container


def megabytes(container: str) -> float | None:
    """The PSS of a container's processes; None to whoever may not read it (it takes root).

    The median of five moments: at one of them, a health check may be at work.
    """
    moments = []
    for _ in range(5):
        time.sleep(1)
        files = []
        for process in ask(f"{container}/top?ps_args=-o%20pid")["Processes"]:
            with suppress(FileNotFoundError, ProcessLookupError):  # a health check, over by now
                try:
                    files.append(Path(f"/proc/{process[0]}/smaps_rollup").read_text())
                except PermissionError:
                    return None
        found = [line.split()[1] for file in files for line in file.splitlines() if line.startswith("Pss:")]
        moments.append(sum(map(int, found)) / 1024)
    return median(moments)


@contextmanager
def running() -> Iterator[Stack]:
    """The stack, its images built, with the repositories to load; and down again."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder), "dagster-dlt-bench", GITHUB_REPOSITORIES=",".join(PARTITIONS))
        stack.down()
        stack.compose("build")
        try:
            yield stack
        finally:
            stack.down()


def limit(stack: Stack, at_once: int) -> None:
    """Lets so many runs load at once, in the queue, in a backfill and in the pool."""
    settings = stack.env_file.with_name("dagster.yaml")
    text = (ROOT / "dagster.yaml").read_text()
    for old, new in (
        ("max_concurrent_runs: 8", f"max_concurrent_runs: {at_once}"),
        ("limit: 6}", f"limit: {at_once}}}"),
    ):
        assert old in text, f"{old} is not in dagster.yaml"
        text = text.replace(old, new)
    settings.write_text(text)
    services = ("migrate", "webserver", "daemon", *LOCATIONS)
    mounted = {name: {"volumes": [f"{settings}:/dagster/dagster.yaml:ro"]} for name in services}
    override = stack.env_file.with_name("limits.yml")
    override.write_text(json.dumps({"services": mounted}))
    lines = [line for line in stack.env_file.read_text().splitlines() if not line.startswith("COMPOSE_FILE=")]
    stack.env_file.write_text("\n".join([*lines, f"COMPOSE_FILE=docker-compose.yml:{override}", ""]))


def up(stack: Stack) -> float:
    """Seconds until every location is loaded."""
    started = time.perf_counter()
    stack.compose("up", "--detach", "--wait")
    wait_for(lambda: set(stack.locations().values()) == {"loaded"}, 120, "every location to load")
    return time.perf_counter() - started


def make_repositories(stack: Stack) -> None:
    """Empty ones: there is nothing to load."""
    script = (
        "import json, urllib.request as u\n"
        f"for name in {[name.partition('/')[2] for name in PARTITIONS]}:\n"
        "    body = json.dumps({'name': name}).encode()\n"
        "    u.urlopen(u.Request('http://127.0.0.1:8000/_sandbox/github/repositories', body, method='POST'))\n"
        "body = json.dumps({'graphql_points': 1000000, 'graphql_points_per_minute': 1000000}).encode()\n"
        "u.urlopen(u.Request('http://127.0.0.1:8000/_sandbox/settings', body, method='POST'))"
    )
    stack.compose("exec", "-T", "sandbox", "python", "-c", script)


def launched(stack: Stack, partitions: list[str]) -> list[tuple[float, float]]:
    """Launches a run per partition, one right after the other; the moments of their launch and their end."""
    runs = []
    for partition in partitions:
        moment = time.time()
        runs.append((moment, stack.launch(ASSET, partition)))
    query = "query($r: ID!) { runOrError(runId: $r) { ... on Run { status endTime } } }"

    def ended(run_id: str) -> Any:
        run = stack.graphql(query, r=run_id)["runOrError"]
        return run if run["status"] in ("SUCCESS", "FAILURE", "CANCELED") else None

    found = []
    for moment, run_id in runs:
        run = wait_for(partial(ended, run_id), 600, "the run to end")
        assert run["status"] == "SUCCESS", stack.failures(run_id)
        found.append((moment, float(run["endTime"])))
        print(".", end="", file=sys.stderr, flush=True)
    return found


def backfilled(stack: Stack, at_once: int, rounds: int) -> list[float]:
    """Runs per minute of backfills over all repositories, each from the first run that starts to the last that ends."""
    limit(stack, at_once)
    up(stack)
    stack.compose("restart", "daemon")  # compose does not see that the file it has mounted is another
    stack.compose("exec", "-T", "daemon", "dagster", "instance", "concurrency", "set", "github", str(at_once))
    return [one_backfill(stack) for _ in range(rounds)]


def one_backfill(stack: Stack) -> float:
    """Runs per minute."""
    backfill = stack.launch_backfill(ASSET, PARTITIONS)
    wait_for(lambda: stack.backfill_now(backfill)["status"] not in ("REQUESTED", "CANCELING"), 1800, "the backfill")
    query = """query($b: String!) { partitionBackfillOrError(backfillId: $b) { ... on PartitionBackfill {
               runs(limit: 500) { status startTime endTime } } } }"""
    runs: list[dict[str, Any]] = stack.graphql(query, b=backfill)["partitionBackfillOrError"]["runs"]
    statuses = [one["status"] for one in runs]
    assert statuses == ["SUCCESS"] * len(PARTITIONS), f"{len(statuses)} runs: {sorted(set(statuses))}"
    first = min(float(one["startTime"]) for one in runs)
    last = max(float(one["endTime"]) for one in runs)
    print("backfill", file=sys.stderr)
    return 60 * len(PARTITIONS) / (last - first)


def by_dlt_alone(stack: Stack) -> tuple[float, float]:
    """The same load in the same container, as a process of its own without Dagster: its seconds, and those of CPU."""
    return tuple(json.loads(stack.compose("exec", "-T", "engineering", "python", "-c", TIMED, ALONE).stdout))


ALONE = f"""
import dlt
from dlt_sources.github import github_stargazers
pipeline = dlt.pipeline("alone", destination="postgres", dataset_name="alone", pipelines_dir="/tmp/alone")
pipeline.run(github_stargazers(*{PARTITIONS[0]!r}.split("/")))
"""
TIMED = """
import resource, subprocess, sys, time
started = time.perf_counter()
subprocess.run([sys.executable, "-c", sys.argv[1]], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print([time.perf_counter() - started, used.ru_utime + used.ru_stime])
"""


def at_rest() -> str:
    """The table of what each service takes while nothing happens, after its start and after a dozen runs."""
    with running() as stack:
        up(stack)
        time.sleep(60)  # until nothing is left of the start
        memory = {service: megabytes(container) for service, container in of(stack)}
        before, resting = cpu_seconds(stack), 60
        time.sleep(resting)
        after = cpu_seconds(stack)
        make_repositories(stack)
        launched(stack, PARTITIONS[:12])
        after_runs = {service: megabytes(container) for service, container in of(stack)}
    lines = [
        [
            service,
            *(f"{found:.0f}" if (found := one[service]) else "?" for one in (memory, after_runs)),
            f"{100 * (after[service] - before[service]) / resting:.1f}",
        ]
        for service in sorted(memory)
    ]
    dagster = [memory[service] for service in ("webserver", "daemon", *LOCATIONS)]
    if None not in dagster:
        lines.append(
            ["webserver, daemon and locations; goal: 600", f"{sum(map(float, filter(None, dagster))):.0f}", "", ""]
        )
    return table(["service", "MB after its start", "MB after runs", "CPU at rest, % of a core"], lines)


def run(clicks: int = 20, rounds: int = 5) -> str:
    """The section's tables, in Markdown."""
    with running() as stack:
        from_nothing = up(stack)
        again = []
        for _ in range(rounds):
            stack.compose("down", "--timeout", "10")
            again.append(up(stack))
        time.sleep(60)  # until nothing is left of the start
        before, resting = sum(cpu_seconds(stack).values()), 60
        time.sleep(resting)
        idle = (sum(cpu_seconds(stack).values()) - before) / resting

        make_repositories(stack)
        launched(stack, PARTITIONS[:1] * 3)  # the first makes the table, and what is imported once
        by_dlt_alone(stack)
        waits, work, alone = [], [], []
        for _ in range(clicks):
            alone.append(by_dlt_alone(stack))
            time.sleep(2)
            used, since = sum(cpu_seconds(stack).values()), time.time()
            [(start, end)] = launched(stack, PARTITIONS[:1])
            waits.append(end - start)
            time.sleep(2)  # what a run leaves to be done is its own, too
            work.append(sum(cpu_seconds(stack).values()) - used - idle * (time.time() - since))
        rates = []
        for _ in range(rounds):
            moments = launched(stack, PARTITIONS[:12])
            rates.append(60 * 12 / (max(end for _, end in moments) - moments[0][0]))
        per_run = stack.compose(
            *("exec", "-T", "postgres", "psql", "-U", "dagster", "dagster", "--tuples-only", "--no-align", "--command"),
            "SELECT avg(events), avg(bytes) FROM (SELECT count(*) AS events, sum(length(event)) AS bytes "
            "FROM event_logs WHERE run_id IS NOT NULL GROUP BY run_id) AS runs",
        ).stdout.strip()
    events, size = per_run.split("|")
    print(file=sys.stderr)
    limits = [list(values) for values in zip(*alone, strict=True)]
    seconds, cpu_limit = map(median, limits)
    late = quantiles(waits, n=20)[-1]
    lines = [
        ["`docker compose up --wait`, to every location loaded, s", spread(again), "", "15 s"],
        ["the same, the first time, s", f"{from_nothing:.1f}", "", ""],
        ["limit: the same load by dlt alone, in a process, s", spread(limits[0]), "1.0", ""],
        ["click to success, s", spread(waits), f"{median(waits) / seconds:.1f}", "1.8"],
        [f"click to success, 95th percentile of {clicks}, s", f"{late:.2f}", f"{late / seconds:.1f}", "2.7"],
        ["limit: CPU of dlt alone, s", spread(limits[1]), "1.0", ""],
        ["CPU of a run, all containers, s", spread(work), f"{median(work) / cpu_limit:.1f}", "1.5"],
        ["runs per minute, 12 queued at once", spread(rates), "", "50"],
        ["events of a run", f"{float(events):.0f}, {float(size) / 1000:.0f} kB", "", ""],
        ["CPU of the whole system at rest, of one core", f"{100 * idle:.1f} %", "", ""],
    ]
    return table(["an empty load", "measured", "times the limit", "goal"], lines)


def backfills(rounds: int = 5) -> str:
    """The table of backfills over all repositories, with so many runs at once."""
    with running() as stack:
        up(stack)
        make_repositories(stack)
        lines = [[str(n), spread(backfilled(stack, n, rounds))] for n in AT_ONCE]
    return table(["runs at once", f"runs per minute, {len(PARTITIONS)} partitions backfilled"], lines)


if __name__ == "__main__":
    print(run())
