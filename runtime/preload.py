"""What each run imports before its own code: most of a short run's time. Done once, in the process that runs fork from.

Libraries alone, and none that starts a thread: a fork has only the thread that forked, and every lock as it was.
"""

# ruff: noqa: F401

import gc
import os

os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")  # Arrow starts one when it is imported

import dagster_dlt
import dlt.sources.helpers.rest_client
import pyarrow.compute
import pyarrow.parquet
import upath.implementations.local
from dagster._grpc import server

from runtime import checks, resource, storage, translator, warehouse

# Arrow and the warehouse's driver: a fifth of a short load's time, for 53 MB in this process.
if destination := warehouse.OURS.get(warehouse.warehouse_name()):
    _ = destination().client_class

# A load makes rows, and hardly a cycle: to look for them as often as Python does took a tenth of a load from an API.
gc.set_threshold(50_000)
gc.freeze()  # else the collector writes to each object, and with that copies all that the forks share
