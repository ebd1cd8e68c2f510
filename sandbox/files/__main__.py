"""`python -m sandbox.files <folder>`: make the demo files; more days are files that arrive later."""

import argparse
import sys
from pathlib import Path

from sandbox.files import DAYS, make


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sandbox.files", description="Files to load, one folder per table.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--days", type=int, default=DAYS, help=f"so many in all (default: {DAYS})")
    arguments = parser.parse_args()
    for path in make(arguments.folder, arguments.days):
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
