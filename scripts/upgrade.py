"""`make upgrade`, after `git pull`: replaces the version that runs by the one in this folder, or puts the old one back.

Until the migration, the old version's containers stay. From then on, whatever fails, Ctrl-C, SIGTERM and a terminal
that closes included, brings back its images, its files, and Dagster's database if the migration has changed it. Uses
the standard library only.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scripts import deploy, doctor, restore, sources, up

RECORD = sources.ROOT / "data" / "upgrade.json"  # there while an upgrade goes on, or if it was cut off
KEPT = "before-upgrade"  # the tag of the old images
DATABASES = tuple(restore.SERVICES.values())
BACKUP = (*restore.BACKUPS[:-1], "code_locations.platform.backups")
IS_DAGSTER = "DAGSTER_POSTGRES_HOST"  # the variable that every process of Dagster has
DRAIN_SECONDS = 600
BEATS_WITHIN = 180  # seconds
UP = ("up", "--detach", "--wait", "--no-build", "--remove-orphans")
say = partial(print, flush=True)  # in order with what docker writes
FORCE = ("--force-recreate",)  # compose does not notice that a mounted file has changed
RUNS = """{ runsOrError(filter: {statuses: [STARTING, STARTED, CANCELING]}, limit: 500) { ... on Runs { results {
    runId jobName assetSelection { path } repositoryOrigin { repositoryLocationName } } } } }"""
# A digest of everything that a migration changes: tables, indexes, and the lists of what was migrated.
FINGERPRINT = """SELECT md5(string_agg(line, ';' ORDER BY line)) FROM (
    SELECT format('%s %s %s', table_name, column_name, data_type) AS line
        FROM information_schema.columns WHERE table_schema = 'public'
    UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL SELECT version_num FROM alembic_version
    UNION ALL SELECT name FROM secondary_indexes) AS lines;"""
# A copy of the files. Nothing may be connected meanwhile.
COPY = """DROP DATABASE IF EXISTS :"new" WITH (FORCE);
    SELECT CASE WHEN datname = :'db' THEN pg_terminate_backend(pid) END FROM pg_stat_activity;
    CREATE DATABASE :"new" TEMPLATE :"db" STRATEGY FILE_COPY;"""
DROP_COPY = 'DROP DATABASE IF EXISTS :"new" WITH (FORCE);'


class Failed(Exception):
    """A sentence, without its full stop, that says why the new version does not run."""


@dataclass
class Before:
    """The version that runs, as far as it is needed to bring it back."""

    commit: str  # empty if it is not known
    images: dict[str, str]  # name → id
    problems: list[str]  # what was already wrong
    copied: str = ""  # when Dagster's database was copied
    fingerprint: str = ""  # of that copy

    def save(self) -> None:
        RECORD.write_text(json.dumps(asdict(self)))

    def restore_tags(self) -> None:
        for name, image in self.images.items():
            subprocess.run(["docker", "tag", image, name], check=True)


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM):  # a job that is cancelled sends SIGTERM
        signal.signal(number, signal.default_int_handler)
    signal.signal(signal.SIGHUP, hang_up)
    os.chdir(sources.ROOT)
    is_cut_off, seconds = RECORD.exists(), drain_seconds()
    stack = running_stack(is_cut_off)
    if is_cut_off:
        before = Before(**json.loads(RECORD.read_text()))
        say(f"The last upgrade was cut off. A rollback brings back what ran before it, {name(before.commit)}.")
    else:
        before = version_of(stack)
    demand_way_back(before)
    try:
        build(before)
        if not is_cut_off and is_same():
            say(f"{here()} already runs: nothing to do.")
            return 0
        back_up()
    except (Failed, KeyboardInterrupt, subprocess.TimeoutExpired) as error:
        before.restore_tags()
        sys.exit(f"{sentence(error)}. Nothing was changed.")
    try:
        before.save()
        if not is_cut_off or up.answers():
            drain(seconds)
        migrate(before)
        start(before)
    except (Exception, KeyboardInterrupt, SystemExit) as error:  # helpers of other scripts end the process
        return roll_back(before, sentence(error))
    forget()
    say(f"{here()} runs.")
    return 0


def hang_up(*_: object) -> None:
    """The terminal has been closed. What is written to it would fail, here and in docker."""
    with open(os.devnull, "w") as nowhere:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere.fileno(), stream.fileno())
    raise KeyboardInterrupt


def sentence(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "it was interrupted"
    return str(error).rstrip(".") or type(error).__name__


def running_stack(is_cut_off: bool) -> doctor.Stack:
    """The stack. Ends the process with a sentence if nothing runs that could be upgraded."""
    stack = doctor.Stack()
    findings = list(doctor.settings(stack))
    if not stack.settings:
        sys.exit(f"{findings[0].text} {findings[0].todo}")
    up.demand_own_project(stack.settings["name"])
    if not stack.is_running("postgres") or not (is_cut_off or up.answers()):
        sys.exit("The stack does not run, so there is nothing to upgrade. Start it with `make up`.")
    for service in DATABASES:
        versions = [container_image(stack, service), (stack.services.get(service) or {}).get("image", "")]
        majors = [re.search(r":(\d+)", version) for version in versions]
        if majors[0] and majors[1] and majors[0][1] != majors[1][1]:
            sys.exit(
                f"{service} runs {versions[0]}, and {versions[1]} cannot read its files. Restore a backup into a new "
                "volume instead (docs/operating.md#upgrade)."
            )
    return stack


def container_image(stack: doctor.Stack, service: str) -> str:
    return str(stack.containers.get(service, {}).get("Config", {}).get("Image", ""))


def drain_seconds() -> int:
    value = os.environ.get("DRAIN_SECONDS", "").strip() or str(DRAIN_SECONDS)
    if not value.isdecimal():
        sys.exit(f"DRAIN_SECONDS={value} must be a number of seconds, such as {DRAIN_SECONDS}.")
    return int(value)


def version_of(stack: doctor.Stack) -> Before:
    project = stack.settings["name"]
    found = {container_image(stack, service): one["Image"] for service, one in stack.containers.items()}
    images = {image: id_ for image, id_ in found.items() if image.startswith(f"{project}-")}
    # What was checked out when the newest container was made
    created = max(one["Created"] for one in stack.containers.values())
    done = doctor.run("git", "rev-parse", "--verify", f"HEAD@{{{created[:19].replace('T', ' ')} +0000}}")
    is_known = done.returncode == 0 and "only goes back to" not in done.stderr
    if not is_known:
        say("Which commit runs is not known: a rollback brings back images and database, and uses the files of now.")
    return Before(done.stdout.strip() if is_known else "", images, list(problems()))


def head() -> str:
    return doctor.run("git", "rev-parse", "--verify", "HEAD").stdout.strip()


def name(commit: str) -> str:
    """How a version is called: its tag, or its short id."""
    return doctor.run("git", "describe", "--tags", "--always", commit).stdout.strip() if commit else "The old version"


def here() -> str:
    """How the version in this folder is called."""
    return name(commit) if (commit := head()) else "The version in this folder"


def demand_way_back(before: Before) -> None:
    """Ends the process if files in this folder would keep a rollback from checking out the old version."""
    done = doctor.run("git", "read-tree", "--dry-run", "-m", "-u", "HEAD", before.commit or "HEAD")
    if before.commit and done.returncode:
        error = done.stderr.partition("\n")[0].removeprefix("error: ")
        sys.exit(
            f"A rollback could not check out {name(before.commit)} again: {error} Commit, stash or move your changes."
        )


def is_same() -> bool:
    """Whether the images, settings and mounted files are those that run."""
    dry = doctor.run("docker", "compose", "--dry-run", "up", "--detach", "--no-build")
    if dry.returncode or re.search("Recreat|Creating|orphan", dry.stdout + dry.stderr):
        return False
    files = ("dagster.yaml", "workspace.yaml")
    mounted = doctor.run("docker", "compose", "exec", "-T", "webserver", "cat", *(f"/dagster/{file}" for file in files))
    return mounted.stdout == "".join(Path(file).read_text() for file in files)


def build(before: Before) -> None:
    for image, found in before.images.items():
        subprocess.run(["docker", "tag", found, f"{image}:{KEPT}"], check=True)
    if not deploy.compose("build"):
        raise Failed("An image could not be built, see above")
    say(f"built: {here()}. The old images have the tag {KEPT}.")


def back_up() -> None:
    """A backup of both databases in BACKUP_URL, made by the new version while the old one goes on."""
    done = subprocess.run(["docker", "compose", *BACKUP], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise Failed("The backup failed, see above")
    say(f"backed up: {doctor.last_line(done.stdout)}, restored and compared.")


def drain(seconds: int) -> None:
    """Stops the daemon, so that no run starts, and waits for those that go on."""
    if not deploy.compose("stop", "daemon"):
        raise Failed("the daemon could not be stopped")
    deadline = time.monotonic() + seconds
    while (runs := running_runs()) and time.monotonic() < deadline:
        time.sleep(2)
    if runs:
        say(f"drained: {len(runs)} still run. They have another minute, then the new version starts them again:")
        say("\n".join(f"  {run}" for run in runs))
    else:
        say("drained: no run goes on, and what is launched now waits in the queue.")


def running_runs() -> list[str]:
    answer = doctor.ask(RUNS)
    if not answer:
        raise Failed("the webserver does not answer")
    lines = []
    for run in answer["runsOrError"]["results"]:
        location = (run["repositoryOrigin"] or {}).get("repositoryLocationName")
        what = ", ".join(sorted("/".join(key["path"]) for key in run["assetSelection"] or ())) or run["jobName"]
        lines.append(f"{location}: {what}, run {run['runId']}")
    return lines


def migrate(before: Before) -> None:
    """Stops Dagster's processes, copies its database and migrates it."""
    stop()
    if before.copied and psql(FINGERPRINT, in_dagster=True) != before.fingerprint:
        say(f"copied: Dagster's database has changed since the copy of {before.copied}, which is kept.")
    else:
        psql(COPY)
        before.fingerprint = psql(FINGERPRINT, in_dagster=True)
        before.copied = f"{time.strftime('%Y-%m-%d %H:%M:%S %Z')}"
        before.save()
    if not deploy.compose(*UP, *services(dagster=False)):
        raise Failed(unhealthy())
    command = ["docker", "compose", "run", "--rm", "--no-deps", "-T", "migrate"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, file=sys.stderr)
    if done.returncode:
        raise Failed(f"the migration failed: {doctor.last_line(done.stdout)}")
    changed = psql(FINGERPRINT, in_dagster=True) != before.fingerprint
    say(f"migrated: Dagster's tables {'have changed' if changed else 'are as they were'}.")


def start(before: Before) -> None:
    """Starts everything, the daemon last: it launches runs only of a version that loads."""
    if not deploy.compose(*UP, *FORCE, *(set(services(dagster=True)) - {"daemon"})):
        raise Failed(unhealthy())
    found = problems()
    new = {about: text for about, text in found.items() if about not in before.problems or about == "schema"}
    if new:
        raise Failed("; ".join(f"{about}: {text}" for about, text in new.items()))
    say(f"started: the webserver answers, {len(locations())} locations are loaded.")
    since = time.time()
    if not deploy.compose(*UP, *FORCE, "daemon"):
        raise Failed(unhealthy())
    if silent := silent_daemons(since):
        raise Failed(f"no heartbeat of {', '.join(silent)} within {BEATS_WITHIN} s")
    say("verified: the daemon is alive, Dagster's tables are those of its code.")


def roll_back(before: Before, why: str) -> int:
    """Brings the old version back. Returns the exit code."""
    new, old, branch = here(), name(before.commit), branch_here()
    say(f"{new} does not run: {why}. {old} is brought back …")
    try:
        before.restore_tags()
        files = bring_back(before, branch)
        left = {about: text for about, text in problems().items() if about not in before.problems}
    except KeyboardInterrupt:
        sys.exit(f"The rollback was cut off. Run `git checkout {branch}` and `make upgrade` again.")
    except (Exception, SystemExit) as error:
        left = {"rollback": sentence(error)}
    if left:
        said = "; ".join(f"{about}: {text}" for about, text in left.items())
        say(f"{new} was not started: {why}. {old} does not run either ({said}): run `make doctor`.")
        return 1
    forget()
    say(f"{new} was not started: {why}. {old} runs again.{files}")
    return 1


def branch_here() -> str:
    """What brings the files of now back with `git checkout`."""
    branch = doctor.run("git", "rev-parse", "--abbrev-ref", "HEAD").stdout.strip()
    return head()[:9] if branch == "HEAD" else branch


def bring_back(before: Before, branch: str) -> str:
    """Starts the old version with its files. Returns a sentence about these."""
    if before.copied:
        stop()
    said = ""
    if before.commit not in ("", head()):
        done = doctor.run("git", "checkout", "--quiet", "--detach", before.commit)
        if done.returncode:
            raise Failed(f"its files are not back: {doctor.last_line(done.stderr)}")
        said = f" This folder has its files; `git checkout {branch}` has the new ones."
    if before.copied:
        put_database_back(before)
        is_up = deploy.compose(*UP, *services(dagster=False)) and deploy.compose(*UP, *FORCE, *services(dagster=True))
    else:  # the old containers are still there
        containers = [one["Id"] for one in doctor.Stack().containers.values()]
        subprocess.run(["docker", "start", *containers], check=True, stdout=subprocess.DEVNULL)
        is_up = deploy.compose("up", "--detach", "--wait", "--no-build", "--no-recreate")
    if not is_up:
        raise Failed(unhealthy())
    return said


def put_database_back(before: Before) -> None:
    """The copy takes the place of Dagster's database if a migration has changed that."""
    try:
        if psql(FINGERPRINT, in_dagster=True) == before.fingerprint:
            say("Dagster's database stays: its tables are as before.")
            return
    except Failed:  # a table that names migrations is gone
        pass
    restore.replace("postgres")
    say(
        f"Dagster's database is as of {before.copied}, before the migration. Rows that were loaded since stay in the "
        "warehouse; the records of their runs are lost."
    )


def forget() -> None:
    """Nothing is to be brought back any more."""
    psql(DROP_COPY)
    RECORD.unlink(missing_ok=True)


def stop() -> None:
    """Stops all processes of Dagster, also those of services that this version does not have.

    Each container gets its `stop_grace_period`, so a location's runs have a minute more.
    """
    containers = [
        one["Id"]
        for one in doctor.Stack().all_containers
        if one["State"]["Running"] and any(line.startswith(IS_DAGSTER) for line in one["Config"]["Env"])
    ]
    if containers and subprocess.run(["docker", "stop", *containers], stdout=subprocess.DEVNULL).returncode:
        raise Failed("the containers could not be stopped")


def services(dagster: bool) -> list[str]:
    """The services of Dagster's processes, or all others."""
    found = json.loads(up.compose("config", "--format", "json"))["services"]
    return [name for name, service in found.items() if (IS_DAGSTER in (service.get("environment") or {})) is dagster]


def unhealthy() -> str:
    """The first sentence about what does not start. All of them are shown."""
    lines = list(up.unhealthy_services())
    print("\n".join(lines), file=sys.stderr)
    return lines[0].removesuffix(" Its last lines:").rstrip(".") if lines else "docker compose up failed, see above"


def locations() -> list[str]:
    answer: Mapping[str, Any] = doctor.ask(up.LOCATIONS) or {"workspaceOrError": {"locationEntries": []}}
    return [entry["name"] for entry in answer["workspaceOrError"]["locationEntries"]]


def problems() -> dict[str, str]:
    """What is wrong with the version that runs: locations and modules that do not load, or the tables."""
    if not up.answers():
        return {"webserver": "it does not answer"}
    found = up.errors_by_location(deploy.LOADS_WITHIN)
    for location in locations():
        found |= {f"{location}/{module}": error for module, error in deploy.modules_not_loaded(location).items()}
    for finding in doctor.schema(doctor.Stack()):
        found["schema"] = finding.text
    return found


def silent_daemons(since: float) -> list[str]:
    """The parts of the daemon that have no healthy heartbeat since then. Waits for it."""
    deadline, silent = time.monotonic() + BEATS_WITHIN, ["the daemon"]
    while silent and time.monotonic() < deadline:
        time.sleep(2)
        if status := doctor.ask(doctor.STATUS):
            required = [one for one in status["instance"]["daemonHealth"]["allDaemonStatuses"] if one["required"]]
            silent = [
                one["daemonType"] for one in required if not one["healthy"] or (one["lastHeartbeatTime"] or 0) < since
            ]
    return silent


def psql(script: str, in_dagster: bool = False) -> str:
    try:
        return restore.psql("postgres", script, '"$POSTGRES_DB"' if in_dagster else "postgres").strip()
    except SystemExit:
        raise Failed("Dagster's Postgres refused a statement, see above") from None


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.TimeoutExpired as late:  # before the first step
        sys.exit(
            f"Docker does not answer within {late.timeout:.0f} s: the machine has too much to do. Try again later."
        )
