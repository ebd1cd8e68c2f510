"""Where runs keep their files, and how processes share those of pipelines."""

import fcntl
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, wraps
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

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


@contextmanager
def _turn() -> Iterator[None]:
    """Waits while another process makes a pipeline, but not longer than half a minute."""
    try:
        file = (data_directory("locks") / "pipelines.lock").open("a")
    except OSError:  # nothing can be written: loads will say so, and the location is shown
        yield
        return
    with file:
        deadline = time.monotonic() + 30  # the other process may have stopped
        while time.monotonic() < deadline:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.02)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough if a child process has inherited the file


_make = dlt.Pipeline.__init__


@wraps(_make)
def _make_in_turn(*args: Any, **kwargs: Any) -> None:
    """`dlt.pipeline()` makes and removes files in a folder that all processes share.

    Of runs that import the same module together in a new container, some would fail there, with any resource.
    """
    with _turn():
        _make(*args, **kwargs)


dlt.Pipeline.__init__ = _make_in_turn  # type: ignore[method-assign]
