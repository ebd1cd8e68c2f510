"""Makes `.env` from `.env.example`, with random passwords and a project name of its own."""

import re
import secrets
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    example = (ROOT / ".env.example").read_text()
    # Otherwise, two clones in folders of the same name would share containers and volumes.
    name = f"{re.sub('[^a-z0-9]+', '-', ROOT.name.lower()).strip('-') or 'dagster'}-{secrets.token_hex(2)}"
    example = re.sub("^#COMPOSE_PROJECT_NAME=.*", f"COMPOSE_PROJECT_NAME={name}", example, flags=re.MULTILINE)
    with (ROOT / ".env").open("x") as file:  # never overwrites
        (ROOT / ".env").chmod(0o600)
        file.write(re.sub(r"CHANGEME[\w-]*", lambda _: secrets.token_hex(16), example))
