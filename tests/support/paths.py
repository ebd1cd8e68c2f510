"""Paths of the project and of optional reference data."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Optional: the vendors' published API descriptions, and beside them a repository as GitHub really answered.
CONTRACTS = Path(os.environ.get("CONTRACTS_DIR", "/nowhere"))
RECORDED = CONTRACTS.parent / "recorded" / "tlswg-tls13-spec.json"


def published(path: str) -> str:
    """The text of a published API description. Skips the test where the descriptions are not available."""
    if not CONTRACTS.exists():
        pytest.skip("CONTRACTS_DIR does not name a folder with the published API descriptions")
    return (CONTRACTS / path).read_text(encoding="utf-8")
