"""`make up` in a clone: what it says, and what an edit restarts."""

import re
import shutil
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from tests.support.paths import ROOT
from tests.support.stack import LOCATIONS, Clone, clone, free_port, wait_for


def changed(stack: Clone) -> set[str]:
    """The services whose containers `docker compose up --build` replaces."""
    before = stack.container_ids()
    stack.up()
    return {service for service, container in stack.container_ids().items() if before.get(service) != container}


def without_own_sources(output: str) -> list[str]:
    """The lines that `make up` prints, but for the missing secrets of sources that .env.example does not name."""
    example = (ROOT / ".env.example").read_text()
    shipped = {name.lower() for name in re.findall(r"^SOURCES__([A-Z0-9_]+?)__", example, re.MULTILINE)}
    lines = [(line, re.match(r"(\w+): SOURCES__", line)) for line in output.splitlines()]
    return [line for line, hint in lines if not hint or hint[1] in shipped]


def test_make_up_prints_the_address_and_nothing_else(started: tuple[Clone, str]) -> None:
    stack, output = started

    assert without_own_sources(output) == [f"Dagster is at {stack.url}"]


@pytest.mark.parametrize(
    ("path", "restarted"),
    [
        ("code_locations/engineering/github.py", {"engineering"}),
        ("dlt_sources/thinkific/__init__.py", {"learning"}),
        ("dlt_sources/unused_source/__init__.py", set()),  # new, and no location imports it yet
        ("pyproject.toml", set()),
        ("sandbox/app.py", {"sandbox"}),
        ("runtime/load/locks.py", set(LOCATIONS)),
    ],
)
def test_an_edit_restarts_only_the_containers_that_use_it(running: Clone, path: str, restarted: set[str]) -> None:
    file = running.root / path
    is_new = not file.exists()
    file.parent.mkdir(exist_ok=True)
    with file.open("a") as edited:
        edited.write("\n# edited\n")

    assert changed(running) == restarted
    if is_new:
        shutil.rmtree(file.parent)


def test_a_setting_restarts_only_the_location_that_lists_it(running: Clone) -> None:
    running.set("SOURCES__THINKIFIC__TIMEOUT", "50")

    assert changed(running) == {"learning"}


def test_a_new_secret_takes_a_line_in_the_list_and_its_value(running: Clone) -> None:
    with (running.root / "code_locations" / "learning" / "env.list").open("a") as file:
        file.write("SOURCES__UNUSED__API_KEY\n")
    with running.env_file.open("a") as file:
        file.write("SOURCES__UNUSED__API_KEY='to$p secret'\n")
    running.up()

    for service in running.container_ids():
        if service != "migrate":  # it has exited
            environment = running.compose("exec", "-T", service, "env").stdout
            assert ("SOURCES__UNUSED__API_KEY=to$p secret" in environment.splitlines()) == (service == "learning")


def test_a_secret_in_a_file_is_rotated_by_a_restart_of_its_location(running: Clone) -> None:
    def rotate(value: str) -> tuple[str, str]:
        """Replaces the file as editors do, and loads. Returns the status of the run and its errors."""
        (folder / "new").write_text(value)
        (folder / "new").chmod(0o644)
        (folder / "new").rename(folder / "github-token")
        running.compose("restart", "engineering")
        running.compose("up", "--detach", "--wait", "--no-recreate", "engineering")  # until it serves
        running.reload("engineering")  # the webserver would notice by itself, a moment later
        wait_for(lambda: running.locations()["engineering"] == "loaded", 90, "engineering to load")
        run = running.materialize([["github", "issues"]], "sandbox/handbook")
        return run["status"], running.failures(run["runId"])

    folder, override = running.root / "secrets", running.root / "docker-compose.override.yml"
    folder.mkdir()
    (folder / "github-token").write_text("wrong")
    override.write_text("""
services: {engineering: {secrets: [sources--github--access-token]}}
secrets: {sources--github--access-token: {file: ./secrets/github-token}}
""")
    running.set("SOURCES__GITHUB__ACCESS_TOKEN", "")
    try:
        result = running.make_up()
        assert "github: SOURCES__GITHUB__ACCESS_TOKEN is not set." not in result.stdout
        others = running.started_at()
        assert rotate("sandbox-token") == ("SUCCESS", "")
        status, failures = rotate("revoked")
        assert (status, "GitHub rejects the credential" in failures) == ("FAILURE", True)
        assert rotate("sandbox-token") == ("SUCCESS", "")
        restarted = {service for service, time in running.started_at().items() if others[service] != time}
        assert restarted == {"engineering"}
    finally:
        override.unlink()
        shutil.rmtree(folder)


def test_make_up_names_the_sources_without_a_secret(running: Clone) -> None:
    running.set("SOURCES__THINKIFIC__API_KEY", "CHANGEME")
    running.set("SOURCES__HUBSPOT__API_KEY", "")
    running.set("SOURCES__GITHUB__API_BASE_URL", "")
    result = running.make_up()

    assert result.returncode == 0, result.stderr
    assert without_own_sources(result.stdout) == [
        "github: SOURCES__GITHUB__ACCESS_TOKEN is still the sandbox's.",
        "thinkific: SOURCES__THINKIFIC__API_KEY is still the placeholder.",
        "hubspot: SOURCES__HUBSPOT__API_KEY is not set.",
        f"Dagster is at {running.url}",
    ]


def test_make_up_names_assets_whose_tables_are_in_another_warehouse(running: Clone) -> None:
    running.up()
    wait_for(lambda: running.locations()["learning"] == "loaded", 60, "learning to load")
    assets = [["thinkific", "courses"]]
    run = running.materialize(assets, None, "learning")
    assert run["status"] == "SUCCESS", running.failures(run["runId"])
    loaded = [key for key in running.materialized() if key in running.assets() + running.assets("learning")]
    running.set("WAREHOUSE", "duckdb")
    output = running.make_up().stdout

    assert assets[0] in loaded
    assert without_own_sources(output)[0] == (
        f"WAREHOUSE is duckdb, but the last load of {len(loaded)} asset{'s' if len(loaded) > 1 else ''} went to "
        "postgres. The catalog shows them as materialized; duckdb has their tables once you materialize them again."
    )


def test_a_bi_tool_reads_the_warehouse_and_cannot_write(running: Clone) -> None:
    port, password = free_port(), 'it\'s "quoted"'
    running.set("COMPOSE_FILE", "docker-compose.yml:compose.read.yml")
    running.set("WAREHOUSE_READER_PASSWORD", password)
    running.set("WAREHOUSE_PORT", str(port))
    result = running.make_up()
    assert result.returncode == 0, result.stderr + result.stdout
    running.rows("CREATE SCHEMA later; CREATE TABLE later.rows AS SELECT 1 AS n")

    address = {"host": "127.0.0.1", "port": port, "dbname": "warehouse", "user": "reader"}
    with closing(psycopg2.connect(**address, password=password)) as reader:
        reader.autocommit = True
        with reader.cursor() as cursor:
            cursor.execute("SELECT n FROM later.rows")
            assert cursor.fetchall() == [(1,)]
            for statement in (
                "INSERT INTO later.rows VALUES (2)",
                "DROP TABLE later.rows",
                "CREATE TABLE later.more (n int)",
                "CREATE TABLE public.more (n int)",
                "CREATE SCHEMA more",
                "ALTER ROLE reader SUPERUSER",
            ):
                with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                    cursor.execute(statement)
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(**address, password="wrong")


def test_make_up_shows_what_a_container_that_does_not_start_said(running: Clone) -> None:
    running.set("DAGSTER_POSTGRES_PASSWORD", "another-than-the-database-was-made-with")
    result = running.make_up()

    assert result.returncode == 1
    assert "CalledProcessError" not in result.stderr
    assert "migrate is not healthy (Exited (1)" in result.stdout
    assert 'password authentication failed for user "dagster"' in result.stdout
    assert result.stdout.splitlines()[-1] == f"Dagster will be at {running.url} when its webserver is up."


def test_another_clone_does_not_take_over_the_containers(running: Clone, tmp_path: Path) -> None:
    """For example, because its `.env` was copied from the first one."""
    before = running.container_ids()
    root = clone(tmp_path / "second")
    second = Clone(root, running.project, root)
    second.env_file.write_text(running.env_file.read_text())
    result = second.make_up()

    assert result.returncode == 1
    assert result.stderr == (
        f"{running.root} already runs a project named {running.project}. Set COMPOSE_PROJECT_NAME in .env to another "
        "name, or run `docker compose down` there first.\n"
    )
    assert running.container_ids() == before
