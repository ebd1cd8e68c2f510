"""A Snowflake emulator in an environment of its own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tenacity import Retrying, stop_after_delay, wait_fixed

from tests.support.paths import ROOT

# What the emulator needs conflicts with the project: a newer sqlglot than dlt takes, an older Snowflake connector.
FAKESNOW = ["fakesnow[server]==0.12.1", "duckdb==2.0.0", "sqlglot==30.22.0", "snowflake-connector-python==4.8.1"]


def install_emulator() -> list[str]:
    """The command that runs Python in the emulator's environment. Raises OSError or SubprocessError if uv cannot
    install it."""
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    packages = [argument for package in FAKESNOW for argument in ("--with", package)]
    python = [uv, "run", "--quiet", "--isolated", "--no-project", "--python", sys.executable, *packages, "python"]
    subprocess.run([*python, "-c", "import fakesnow"], check=True, capture_output=True, text=True, timeout=100)
    return python


@contextmanager
def running_emulator(python: list[str], log: Path) -> Iterator[str]:
    """Start the emulator; yields the credentials that dlt needs to load into it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [*python, str(Path(__file__).with_name("fakesnow_server.py")), str(port)]
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True) as server:
        try:
            for attempt in Retrying(stop=stop_after_delay(60), wait=wait_fixed(0.1), reraise=True):
                with attempt:
                    socket.create_connection(("127.0.0.1", port)).close()
            yield f"snowflake://loader:-@account/ANALYTICS?host=127.0.0.1&port={port}&protocol=http&warehouse=WH&role=R"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
