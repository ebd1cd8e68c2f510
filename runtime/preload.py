"""What each run imports before its own code: most of a short run's time. Done once, in the process that runs fork from.

Libraries alone, and none that starts a thread: a fork has only the thread that forked, and every lock as it was.
"""

import gc

import dagster_dlt  # noqa: F401
from dagster._grpc import server  # noqa: F401

from runtime import checks, resource, storage, translator  # noqa: F401

# A load makes rows, and hardly a cycle: to look for them as often as Python does took a tenth of a load from an API.
gc.set_threshold(50_000)
gc.freeze()  # else the collector writes to each object, and with that copies all that the forks share
