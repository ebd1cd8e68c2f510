"""What each run imports before its own code: most of a short run's time. Done once, in the process that runs fork from.

Libraries alone, and none that starts a thread: a fork has only the thread that forked, and every lock as it was.
"""

import gc

import dagster_dlt  # noqa: F401
import dagster_postgres  # noqa: F401
from dagster._grpc import server  # noqa: F401

from runtime import checks, resource, translator  # noqa: F401

gc.freeze()  # else the collector writes to each object, and with that copies all that the forks share
