"""A destroyed deployment comes back from a backup: volumes deleted, `make restore`, runs and rows are there."""

import os
import subprocess
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.stack import Stack, wait_for


def test_a_destroyed_deployment_is_restored_and_loads_go_on(stack: Stack, tmp_path: Path) -> None:
    assert stack.materialize([["github", "issues"]], "sandbox/handbook")["status"] == "SUCCESS"
    assert stack.materialize([["platform", "backup"]], None, location="platform")["status"] == "SUCCESS"
    count = "SELECT count(*), count(DISTINCT number) FROM raw_github.issues"
    rows, materialized = stack.rows(count), stack.materialized()
    [name] = stack.compose("exec", "-T", "platform", "ls", "/backups").stdout.split()[-1:]
    stack.compose("cp", f"platform:/backups/{name}", str(tmp_path / name))

    stack.down()  # with all volumes
    stack.up()
    assert stack.materialized() == []
    environment = os.environ | {"COMPOSE_PROJECT_NAME": stack.project, "COMPOSE_ENV_FILES": str(stack.env_file)}
    command = ["python3", "-m", "scripts.restore", "--yes", str(tmp_path / name)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)

    assert done.returncode == 0, done.stdout + done.stderr
    wait_for(lambda: set(stack.locations().values()) == {"loaded"}, 90, "every location to load")
    assert stack.rows(count) == rows
    # The run of the backup itself was still under way in it.
    assert [key for key in stack.materialized() if key[0] != "platform"] == [
        k for k in materialized if k[0] != "platform"
    ]
    assert stack.materialize([["github", "issues"]], "sandbox/handbook")["status"] == "SUCCESS"
    assert stack.rows(count) == rows


def test_pruning_runs_on_the_real_database(stack: Stack) -> None:
    assert stack.materialize([["platform", "pruning"]], None, location="platform")["status"] == "SUCCESS"


def test_the_figures_are_in_the_warehouse(stack: Stack) -> None:
    assets = [["dagster", "runs"], ["dagster", "materializations"], ["reports", "deployment"]]
    assert stack.materialize(assets, None, location="platform")["status"] == "SUCCESS"

    [[runs]] = stack.rows("SELECT count(*) FROM raw_dagster.runs WHERE location IS NOT NULL")
    assert int(runs) > 0
