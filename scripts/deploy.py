"""`make deploy LOCATION=…`: builds one location and replaces its container, or puts the old image back.

The server in the container finishes its runs for up to a minute; Dagster starts the others again. No other container is
touched. Uses the standard library only.
"""

import os
import subprocess
import sys
import time

from scripts import doctor, sources, up

LOADS_WITHIN = 60  # seconds
ASSETS = "{ assetNodes { assetKey { path } description repository { location { name } } } }"
RELOAD = 'mutation {{ reloadRepositoryLocation(repositoryLocationName: "{}") {{ __typename }} }}'


def main() -> int:
    os.chdir(sources.ROOT)
    location = sys.argv[1] if len(sys.argv) == 2 else ""
    known = sorted(path.parent.name for path in sources.ROOT.glob("code_locations/*/env.list"))
    if location not in known:
        sys.exit(f"usage: make deploy LOCATION=<one of {', '.join(known)}>")
    stack = doctor.Stack()
    list(doctor.settings(stack))
    if not stack.is_running("webserver"):
        sys.exit("The stack does not run. Start it with `make up`.")
    name = f"{stack.settings['name']}-{location}"
    before = stack.containers[location]["Image"] if location in stack.containers else ""
    broken = modules_not_loaded(location)
    if not compose("build", location):
        sys.exit(f"{location} could not be built, see above. Nothing was changed.")
    problem = load_error(location) if replace(location) else "its container is not healthy"
    if new := [error for module, error in modules_not_loaded(location).items() if module not in broken]:
        problem = "; ".join(new)
    if not problem:
        print(f"{location} is deployed.")
        return 0
    print(f"{location} was not deployed: {problem}.")
    if not before:
        return 1
    subprocess.run(["docker", "tag", before, name], check=True)
    restored = replace(location) and not load_error(location)
    print(f"The image from before {'runs again' if restored else 'does not load either: run `make doctor`'}.")
    return 1


def compose(*arguments: str) -> bool:
    environment = {**os.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    return subprocess.run(["docker", "compose", *arguments], env=environment, stdout=sys.stderr).returncode == 0


def replace(location: str) -> bool:
    """Starts the container with the image and the settings of now. Returns whether it is healthy."""
    return compose("up", "--detach", "--no-deps", "--no-build", "--wait", location)


def load_error(location: str) -> str:
    """Why the webserver cannot load the location; empty if it has."""
    doctor.ask(RELOAD.format(location))
    deadline, error = time.monotonic() + LOADS_WITHIN, "the webserver does not answer"
    while time.monotonic() < deadline:
        if answer := doctor.ask(up.LOCATIONS):
            entries = {entry["name"]: entry for entry in answer["workspaceOrError"]["locationEntries"]}
            error = up.root_cause(entries.get(location, {}).get("locationOrLoadError"))
            if "loading" not in error and "Could not reach" not in error:
                return error
        time.sleep(1)
    return error


def modules_not_loaded(location: str) -> dict[str, str]:
    """Modules of the location that raised at import, with the first line of their error."""
    nodes = (doctor.ask(ASSETS) or {"assetNodes": []})["assetNodes"]
    return {
        node["assetKey"]["path"][0]: (node["description"] or "").strip().partition("\n")[0]
        for node in nodes
        if node["assetKey"]["path"][-1].endswith("not_loaded") and node["repository"]["location"]["name"] == location
    }


if __name__ == "__main__":
    sys.exit(main())
