"""The dbt project's manifest, from which the assets are made.

The image of this location runs `python -m code_locations.analytics.prepare`, so that its start parses nothing. In a
checkout, the first import after an edit of the project does.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from dagster_dbt import DbtCliResource, DbtProject
from packaging.version import Version

DBT = str(Path(sys.executable).with_name("dbt"))  # whether or not that is on the PATH
PROJECT = Path(__file__).parent / "dbt_project"
WRITTEN_BY_DBT = ("target", "logs")
TARGETS = ("duckdb", "postgres", "snowflake")  # those of profiles.yml


def prepared_project(target: str) -> DbtProject:
    """The dbt project with the manifest of one target.

    Raises:
        ValueError: profiles.yml has no such target, or dbt cannot parse the project.
    """
    if target not in TARGETS:
        raise ValueError(f"WAREHOUSE={target!r} has no target in dbt's profiles.yml. It has {', '.join(TARGETS)}.")
    names = sorted(path.relative_to(PROJECT) for path in PROJECT.rglob("*") if path.is_file())
    content = b"".join(
        name.as_posix().encode() + b"\0" + (PROJECT / name).read_bytes()
        for name in names
        if name.parts[0] not in WRITTEN_BY_DBT
    )
    folder = PROJECT / "target" / f"{target}-{hashlib.sha256(content).hexdigest()[:12]}"
    project = DbtProject(PROJECT, target=target, target_path=folder.relative_to(PROJECT))
    if not project.manifest_path.exists():
        _parse(target, folder)
    return project


class DbtCli(DbtCliResource):
    """Knows its version. dagster-dbt runs `dbt --version` in each run, which takes 3 s of CPU and asks PyPI."""

    @cached_property
    def _cli_version(self) -> Version:
        return Version(version("dbt-core"))


def dbt_resource(project: DbtProject) -> DbtCliResource:
    """The resource `dbt`."""
    return DbtCli(project_dir=project, dbt_executable=DBT)  # type: ignore[arg-type]


def _parse(target: str, folder: Path) -> None:
    """Makes the folder in one step, because several processes may do so at the same time."""
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        folders = ["--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT)]
        command = [DBT, "parse", "--quiet", "--target", target, *folders]
        options = ["--target-path", temporary, "--log-path", temporary]
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise ValueError(f"dbt cannot parse {PROJECT.name}: {done.stdout.strip()}")
        made = Path(temporary, "made")
        made.mkdir()
        shutil.move(Path(temporary, "manifest.json"), made)
        for old in folder.parent.glob(f"{target}-*"):
            shutil.rmtree(old, ignore_errors=True)
        if not folder.exists():
            made.rename(folder)


if __name__ == "__main__":
    for target in sys.argv[1:] or TARGETS:
        prepared_project(target)
