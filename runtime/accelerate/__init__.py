"""What makes loads fast, and nothing else.

Without this folder and the one call of `install()`, everything works, slower. `RUNTIME__ACCELERATE=false` switches it
off: use it if you suspect that a load is wrong because of it. docs/upstream.md lists the library names that it patches.
"""

import logging
import os
from importlib.metadata import version

# The versions that the patches were tested with, those of uv.lock. A test keeps them the same.
TESTED_VERSIONS = {"dagster": "1.13.27", "dagster-dlt": "0.29.27", "dlt": "1.31.0", "duckdb": "2.0.1"}

logger = logging.getLogger(__name__)


def install() -> bool:
    """Makes the loads and runs of this process fast. Returns whether it did; a second call changes nothing more."""
    if os.environ.get("RUNTIME__ACCELERATE", "").strip().lower() in ("false", "0", "no", "off"):
        return False
    others = [f"{name} {version(name)}" for name, tested in TESTED_VERSIONS.items() if version(name) != tested]
    if others:
        tested = ", ".join(f"{name} {number}" for name, number in TESTED_VERSIONS.items())
        logger.warning("Loads are not accelerated: found %s, tested with %s.", ", ".join(others), tested)
        return False
    from runtime.accelerate import connections, forks, normalizer, parquet

    for part in (connections, forks, normalizer, parquet):
        part.install()
    return True
