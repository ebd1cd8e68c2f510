"""The locations that run outside containers."""

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent


def in_workspace() -> list[str]:
    """All but projects of `create-dagster`, which `dg dev` runs in their folders."""
    workspace = yaml.safe_load((ROOT / "workspace.yaml").read_text())
    names = [entry["grpc_server"]["location_name"] for entry in workspace["load_from"]]
    return [name for name in names if (ROOT / "code_locations" / name / "definitions.py").exists()]


def of_demo() -> list[str]:
    """All but `platform`, which has figures of Dagster's own runs: they are new each time."""
    return [name for name in reversed(in_workspace()) if name != "platform"]


def module(location: str) -> str:
    return f"code_locations.{location}.definitions"
