"""What the settings say of each source: whether it reads the sandbox, and whether its secret is still missing.

Uses the standard library only, because `make up` needs no virtual environment.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from scripts import location_code

ROOT = location_code.ROOT
Settings = Mapping[str, str | None]

# How .env.example addresses what the sandbox provides: its server, the database `shop` and the volume with files.
STAND_INS = ("http://sandbox:8000", "@shop:5432/", "/files")
VARIABLE = re.compile(r"SOURCES__([A-Z0-9_]+?)__([A-Z0-9_]+)")
SECRET = re.compile(r"(?!.*__)(.*_)?(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS)")  # nested ones (a__b) may be optional
VAULT = re.compile(r"PROVIDERS__ENABLE_(AWS|GOOGLE)_SECRETS")
MOUNTED = "/run/secrets"  # where dlt looks for SOURCES__GITHUB__ACCESS_TOKEN in sources--github--access-token
PLACEHOLDER = re.compile(r"\s*|CHANGEME.*|<configure me>")


def modules(location: str) -> list[Path]:
    """The modules of a location that export definitions."""
    files = sorted((ROOT / "code_locations" / location).glob("*.py"))
    return [
        path for path in files if path.stem != "definitions" and re.search(r"^defs\b", path.read_text(), re.MULTILINE)
    ]


def needs_network(module: Path, settings: Settings, root: Path = ROOT) -> bool:
    """Whether a module of a location loads a source, and no setting of that source points to the sandbox."""
    imported = set(location_code.imports(module, root))
    parts = filter(None, (location_code.source(name, root) for name in imported))
    names = {part.name for part in parts if part.is_dir()}
    if not names and "dagster_dlt.dlt_assets" not in imported:
        return False
    return not any(reads_sandbox(name, settings) for name in {*names, module.stem})


def reads_sandbox(source: str, settings: Settings) -> bool:
    """Whether a variable of the source points to the sandbox."""
    values = (value or "" for name, value in settings.items() if name.startswith(f"SOURCES__{source.upper()}__"))
    return any(value.startswith(STAND_INS) or STAND_INS[1] in value for value in values)


def secret_files(service: Mapping[str, Any]) -> Iterator[str]:
    """The names of the files in /run/secrets of a service, as compose has resolved it."""
    for secret in service.get("secrets") or ():
        yield PurePosixPath(secret.get("target") or secret["source"]).name
    for volume in service.get("volumes") or ():
        if volume["type"] == "bind" and volume["target"] == MOUNTED and os.path.isdir(volume["source"]):
            yield from os.listdir(volume["source"])


def missing_secrets(location: str, settings: Settings, files: Collection[str] = (), root: Path = ROOT) -> Iterator[str]:
    """A sentence for each source of a location whose secret is not set, is empty or is still a placeholder.

    A secret that is among the `files` is set, and one that a secrets manager may have does not count as missing.
    """
    listed = (root / "code_locations" / location / "env.list").read_text().splitlines()
    found = [match for line in listed if (match := VARIABLE.fullmatch(line))]
    has_vault = any(VAULT.fullmatch(name) and value and value.lower() == "true" for name, value in settings.items())
    for source in dict.fromkeys(match[1] for match in found):
        secrets = [match[0] for match in found if match[1] == source and SECRET.fullmatch(match[2])]
        if any(name.lower().replace("_", "-") in files for name in secrets):
            continue
        values = {name: (settings.get(name) or "").strip() for name in secrets}
        set_ones = {name: value for name, value in values.items() if not PLACEHOLDER.fullmatch(value)}
        if secrets and not set_ones and not has_vault:
            placeholder = next((name for name, value in values.items() if value), None)
            if placeholder:
                yield f"{source.lower()}: {placeholder} is still the placeholder."
            else:
                yield f"{source.lower()}: {' or '.join(secrets)} is not set."
        elif not reads_sandbox(source, settings):
            yield from (
                f"{source.lower()}: {name} is still the sandbox's."
                for name, value in set_ones.items()
                if value.startswith("sandbox-")
            )
