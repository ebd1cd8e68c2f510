"""`make proof` shows that dagster-dlt's resource loses rows and that this repository's does not."""

import re
import subprocess
import sys

import pytest

from scripts import proof
from tests.support.paths import ROOT


def lost(output: str) -> dict[str, int]:
    """Resource → lost rows, from the printed table."""
    lines = [re.split(r"\s{2,}", line) for line in output.splitlines()]
    return {line[0]: int(line[-2].replace(",", "")) for line in lines if len(line) == 6 and line[0] != "resource"}


@pytest.mark.timeout(600)
def test_only_the_stock_resource_loses_rows() -> None:
    command = [sys.executable, "-W", "ignore:XDG_RUNTIME_DIR", "-m", "scripts.proof"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert process.returncode == 0, process.stdout + process.stderr
    rows = lost(process.stdout)
    assert list(rows) == [proof.STOCK.title, proof.STOCK_DIRECTORY_PER_RUN.title, proof.OURS.title]
    assert rows[proof.STOCK.title] > 0
    assert rows[proof.OURS.title] == 0


@pytest.mark.timeout(300)
def test_a_lost_row_fails_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "ROUNDS", 1)

    assert proof.main([proof.STOCK]) == 1
