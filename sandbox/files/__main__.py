"""`python -m sandbox.files <folder>`: creates the demo files. A larger `--days` adds files that arrive later."""

import argparse
import sys
from pathlib import Path

from sandbox.files import DAYS, make


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.files", description="Creates files to load, one folder per table."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--days", type=int, default=DAYS, help=f"total number of days (default: {DAYS})")
    arguments = parser.parse_args()
    for path in make(arguments.folder, arguments.days):
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
