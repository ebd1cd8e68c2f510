"""Where backups are: a folder `<time>` each below BACKUP_URL, with a file per database and `backup.json`, the last one.

`python -m code_locations.platform.backup_store list` names those that count; `cat <name> <file>` writes a file of one.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec

NAME = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ")
MANIFEST = "backup.json"


class BackupFailed(Exception):
    """A sentence that says what failed."""


class Store:
    """The folder or bucket of BACKUP_URL."""

    def __init__(self, url: str) -> None:
        self.files, self.root = fsspec.core.url_to_fs(url)  # for a bucket with the settings FSSPEC_S3_…

    def names(self, complete: bool = True) -> list[str]:
        """The backups from the oldest on."""
        self.files.invalidate_cache()
        found = self.files.ls(self.root, detail=False) if self.files.exists(self.root) else []
        names = sorted(name for path in found if NAME.fullmatch(name := path.rstrip("/").rpartition("/")[2]))
        return [name for name in names if not complete or self.files.exists(f"{self.root}/{name}/{MANIFEST}")]

    def put(self, name: str, folder: Path, manifest: Mapping[str, Any]) -> None:
        """Stores a backup. It counts from the moment on at which its manifest is there."""
        self.files.makedirs(f"{self.root}/{name}", exist_ok=True)
        for file in sorted(folder.iterdir()):
            self.files.put_file(str(file), f"{self.root}/{name}/{file.name}")
            if (stored := self.files.info(f"{self.root}/{name}/{file.name}")["size"]) != file.stat().st_size:
                raise BackupFailed(f"{file.name} has {file.stat().st_size:,} bytes, and {stored:,} in BACKUP_URL.")
        self.files.pipe_file(f"{self.root}/{name}/{MANIFEST}", json.dumps(manifest, indent=1).encode())

    def delete_old(self, keep: int) -> list[str]:
        """Deletes all but the newest, and what interrupted backups left before the newest. Returns the names."""
        complete = self.names()
        old = set(complete[:-keep])
        left = {name for name in self.names(complete=False) if complete and name < complete[-1]} - set(complete)
        for name in sorted(old | left):
            self.files.rm(f"{self.root}/{name}", recursive=True)
        return sorted(old | left)

    def cat(self, name: str, file: str, out: Any) -> None:
        with self.files.open(f"{self.root}/{name}/{file}", "rb") as stored:
            shutil.copyfileobj(stored, out)


def store() -> Store:
    """The place of the backups.

    Raises:
        BackupFailed: BACKUP_URL is not set.
    """
    if url := os.environ.get("BACKUP_URL", "").strip():
        return Store(url)
    raise BackupFailed("BACKUP_URL is not set: nothing is backed up. Set it in .env to a folder or s3://bucket/folder.")


def main() -> None:
    match sys.argv[1:]:
        case ["list"]:
            sys.stdout.write("".join(f"{name}\n" for name in store().names()))
        case ["cat", name, file] if NAME.fullmatch(name):
            store().cat(name, file, sys.stdout.buffer)
        case _:
            sys.exit("usage: python -m code_locations.platform.backups list | cat NAME FILE")


if __name__ == "__main__":
    main()
