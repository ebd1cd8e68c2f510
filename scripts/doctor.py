"""`make doctor`: what is wrong with the stack in Docker, and what to do about it. Also when it is half down.

Uses the standard library only, and asks the webserver through its container, so that it needs no login.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from scripts import port_is_free, sources, up

ROOT = sources.ROOT
ENGINE, COMPOSE = (25, 0), (2, 24)  # older ones do not know `start_interval`, or `!reset`
FREE_BYTES = 5 * 2**30
QUEUED_SECONDS = 3600
HEARTBEAT_SECONDS = 300
CLOCK_SECONDS = 5
BACKUP_DAYS = 2
SUPPORT = "look at `docker compose logs --tail 50 {}`."

STATUS = """{
  instance {
    daemonHealth { allDaemonStatuses { daemonType required healthy lastHeartbeatTime lastHeartbeatErrors { message } } }
    concurrencyLimits { concurrencyKey slotCount claimedSlots { runId } }
  }
  queued: runsOrError(filter: {statuses: [QUEUED]}, limit: 500) { ... on Runs { results { creationTime } } }
  active: runsOrError(filter: {statuses: [STARTING, STARTED, CANCELING]}, limit: 500) {
    ... on Runs { results { id } } }
  backup: assetOrError(assetKey: {path: ["platform", "backup"]}) { ... on Asset {
    assetMaterializations(limit: 1) { timestamp } } }
  workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError { __typename
    ... on RepositoryLocation { dagsterLibraryVersions { name version } }
    ... on PythonError { message causes { message } } } } } }
}"""
SCHEMA = "import dagster; print(dagster.DagsterInstance.get().schema_str())"


@dataclass(frozen=True)
class Finding:
    """One line of the screen. `todo` is what to do; without it, all is well."""

    about: str
    text: str
    todo: str = ""


@dataclass
class Stack:
    """What the checks look at. Everything is asked for once, and only if a check needs it."""

    settings: dict[str, Any] = field(default_factory=dict)  # the composed configuration

    @property
    def services(self) -> dict[str, Any]:
        services: dict[str, Any] = self.settings.get("services", {})
        return services

    @cached_property
    def all_containers(self) -> list[dict[str, Any]]:
        """What Docker knows of each container, those of runs included (docker-compose.docker-runs.yml)."""
        ids = run("docker", "compose", "ps", "--all", "--quiet").stdout.split()
        found: list[dict[str, Any]] = json.loads(run("docker", "inspect", *ids).stdout or "[]") if ids else []
        return found

    @property
    def containers(self) -> dict[str, dict[str, Any]]:
        """Service → what Docker knows of its container."""
        return {
            labels["com.docker.compose.service"]: one
            for one in self.all_containers
            if (labels := one["Config"]["Labels"]).get("com.docker.compose.oneoff") != "True"
        }

    def is_running(self, service: str) -> bool:
        return bool(self.containers.get(service, {}).get("State", {}).get("Running"))

    @cached_property
    def status(self) -> dict[str, Any] | None:
        """The webserver's answer, or None."""
        if not self.is_running("webserver"):
            return None
        return ask(STATUS)


def main() -> int:
    os.chdir(ROOT)
    stack = Stack()
    findings: list[Finding] = []
    for check in (docker, settings):
        findings += check(stack)
    if stack.settings:  # else nothing more can be asked
        for check in (secrets, ports, containers, disk, clock, exposed, webserver):
            findings += check(stack)
    if stack.status:
        for check in (locations, versions, daemons, queue, pools, backup):
            findings += check(stack)
    if stack.is_running("postgres"):
        findings += schema(stack)
    for found in findings:
        print(f"{'WRONG' if found.todo else 'ok':<7}{found.about:<14}{found.text}")
        if found.todo:
            print(f"{'':<21}→ {found.todo}")
    wrong = sum(bool(found.todo) for found in findings)
    print(f"\n{wrong or 'Nothing'} {'is' if wrong < 2 else 'are'} wrong.")
    return 1 if wrong else 0


def docker(_: Stack) -> Iterator[Finding]:
    """Whether the engine answers, and is new enough."""
    if not shutil.which("docker"):
        yield Finding("docker", "is not installed.", "Install Docker Engine and its Compose plugin.")
        return
    engine = run("docker", "version", "--format", "{{.Server.Version}}")
    compose = run("docker", "compose", "version", "--short")
    if engine.returncode or compose.returncode:
        failed = engine if engine.returncode else compose
        yield Finding("docker", last_line(failed.stderr), "Start Docker, and check that you may use it.")
        return
    versions = engine.stdout.strip(), compose.stdout.strip().removeprefix("v")
    old = numbers(versions[0]) < ENGINE or numbers(versions[1]) < COMPOSE
    wanted = f"Update to Engine {ENGINE[0]} and Compose {COMPOSE[0]}.{COMPOSE[1]} or later."
    yield Finding("docker", "Engine {}, Compose {}".format(*versions), wanted if old else "")


def settings(stack: Stack) -> Iterator[Finding]:
    """Reads the composed configuration into the stack."""
    if not Path(".env").exists():
        yield Finding("settings", ".env is missing.", "Run `make up`, which makes it from .env.example.")
        return
    done = run("docker", "compose", "config", "--format", "json")
    if done.returncode:
        yield Finding("settings", last_line(done.stderr), "Correct .env or the compose file.")
        return
    stack.settings = json.loads(done.stdout)
    names = re.findall(r"^(?!#|SOURCES__)(\w+)=CHANGEME", Path(".env").read_text(), re.MULTILINE)
    if names:
        yield Finding("settings", f"{', '.join(names)}: still the placeholder.", "Set random passwords in .env.")
    if Path(".env").stat().st_mode & 0o077:
        yield Finding("settings", "Other users of this machine can read .env.", "Run `chmod 600 .env`.")
    yield Finding("settings", f".env, project {stack.settings['name']}")


def secrets(stack: Stack) -> Iterator[Finding]:
    """Per location, the names of its secrets and whether they are set. Never a value."""
    for path in sorted(ROOT.glob("code_locations/*/env.list")):
        location = path.parent.name
        if location not in stack.services:
            yield Finding(location, "has no service.", "Add it to docker-compose.yml, as in README.")
            continue
        environment: Mapping[str, str | None] = stack.services[location].get("environment") or {}
        files = set(sources.secret_files(stack.services[location]))
        missing = list(sources.missing_secrets(location, environment, files))
        listed = [sources.VARIABLE.fullmatch(name) for name in path.read_text().splitlines()]
        names = [match[0] for match in listed if match and sources.SECRET.fullmatch(match[2])]
        found = [name for name in names if not sources.PLACEHOLDER.fullmatch(environment.get(name) or "")]
        found += sorted(f"/run/secrets/{name}" for name in files)
        for sentence in missing:
            yield Finding(location, sentence, "Set it in .env and run `make up`.")
        if found or not missing:
            yield Finding(location, f"set: {', '.join(found)}" if found else "needs no secret")


def ports(stack: Stack) -> Iterator[Finding]:
    for service, config in stack.services.items():
        for published in config.get("ports", []):
            port = int(published["published"])
            if not stack.is_running(service) and not port_is_free.port_is_free(port):
                yield Finding(
                    service,
                    f"Port {port} is taken by another program.",
                    "Stop that program, or choose another port in .env.",
                )


def containers(stack: Stack) -> Iterator[Finding]:
    well = []
    for service, config in stack.services.items():
        state = stack.containers.get(service, {}).get("State")
        if state is None:
            yield Finding(service, "has no container.", "Run `make up`.")
        elif config.get("restart") == "no":  # runs once
            if state["ExitCode"]:
                yield Finding(
                    service, f"failed with exit code {state['ExitCode']}.", SUPPORT.format(service).capitalize()
                )
        elif state["OOMKilled"]:
            yield Finding(service, "was killed for lack of memory.", "Raise its mem_limit, or run fewer runs at once.")
        elif not state["Running"]:
            todo = f"Run `make up`. If it stops again, {SUPPORT.format(service)}"
            yield Finding(service, f"is not running ({state['Status']}, exit code {state['ExitCode']}).", todo)
        elif restarts := stack.containers[service]["RestartCount"]:
            yield Finding(service, f"restarted {restarts} times.", SUPPORT.format(service).capitalize())
        elif state.get("Health", {}).get("Status", "healthy") != "healthy":
            said = last_line(up.health_check(stack.containers[service]["Id"])) or "its health check has not passed yet"
            yield Finding(
                service, f"is {state['Health']['Status']}: {said}", f"{SUPPORT.format(service).capitalize()}."
            )
        elif is_old(stack, service):
            yield Finding(service, "runs an older image than the one built last.", "Run `make up`.")
        else:
            well.append(service)
    yield Finding("containers", f"well: {', '.join(well) or 'none'}")


def is_old(stack: Stack, service: str) -> bool:
    name = stack.services[service].get("image") or f"{stack.settings['name']}-{service}"
    image = run("docker", "image", "inspect", "--format", "{{.Id}}", name).stdout.strip()
    return bool(image) and image != stack.containers[service]["Image"]


def disk(stack: Stack) -> Iterator[Finding]:
    """Free space where Docker keeps its volumes: seen from inside a container, where that folder may not be visible."""
    service = next((name for name in ("postgres", "webserver", "daemon") if stack.is_running(name)), "")
    if not service:
        return
    done = run("docker", "compose", "exec", "-T", service, "df", "-Pk", "/")
    if done.returncode:
        return
    total, _, free = (int(value) * 1024 for value in done.stdout.splitlines()[-1].split()[1:4])
    text = f"{free / 2**30:.0f} of {total / 2**30:.0f} GiB are free."
    full = free < FREE_BYTES or free < total / 20
    yield Finding("disk", text, "Free space: `docker system df`, `docker system prune`." if full else "")


def clock(stack: Stack) -> Iterator[Finding]:
    if not stack.is_running("postgres"):
        return
    done = run("docker", "compose", "exec", "-T", "postgres", "date", "+%s")
    if done.returncode:
        return
    apart = abs(int(done.stdout) - time.time())
    if apart > CLOCK_SECONDS:
        yield Finding("clock", f"Docker's clock is {apart:.0f} s off this machine's.", "Restart Docker.")


def exposed(stack: Stack) -> Iterator[Finding]:
    """Ports that other machines can reach. That is meant for the service that demands a login."""
    found = False
    for service, container in stack.containers.items():
        for inside, bindings in (container["NetworkSettings"]["Ports"] or {}).items():
            for binding in bindings or ():
                address, port = binding["HostIp"], binding["HostPort"]
                if address in ("127.0.0.1", "::1"):
                    continue
                found = True
                todo = "" if service == "caddy" else "Publish it on 127.0.0.1, or use the login (docs/operating.md)."
                yield Finding("exposed", f"{service}'s port {inside} is reachable at {address}:{port}.", todo)
    if stack.containers and not found:
        yield Finding("exposed", "nothing: all ports listen on 127.0.0.1 only")


def webserver(stack: Stack) -> Iterator[Finding]:
    if stack.is_running("webserver") and stack.status is None:
        yield Finding("webserver", "does not answer.", SUPPORT.format("webserver").capitalize())


def locations(stack: Stack) -> Iterator[Finding]:
    entries = (stack.status or {})["workspaceOrError"]["locationEntries"]
    errors = {entry["name"]: up.root_cause(entry["locationOrLoadError"]) for entry in entries}
    for name, error in errors.items():
        if error:
            yield Finding(name, f"could not be loaded: {error.splitlines()[0]}", "Correct it and run `make up`.")
    loaded = [name for name, error in errors.items() if not error]
    yield Finding("locations", f"loaded: {', '.join(loaded) or 'none'}")


def versions(stack: Stack) -> Iterator[Finding]:
    """Whether every container has the Dagster of the lock file."""
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    [locked] = [package["version"] for package in packages if package["name"] == "dagster"]
    for entry in (stack.status or {})["workspaceOrError"]["locationEntries"]:
        libraries = (entry["locationOrLoadError"] or {}).get("dagsterLibraryVersions") or []
        if other := {one["version"] for one in libraries if one["name"] == "dagster"} - {locked}:
            yield Finding(entry["name"], f"has Dagster {other.pop()}, uv.lock has {locked}.", "Run `make up`.")


def daemons(stack: Stack) -> Iterator[Finding]:
    statuses = (stack.status or {})["instance"]["daemonHealth"]["allDaemonStatuses"]
    well = True
    for status in (one for one in statuses if one["required"]):
        age = time.time() - (status["lastHeartbeatTime"] or 0)
        if age > HEARTBEAT_SECONDS or not status["healthy"]:
            well = False
            when = f"{age / 60:.0f} minutes ago" if status["lastHeartbeatTime"] else "never"
            errors = [last_line(error["message"]) for error in status["lastHeartbeatErrors"]]
            text = f"{status['daemonType']}: last heartbeat {when}. {' '.join(errors)}".strip()
            yield Finding("daemon", text, "Run `docker compose restart daemon`.")
    if well:
        yield Finding("daemon", "all parts are alive")


def queue(stack: Stack) -> Iterator[Finding]:
    status = stack.status or {}
    queued = [run["creationTime"] for run in status["queued"]["results"]]
    waiting = time.time() - min(queued, default=time.time())
    text = f"{len(queued)} runs wait, {len(status['active']['results'])} run"
    if waiting > QUEUED_SECONDS:
        todo = "See what fills the limits: runs of the UI, *Deployment > Concurrency*, `concurrency` in dagster.yaml."
        yield Finding("queue", f"{text}. The oldest waits since {waiting / 3600:.0f} hours.", todo)
    else:
        yield Finding("queue", text)


def pools(stack: Stack) -> Iterator[Finding]:
    """Slots of runs that have ended: nothing will free them but this."""
    status = stack.status or {}
    active = {run["id"] for run in status["active"]["results"]}
    for pool in status["instance"]["concurrencyLimits"]:
        stuck = {slot["runId"] for slot in pool["claimedSlots"]} - active
        if stuck:
            text = f"{pool['concurrencyKey']}: runs that have ended hold {len(stuck)} of {pool['slotCount']} slots."
            yield Finding("pool", text, "*Deployment > Concurrency* in the UI, the pool, *Free all slots*.")


def backup(stack: Stack) -> Iterator[Finding]:
    """The age of the last backup that was restored and compared."""
    found = ((stack.status or {})["backup"] or {}).get("assetMaterializations") or []
    if not found:
        yield Finding("backup", "none yet: the first one is made at 2:10")
        return
    days = (time.time() - int(found[0]["timestamp"]) / 1000) / 86400
    todo = "See why the runs of `platform/backup` fail, or turn on its schedule." if days > BACKUP_DAYS else ""
    yield Finding("backup", f"the last one that was verified is {days:.1f} days old", todo)


def schema(stack: Stack) -> Iterator[Finding]:
    """Whether Dagster's tables are those that its code expects."""
    service = next((name for name in ("daemon", "webserver") if stack.is_running(name)), "")
    done = run("docker", "compose", "exec", "-T", service, "python", "-c", SCHEMA)
    found = set(re.findall(r"current: (\w+)", done.stdout)) - set(re.findall(r"latest: (\w+)", done.stdout))
    if found:
        yield Finding("schema", "Dagster's tables are older than its code.", "Run `docker compose up migrate`.")


def ask(query: str) -> dict[str, Any] | None:
    """The data that the webserver answers a GraphQL query with, or None."""
    for _ in range(2):  # the first may meet a connection that a restart of Postgres has closed
        with suppress(subprocess.CalledProcessError):
            if found := up.graphql(query):
                return dict(found)
    return None


def run(*command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


if __name__ == "__main__":
    sys.exit(main())
