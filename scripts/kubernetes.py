"""`make kubernetes`: writes the files in deploy/kubernetes that follow from what compose uses.

kubectl reads nothing outside of the folder that it applies, so what it needs of the repository is written into it:
`dagster.yaml` with what `launcher.yaml` replaces, `workspace.yaml`, and for each location its server (`location.yaml`
with its name and memory limit), its image and, for the sandbox, its variables. The files are committed; a test fails
if they are not what this writes.

`python -m scripts.kubernetes build [PREFIX [TAG]]`: builds all images, as `<PREFIX>host`, `<PREFIX>engineering`, …
`python -m scripts.kubernetes secrets`: prints the Secrets of a deployment whose settings are in `.env`.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from dotenv import dotenv_values

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deploy" / "kubernetes"
WRITTEN = "# Written by `make kubernetes`: edit {} instead.\n"
INSTANCE = ["DAGSTER_POSTGRES_PASSWORD"]
SANDBOX = ["DESTINATION__POSTGRES__CREDENTIALS__PASSWORD", "SHOP_PASSWORD", "SHOP_READER_PASSWORD"]
# Kubernetes writes mebibytes and gibibytes with an i.
UNITS = {"m": "Mi", "g": "Gi"}


def main() -> int:
    match sys.argv[1:]:
        case []:
            for path, text in files().items():
                path.parent.mkdir(exist_ok=True)
                path.write_text(text)
        case ["build", *names] if len(names) < 3:
            build(*names)
        case ["secrets"] if (ROOT / ".env").exists():
            print(secrets(dotenv_values(ROOT / ".env")), end="")
        case ["secrets"]:
            sys.exit(".env is missing. Copy .env.example to .env and set what your sources need.")
        case _:
            sys.exit("usage: python -m scripts.kubernetes [build [PREFIX [TAG]] | secrets]")
    return 0


def files() -> dict[Path, str]:
    """All files that this script writes, with their text."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    template = (FOLDER / "location.yaml").read_text().partition("\n")[2]
    servers = [
        template.replace("LOCATION", name).replace("MEMORY", memory(compose[name]["mem_limit"])) for name in locations()
    ]
    found = {
        FOLDER / "base" / "dagster.yaml": WRITTEN.format("dagster.yaml or launcher.yaml") + instance("launcher.yaml"),
        FOLDER / "base" / "workspace.yaml": WRITTEN.format("workspace.yaml") + (ROOT / "workspace.yaml").read_text(),
        FOLDER / "base" / "locations.yaml": WRITTEN.format("location.yaml") + "---\n".join(servers),
        FOLDER / "production" / "dagster.yaml": WRITTEN.format("dagster.yaml, launcher.yaml or bucket.yaml")
        + instance("launcher.yaml", "production/bucket.yaml"),
    }
    found |= {FOLDER / overlay / "images.yaml": images() for overlay in ("sandbox", "production")}
    example = dotenv_values(ROOT / ".env.example")
    for name, variables in {**variables_of_pods(), "sandbox": SANDBOX}.items():
        lines = [f"{variable}={example[variable]}\n" for variable in variables if variable in example]
        found[FOLDER / "sandbox" / "env" / f"{name}.env"] = "".join(lines)
    return found


def locations() -> list[str]:
    workspace = yaml.safe_load((ROOT / "workspace.yaml").read_text())
    return sorted(entry["grpc_server"]["location_name"] for entry in workspace["load_from"])


def variables_of_pods() -> dict[str, list[str]]:
    """Which variables of `.env` the Secret `instance`, and that of each location, have."""
    code = ROOT / "code_locations"
    return {"instance": INSTANCE} | {
        name: [
            line
            for path in (code / "env.list", code / name / "env.list")
            for line in path.read_text().splitlines()
            if line and not line.startswith("#")
        ]
        for name in locations()
    }


def instance(*replacing: str) -> str:
    """The repository's dagster.yaml with what other files replace or add."""
    settings: dict[str, Any] = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    for name in replacing:
        for key, value in yaml.safe_load((FOLDER / name).read_text()).items():
            extends = key in settings and "class" not in value
            settings[key] = {**settings[key], **value} if extends else value
    return yaml.safe_dump(settings, sort_keys=False)


def images() -> str:
    """Replacements: a location's runs have the image of its server, whatever an overlay makes of it."""
    fields = "spec.template.spec.containers.[name=location]"
    return WRITTEN.format("scripts/kubernetes.py") + "".join(
        f"- source: {{kind: Deployment, name: {name}, fieldPath: '{fields}.image'}}\n"
        f"  targets:\n"
        f"    - select: {{kind: Deployment, name: {name}}}\n"
        f"      fieldPaths: ['{fields}.env.[name=DAGSTER_CURRENT_IMAGE].value']\n"
        for name in locations()
    )


def build(prefix: str = "dagster-dlt-kube-", tag: str = "latest") -> None:
    """Builds the images of the webserver and the daemon, of the sandbox and of each location."""
    options = {"host": ["--target=host", "--build-arg=GROUP=kubernetes"], "sandbox": ["--target=sandbox"]}
    options |= {name: ["--target=code-location", f"--build-arg=LOCATION={name}"] for name in locations()}
    for name, how in options.items():
        subprocess.run(["docker", "build", *how, f"--tag={prefix}{name}:{tag}", ROOT], check=True)


def memory(limit: str) -> str:
    return limit[:-1] + UNITS[limit[-1]]


def secrets(settings: Mapping[str, str | None]) -> str:
    """The Secrets `instance` and `<location>-env`, for `kubectl apply -f -`. JSON, which is YAML, too."""

    def all_of() -> Iterator[str]:
        for name, variables in variables_of_pods().items():
            values = {variable: settings[variable] for variable in variables if settings.get(variable)}
            secret = {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name if name == "instance" else f"{name}-env"},
                "stringData": values,
            }
            yield json.dumps(secret, indent=2) + "\n"

    return "---\n".join(all_of())


if __name__ == "__main__":
    sys.exit(main())
