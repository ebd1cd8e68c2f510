"""`make check`: every module of every location can be imported with the settings of .env.example."""

import os
import sys
from pathlib import Path

from dotenv import dotenv_values

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    os.environ |= {name: value or "" for name, value in dotenv_values(ROOT / ".env.example").items()}
    from code_locations.definitions import defs
    from runtime.load.location import is_placeholder

    broken = [spec.key for spec in defs.resolve_all_asset_specs() if is_placeholder(spec.key)]
    if broken:  # each has logged what to do
        print("Settings that a module needs at import must have a value in .env.example.")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
