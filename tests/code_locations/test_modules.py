"""`make check` imports every module of every location: a placeholder is for users, not for the project's own code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.check_modules"]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_every_module_can_be_imported() -> None:
    done = check(ROOT)

    if done.returncode:
        pytest.fail(done.stderr + done.stdout, pytrace=False)


def test_a_module_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    for folder in ("runtime", "dlt_sources", "code_locations", "scripts"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", ".dlt"))
    shutil.copy(ROOT / ".env.example", tmp_path)
    with (tmp_path / "code_locations" / "revenue" / "stripe.py").open("a") as module:
        module.write("\nfrom dlt_sources import nowhere\n")
    done = check(tmp_path)

    assert done.returncode == 1
    assert "code_locations.revenue.stripe is not loaded. ImportError: cannot import name 'nowhere'" in done.stderr
    assert "hubspot" not in done.stderr
