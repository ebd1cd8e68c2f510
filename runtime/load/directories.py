"""Where runs keep their files."""

import shutil
import tempfile
from functools import cache
from multiprocessing.util import Finalize
from pathlib import Path

import dlt


def data_directory(*parts: str) -> Path:
    """A folder below dlt's data directory (`DLT_DATA_DIR`), created if missing."""
    path = Path(dlt.current.run_context().data_dir).joinpath(*parts)
    path.mkdir(parents=True, exist_ok=True)
    return path


@cache
def import_directory() -> str:
    """A working directory private to this process, for pipelines that are never run. Removed when the process ends.

    `Finalize` also runs in processes of `multiprocessing`, where `tempfile.TemporaryDirectory` is not cleaned up.
    """
    path = tempfile.mkdtemp(prefix="dlt-import-")
    Finalize(None, shutil.rmtree, args=(path, True), exitpriority=0)
    return path
