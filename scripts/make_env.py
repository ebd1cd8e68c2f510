"""Makes `.env` from `.env.example`, with random passwords in place of those marked CHANGEME."""

import re
import secrets
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    example = (ROOT / ".env.example").read_text()
    with (ROOT / ".env").open("x") as file:  # never overwrites
        (ROOT / ".env").chmod(0o600)
        file.write(re.sub(r"CHANGEME[\w-]*", lambda _: secrets.token_hex(16), example))
