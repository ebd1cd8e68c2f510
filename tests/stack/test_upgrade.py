"""`make upgrade` from an older version: rows stay and loads go on; whatever fails brings the old version back."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.support.stack import PROJECT, Clone, clone, shell_environment, wait_for

pytestmark = pytest.mark.timeout(1800)  # an upgrade builds the images, and waits for each container
# A shallow checkout does not have it; then the present version is the older one.
OLD = os.environ.get("UPGRADE_FROM", "v0.2.0")
ISSUES = "SELECT count(*), count(DISTINCT number) FROM raw_github.issues WHERE repository_name = '{}'"
# The last two migrations of Dagster have not been made.
OLDER_TABLES = """DROP INDEX IF EXISTS idx_run_tags_run_id;
    CREATE INDEX IF NOT EXISTS idx_run_tags ON run_tags (key, value);
    UPDATE alembic_version SET version_num = '16e3655b4d9b';"""


def git(root: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=test", "-c", "user.email=test@example.com", *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def dagster_sql(stack: Clone, statement: str) -> str:
    command = ["psql", "-U", "dagster", "-v", "ON_ERROR_STOP=1", "-qAt", "-c", statement]
    return stack.compose("exec", "-T", "postgres", *command).stdout.strip()


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """A clone that runs an older version and has loaded. The branch `main` has the present version."""
    folder = tmp_path_factory.mktemp("upgrade")
    root = folder / "clone"
    archive = subprocess.run(["git", "archive", OLD], cwd=ROOT, capture_output=True)
    if archive.returncode:
        clone(root)
    else:
        root.mkdir()
        subprocess.run(["tar", "-x"], cwd=root, input=archive.stdout, check=True)
        (root / "data" / "archives").mkdir(parents=True, exist_ok=True)
    git(root, "init", "--quiet", "--initial-branch", "main")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "old")
    git(root, "tag", "old")
    project = f"{PROJECT}-upgrade"
    stack = Clone(root, project, root, COMPOSE_PROJECT_NAME=project)
    stack.down()
    try:
        stack.up()
        wait_for(lambda: stack.locations()["engineering"] == "loaded", 120, "engineering to load")
        load(stack)
        present = clone(folder / "present")
        (present / "data" / "archives" / ".gitkeep").touch()
        git(root, f"--work-tree={present}", "add", "--all")
        git(root, "commit", "--quiet", "--allow-empty", "--message", "new")
        git(root, "checkout", "--quiet", "--force", "old")
        git(root, "checkout", "--quiet", "main")
        if "BACKUP_URL=" not in stack.env_file.read_text():
            with stack.env_file.open("a") as file:
                file.write("BACKUP_URL=/backups\n")
        yield stack
    finally:
        stack.down()
    assert stack.containers() == []


@pytest.fixture
def branch(older: Clone) -> Clone:
    """The clone with the present version checked out, and the older one running. A test may break the branch."""
    git(older.root, "checkout", "--quiet", "--force", "-B", "branch", "main")
    return older


def load(stack: Clone) -> None:
    """Loads a repository, once more if it is already there: its rows are the same."""
    run = stack.materialize([["github", "issues"]], "sandbox/handbook")
    assert run["status"] == "SUCCESS", stack.failures(run["runId"])
    assert_rows(stack)


def assert_rows(stack: Clone) -> None:
    assert stack.rows(ISSUES.format("handbook")) == [["130", "130"]]


def upgrade(stack: Clone, **settings: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "scripts.upgrade"]
    environment = shell_environment() | settings
    done = subprocess.run(command, cwd=stack.root, env=environment, capture_output=True, text=True, timeout=1500)
    said = done.stderr + done.stdout if done.returncode else done.stdout  # compose shows its progress on stderr
    return done.returncode, said


def edit(stack: Clone, file: str, old: str, new: str) -> None:
    path = stack.root / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    git(stack.root, "commit", "--quiet", "--all", "--message", "broken")


def assert_as_before(stack: Clone, image: str, runs: list[Any]) -> None:
    """The old version serves, with its files, its records and its rows, and goes on loading."""
    assert git(stack.root, "rev-parse", "HEAD") == git(stack.root, "rev-parse", "old")
    assert stack.image("engineering") == image
    wait_for(lambda: set(stack.locations().values()) == {"loaded"}, 60, "every location to load")
    assert runs_of(stack)[-len(runs) :] == runs
    assert_rows(stack)
    load(stack)
    assert "upgrade.json" not in os.listdir(stack.root / "data")


def runs_of(stack: Clone) -> list[Any]:
    found: list[Any] = stack.graphql("{ runsOrError { ... on Runs { results { runId status } } } }")["runsOrError"][
        "results"
    ]
    return found


def test_a_migration_that_fails_is_undone(branch: Clone) -> None:
    """It has already changed Dagster's tables when it fails."""
    image, runs = branch.image("engineering"), runs_of(branch)
    half = "import os, psycopg2 as p; c = p.connect(host='postgres', dbname='dagster', user='dagster', "
    half += "password=os.environ['DAGSTER_POSTGRES_PASSWORD']); c.cursor().execute('CREATE TABLE half (n int)'); "
    half += "c.commit(); raise ValueError('what I broke')"
    edit(branch, "docker-compose.yml", "command: [dagster, instance, migrate]", f'command: [python, -c, "{half}"]')

    status, said = upgrade(branch)

    assert status == 1
    assert "was not started: the migration failed: ValueError: what I broke. old runs again." in said
    assert "Dagster's database is as of" in said
    assert dagster_sql(branch, "SELECT to_regclass('half')") == ""
    assert_as_before(branch, image, runs)


def test_a_location_that_does_not_load_is_undone(branch: Clone) -> None:
    image, runs = branch.image("engineering"), runs_of(branch)
    edit(branch, "code_locations/engineering/definitions.py", '"""', 'raise ValueError("what I broke")\n"""')

    status, said = upgrade(branch)

    assert status == 1
    assert "was not started: engineering: " in said
    assert "what I broke" in said
    assert_as_before(branch, image, runs)


def test_what_does_not_build_changes_nothing(branch: Clone) -> None:
    before = branch.container_ids()
    edit(branch, "code_locations/engineering/github.py", "import", "this is no Python\nimport")

    status, said = upgrade(branch)

    assert status == 1
    assert "An image could not be built, see above. Nothing was changed." in said
    assert branch.container_ids() == before
    tagged = ["docker", "image", "inspect", "--format", "{{.Id}}", f"{branch.project}-engineering"]
    assert subprocess.check_output(tagged, text=True).strip() == branch.image("engineering")


def test_changes_that_a_rollback_would_lose_are_named(branch: Clone) -> None:
    edit(branch, "dagster.yaml", "num_workers: 4", "num_workers: 5")
    (branch.root / "dagster.yaml").write_text("edited")

    status, said = upgrade(branch)

    assert status == 1
    assert "A rollback could not check out old again: Entry 'dagster.yaml' not uptodate. Cannot merge." in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_while_runs_end_lets_the_old_version_go_on(branch: Clone, number: signal.Signals) -> None:
    before = branch.container_ids()
    run = slow_run(branch)
    command = [sys.executable, "-m", "scripts.upgrade"]
    with subprocess.Popen(
        command, cwd=branch.root, env=shell_environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("backed up:"):
                wait_for(lambda: not is_running(branch, "daemon"), 60, "the daemon to stop")
                os.killpg(process.pid, number)  # as a terminal does
    assert process.returncode == 1
    if number != signal.SIGHUP:  # then nobody reads it
        assert "was not started: it was interrupted. old runs again." in said
    assert branch.container_ids() == before
    assert is_running(branch, "daemon")
    branch.sandbox("/settings", latency_ms=0)
    wait_for(lambda: status_of(branch, run) == "SUCCESS", 180, "the run to end")


def test_an_upgrade_keeps_rows_and_loads_go_on(branch: Clone) -> None:
    """A run that outlasts the deadline is started again by the new version."""
    dagster_sql(branch, OLDER_TABLES)
    image, run = branch.image("engineering"), slow_run(branch)

    status, said = upgrade(branch, DRAIN_SECONDS="5")

    assert status == 0, said
    assert f"engineering: github/issues, github/pull_requests, run {run}\n" in said, said
    assert "migrated: Dagster's tables have changed." in said
    assert dagster_sql(branch, "SELECT to_regclass('idx_run_tags_run_id')") == "idx_run_tags_run_id"
    assert dagster_sql(branch, "SELECT datname FROM pg_database WHERE datname LIKE 'dagster_%'") == ""
    assert set(branch.locations()) == {path.parent.name for path in ROOT.glob("code_locations/*/env.list")}
    assert set(branch.locations().values()) == {"loaded"}
    kept = ["docker", "image", "inspect", "--format", "{{.Id}}", f"{branch.project}-engineering:before-upgrade"]
    assert subprocess.check_output(kept, text=True).strip() == image
    branch.sandbox("/settings", latency_ms=0)
    assert_rows(branch)
    load(branch)
    wait_for(lambda: status_of(branch, run) == "FAILURE", 120, "the run that was cut off to be noticed")
    wait_for(lambda: branch.rows(ISSUES.format("engine")) == [["5000", "5000"]], 300, "the run to be repeated")

    before, new = branch.container_ids(), git(branch.root, "describe", "--tags", "--always")
    assert upgrade(branch) == (
        0,
        f"built: {new}. The old images have the tag before-upgrade.\n{new} already runs: nothing to do.\n",
    )
    assert branch.container_ids() == before


def slow_run(stack: Clone) -> str:
    """A run that is under way for minutes."""
    stack.sandbox("/settings", latency_ms=10_000)
    run = stack.launch([["github", "issues"], ["github", "pull_requests"]], "sandbox/engine")
    wait_for(lambda: status_of(stack, run) == "STARTED", 90, "the run to start")
    return run


def status_of(stack: Clone, run: str) -> str:
    return str(
        stack.graphql("query($r: ID!) { runOrError(runId: $r) { ... on Run { status } } }", r=run)["runOrError"][
            "status"
        ]
    )


def is_running(stack: Clone, service: str) -> bool:
    return service in stack.compose("ps", "--services", "--status", "running").stdout.split()
