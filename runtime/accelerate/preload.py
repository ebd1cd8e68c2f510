"""The libraries that each run imports before its own code, imported once in the process that runs are forked from.

Nothing here may start a thread: a fork has only the thread that forked, and its locks stay as they were.
"""

# ruff: noqa: F401

import gc
import multiprocessing
import os
from typing import Any

os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")  # else Arrow starts a thread at import

import dagster_dlt
import dlt.sources.helpers.rest_client
import pyarrow.compute
import pyarrow.parquet
import upath.implementations.local
from dagster._grpc import server
from dlt.common.destination import Destination

from runtime import accelerate
from runtime.instance import storage
from runtime.load import checks, providers, resource, translator, warehouse

accelerate.install()  # before a run opens its instance, for the sake of connections
multiprocessing.set_forkserver_preload(["__main__"])  # the default again: a pool that a run starts needs none of this
if warehouse.warehouse_name() in ("duckdb", "postgres"):
    with providers.without_vaults():
        destination: Any = Destination.from_reference(warehouse.warehouse_name())
    _ = destination.client_class  # imports the driver
gc.freeze()  # else the garbage collector writes to every object, which copies the memory that forks share
