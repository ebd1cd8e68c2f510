"""What counts as a setting that nobody has made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.load.placeholders import is_placeholder
from tests.support.paths import ROOT

READ = """
import dlt
from runtime.load.placeholders import drop_placeholders
drop_placeholders()
for name in ("token", "url", "nested.token", "kept"):
    print(name, dlt.secrets.get(f"sources.shop.{name}"))
"""
SECRETS = """
[sources.shop]
token = "<configure me>"
url = ""
kept = "of secrets.toml"
[sources.shop.nested]
token = "CHANGEME"
"""


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("SOURCES__SHOP__TOKEN", "", True),
        ("SOURCES__SHOP__TOKEN", " ", True),
        ("SOURCES__SHOP__TOKEN", "<configure me>", True),
        ("SOURCES__SHOP__TOKEN", "CHANGEME-shop", True),
        ("SHOP__SOURCES__SHOP__TOKEN", "", True),  # for one pipeline
        ("ACCESS_TOKEN", "<configure me>", True),
        ("SOURCES__SHOP__CREDENTIALS", "postgresql://reader:CHANGEME-shop@shop/shop", False),  # as in .env.example
        ("DESTINATION__POSTGRES__CREDENTIALS__PASSWORD", "", True),
        ("DESTINATION__POSTGRES__CREDENTIALS__PASSWORD", "CHANGEME-warehouse", False),  # as in .env.example
        ("SOURCES__SHOP__TOKEN", "t", False),
        ("NO_COLOR", "", False),
    ],
)
def test_placeholders(variable: str, value: str, expected: bool) -> None:
    assert is_placeholder(value, variable) == expected


@pytest.mark.parametrize("value", ["", "<configure me>", "CHANGEME"])
def test_dlt_finds_no_placeholder_in_a_variable_or_in_a_file(tmp_path: Path, value: str) -> None:
    (tmp_path / ".dlt").mkdir()
    (tmp_path / ".dlt" / "secrets.toml").write_text(SECRETS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)} | {
        f"SOURCES__SHOP__{name}": value for name in ("TOKEN", "URL", "NESTED__TOKEN", "KEPT")
    }
    command = [sys.executable, "-c", READ]
    read = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)

    assert read.stdout.splitlines() == ["token None", "url None", "nested.token None", "kept of secrets.toml"]
