"""What Dagster's own Postgres costs a run: assets that do nothing, with and without connections that are kept.

`python -m benchmarks.events CONTENDER` is one measurement.
"""

import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.measure import QUIET, Measured, as_a_fork, measure, postgres, spread, table, take_turns

ASSETS = 20
KEPT, EACH = "kept", "each"
CONTENDERS = {
    KEPT: "a connection that is kept (`accelerate/connections.py`)",
    EACH: "a connection for each query, as in Dagster",
}


def run(rounds: int = 5) -> str:
    """The table, in Markdown."""
    with postgres() as url:
        measured = take_turns({name: partial(recorded, name, url) for name in CONTENDERS}, rounds)
    seconds = {name: [one.seconds for one in results] for name, results in measured.items()}
    lines = [
        [text, spread(seconds[name]), f"{median(seconds[name]) / median(seconds[KEPT]):.2f}"]
        for name, text in CONTENDERS.items()
    ]
    return table([f"a run of {ASSETS} empty assets, with", "seconds", "times"], lines)


def recorded(name: str, url: str) -> Measured:
    """A run whose events are in the Postgres at `url`."""
    with tempfile.TemporaryDirectory() as home:
        environment = QUIET | {
            "DAGSTER_HOME": home,
            "BENCHMARK_INSTANCE": url.replace("postgresql:", "postgresql+psycopg2:"),
        }
        return measure("benchmarks.events", name, environment=environment, says_seconds=True)


def load(name: str) -> None:
    """One measurement, in a process of its own. The instance is opened in the fork, as a run does it."""
    from runtime.accelerate import connections

    if name == EACH:
        connections.install = lambda: None
    as_a_fork(_run)


def _run() -> None:
    import dagster as dg

    def asset(number: int) -> dg.AssetsDefinition:
        return dg.asset(name=f"asset_{number}")(lambda: None)

    settings = {"storage": {"postgres": {"postgres_url": os.environ["BENCHMARK_INSTANCE"]}}}
    Path(os.environ["DAGSTER_HOME"], "dagster.yaml").write_text(json.dumps(settings))
    with dg.DagsterInstance.get() as instance:
        assert dg.materialize([asset(number) for number in range(ASSETS)], instance=instance).success


if __name__ == "__main__":
    if len(sys.argv) == 2:
        load(sys.argv[1])
    else:
        print(run())
