"""`make preview NAME=…` starts this checkout beside the main stack; `make preview-down NAME=…` deletes all of it.

A preview has the settings of .env.example: it reads the sandbox, and nothing of `.env` or the shell. It remembers its
passwords and its port in its containers, so that it can be updated from a fresh checkout.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from scripts import port_is_free, sources, up

ROOT = sources.ROOT
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?")
LABEL = "com.docker.compose.project"
VARIABLE = re.compile(r"^#?([A-Z][A-Z0-9_]*)(?:=|$)", re.MULTILINE)  # in .env.example and env.list
PREFIXES = ("SOURCES__", "DESTINATION__", "PROVIDERS__", "COMPOSE_")


def main() -> int:
    os.chdir(ROOT)
    action, name = sys.argv[1:] if len(sys.argv) == 3 else ("", "")
    if action not in ("up", "down") or not NAME.fullmatch(name):
        sys.exit(
            f"NAME={name} is no name of a preview: up to 30 lower-case letters, digits and dashes, such as "
            "`make preview NAME=pr-12`."
        )
    if not shutil.which("docker"):
        sys.exit("make preview needs Docker with Compose.")
    folder = re.sub("[^a-z0-9]+", "-", ROOT.name.lower()).strip("-") or "dagster"
    project = f"{folder}-preview-{name}"
    demand_own(project)
    return start(project, name) if action == "up" else delete(project, name)


def demand_own(project: str) -> None:
    """Ends the process if another folder has a preview of this name."""
    for container in ids(project, "container"):
        label = f'{{{{index .Config.Labels "{LABEL}.working_dir"}}}}'
        folder = Path(docker("inspect", "--format", label, container).strip())
        if folder.exists() and folder.resolve() != ROOT:
            sys.exit(f"{folder} has a preview of this name. Choose another NAME, or delete that one there.")


def start(project: str, name: str) -> int:
    """Builds, starts and waits. Prints what does not start or load, and the address."""
    known = settings_in_containers(project)
    port = known.get("WEBSERVER_PORT") or str(port_is_free.any_port())
    with tempfile.NamedTemporaryFile("w", prefix="preview-", suffix=".env") as file:  # readable by this user alone
        file.write(env(known | {"WEBSERVER_PORT": port}))
        file.flush()
        for variable in shell_settings():
            del os.environ[variable]
        os.environ |= {
            "COMPOSE_PROJECT_NAME": project,
            "COMPOSE_FILE": "docker-compose.yml",  # no docker-compose.override.yml: it may have secrets
            "COMPOSE_ENV_FILES": file.name,
        }
        problems = [] if up.start() else [*up.unhealthy_services()] or ["docker compose up failed, see above."]
        if up.answers():
            problems += up.load_errors()
        for line in problems:
            print(line)
        print(f"{name} is at http://127.0.0.1:{port}" if up.answers() else f"{name} does not run.")
    return 1 if problems else 0


def settings_in_containers(project: str) -> dict[str, str]:
    """The passwords and the port of a preview that was started before."""
    containers = ids(project, "container")
    known: dict[str, str] = {}
    for container in json.loads(docker("inspect", *containers)) if containers else []:
        known |= dict(line.split("=", 1) for line in container["Config"]["Env"])
        for binding in (container["HostConfig"]["PortBindings"] or {}).get("3000/tcp") or ():
            known["WEBSERVER_PORT"] = binding["HostPort"]
    return known


def env(known: Mapping[str, str]) -> str:
    """The text of .env.example with the known passwords, or new ones, and the port."""
    example = (ROOT / ".env.example").read_text()
    example = re.sub(
        r"^(\w+)=CHANGEME.*$",
        lambda match: f"{match[1]}={known.get(match[1]) or secrets.token_hex(16)}",
        example,
        flags=re.MULTILINE,
    )
    return re.sub(r"^WEBSERVER_PORT=.*$", f"WEBSERVER_PORT={known['WEBSERVER_PORT']}", example, flags=re.MULTILINE)


def shell_settings() -> list[str]:
    """The variables of this shell that compose would prefer to those of the file."""
    files = [ROOT / ".env.example", *ROOT.glob("code_locations/**/env.list")]
    names = {name for file in files for name in VARIABLE.findall(file.read_text())}
    return [name for name in os.environ if name in names or name.startswith(PREFIXES)]


def delete(project: str, name: str) -> int:
    """Deletes whatever has the label of the project, whichever version made it."""
    found = {kind: ids(project, kind) for kind in ("container", "network", "volume", "image")}
    if not any(found.values()):
        print(f"There is no preview {name}.")
        return 0
    for kind, those in found.items():
        if those:
            docker(kind, "rm", *(() if kind == "network" else ("--force",)), *those)
    print(f"{name} is deleted, with its volumes and images.")
    return 0


def ids(project: str, kind: str) -> list[str]:
    every = ("--all",) if kind in ("container", "image") else ()
    return list(dict.fromkeys(docker(kind, "ls", *every, "--quiet", "--filter", f"label={LABEL}={project}").split()))


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
