"""`make restore FROM=…`: puts a backup of the asset `platform/backup` into the databases of the compose stack.

FROM is the name of a backup in BACKUP_URL, `latest`, or a folder on this machine with the files of one. A database is
restored beside the present one and compared with the rows that were counted for the backup, and then takes its place.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
ROW_COUNTS = ROOT / "code_locations" / "platform" / "row_counts.sql"
STAGING = re.compile(r"_staging_[a-z2-7]{29}\.")
BACKUPS = ("run", "--rm", "--no-deps", "-T", "platform", "python", "-m", "code_locations.platform.backup_store")
SERVICES = {"dagster": "postgres", "warehouse": "warehouse"}  # database → its service in docker-compose.yml
NEW = '"${POSTGRES_DB}_restored"'  # in the shell of the service
UNCHANGED = "The databases are as before. Start everything again with `make up`."


def main() -> int:
    os.chdir(ROOT)
    if not shutil.which("docker"):
        sys.exit("make restore needs Docker with Compose.")
    parser = argparse.ArgumentParser(prog="make restore", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("backup", nargs="?", default="latest")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    arguments = parser.parse_args()
    wanted = arguments.backup
    folder = Path(wanted) if Path(wanted).is_dir() else None
    name = "" if folder else backup_name(wanted)
    manifest = json.loads(read(folder, name, "backup.json"))
    running = compose("config", "--services").split()
    databases = {key: dump for key, dump in manifest["dumps"].items() if restorable(key, dump, running)}
    if not databases:
        sys.exit(f"{wanted} has no database of this stack.")
    print(plan(folder or name, databases))
    if not arguments.yes and input("Type `yes` to go on: ").strip() != "yes":
        sys.exit("Nothing was changed.")

    writers = [service for service in running if service not in SERVICES.values()]
    compose("stop", *writers)
    compose("up", "--detach", "--wait", *(SERVICES[key] for key in databases))
    for key, dump in databases.items():
        restore(SERVICES[key], folder, name, dump["file"])
        # Older backups have the staging of the loads that were under way, which nobody reads.
        expected = {table: rows for table, rows in dump["rows"].items() if not STAGING.search(table)}
        demand_same(key, expected, row_counts(SERVICES[key]))
    for key in databases:  # once both are there
        replace(SERVICES[key])
        print(f"{key} is restored: {sum(databases[key]['rows'].values()):,} rows.")
    compose("up", "--detach", "--wait")
    print("Everything runs again. Runs that the backup shows as running are marked as failed and started again.")
    return 0


def backup_name(wanted: str) -> str:
    """The name of a backup in BACKUP_URL. Ends the process with a sentence if there is none."""
    names = compose(*BACKUPS, "list").split()
    if wanted == "latest" and names:
        return names[-1]
    if wanted not in names:
        found = f"There are {', '.join(names)}." if names else "There are none."
        sys.exit(f"FROM={wanted} is neither a folder on this machine nor a backup in BACKUP_URL. {found}")
    return wanted


def restorable(key: str, dump: Mapping[str, Any], running: Sequence[str]) -> bool:
    """Whether a database of the backup is a service of this stack. If not, says how to restore it."""
    if dump["file"].endswith(".duckdb"):
        print(f"{dump['file']} is not restored: with the stack stopped, copy it to DESTINATION__DUCKDB__CREDENTIALS.")
    elif SERVICES.get(key) not in running:
        print(f"{dump['file']} is not restored: its server is not in this stack. Use pg_restore there.")
    else:
        return True
    return False


def plan(source: object, databases: Mapping[str, Any]) -> str:
    lines = [f"This restores {source}:"]
    for key, dump in databases.items():
        lines.append(
            f"  {key}: {len(dump['rows'])} tables, {sum(dump['rows'].values()):,} rows replace what is there now"
        )
    return "\n".join([*lines, "All services stop meanwhile. What was loaded or recorded since the backup is lost."])


def read(folder: Path | None, name: str, file: str) -> str:
    if not folder:
        return compose(*BACKUPS, "cat", name, file)
    if not (folder / file).is_file():
        sys.exit(f"{folder} has no {file}: it is no backup, or one that was cut off.")
    return (folder / file).read_text()


def restore(service: str, folder: Path | None, name: str, file: str) -> None:
    """Restores a dump into a new database. The present one stays as it is."""
    psql(service, 'DROP DATABASE IF EXISTS :"new" WITH (FORCE); CREATE DATABASE :"new" TEMPLATE template0;')
    command = f'exec pg_restore -U "$POSTGRES_USER" -d {NEW} --exit-on-error --no-owner --no-privileges'
    with dump_file(folder, name, file) as dump:
        done = subprocess.run([*in_service(service), command], stdin=dump)
    if done.returncode:
        sys.exit(f"{file} cannot be restored, see above. {UNCHANGED}")


@contextmanager
def dump_file(folder: Path | None, name: str, file: str) -> Iterator[IO[bytes] | None]:
    """The dump, from the folder or out of BACKUP_URL."""
    if folder:
        with (folder / file).open("rb") as found:
            yield found
        return
    with subprocess.Popen(["docker", "compose", *BACKUPS, "cat", name, file], stdout=subprocess.PIPE) as process:
        yield process.stdout
        if process.wait():
            sys.exit(f"{file} cannot be read from BACKUP_URL, see above. {UNCHANGED}")


def row_counts(service: str) -> dict[str, int]:
    """The number of rows of every table in the restored database."""
    found = psql(service, f"{ROW_COUNTS.read_text()}\\gexec\n", NEW)
    rows = (line.rpartition("|") for line in found.splitlines() if line)
    return {table: int(count) for table, _, count in rows}


def demand_same(database: str, expected: Mapping[str, int], found: Mapping[str, int]) -> None:
    """Ends the process if the restored database has other rows than the backup had."""
    tables = sorted(table for table in {*expected, *found} if expected.get(table) != found.get(table))
    if tables:
        table = tables[0]
        sys.exit(
            f"{database} was restored with other rows than the backup has: {table} has {found.get(table, 'no table')} "
            f"instead of {expected.get(table, 'no table')}. {UNCHANGED}"
        )


def replace(service: str) -> None:
    """Puts the restored database in the place of the present one, which is dropped."""
    psql(
        service,
        """DROP DATABASE IF EXISTS :"old" WITH (FORCE);
        SELECT CASE WHEN datname = :'db' THEN pg_terminate_backend(pid) END FROM pg_stat_activity;
        BEGIN;
        ALTER DATABASE :"db" RENAME TO :"old";
        ALTER DATABASE :"new" RENAME TO :"db";
        COMMIT;
        DROP DATABASE :"old" WITH (FORCE);""",
    )


def psql(service: str, script: str, database: str = "postgres") -> str:
    """What psql prints. `:db` is the service's database, `:new` the restored one, `:old` the one that it replaced."""
    options = '--no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 --set db="$POSTGRES_DB"'
    command = f'exec psql -U "$POSTGRES_USER" -d {database} {options}'
    names = "\\set new :db _restored\n\\set old :db _replaced\nSET client_min_messages = warning;\n"
    done = subprocess.run([*in_service(service), command], input=names + script, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"The service {service} refused a statement, see above. {UNCHANGED}")
    return done.stdout


def in_service(service: str) -> list[str]:
    return ["docker", "compose", "exec", "-T", service, "sh", "-c"]


def compose(*arguments: str) -> str:
    """What a compose command prints. Ends the process if it fails: its error is on the screen."""
    done = subprocess.run(["docker", "compose", *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
