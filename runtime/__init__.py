"""How a load runs: isolated from every other run, and honest about what it did. Knows no source and no location."""

from dagster import Definitions, in_process_executor

from runtime.resource import IsolatedDltResource
from runtime.translator import SourceTranslator
from runtime.warehouse import warehouse_pipeline

__all__ = ["IsolatedDltResource", "SourceTranslator", "defs", "warehouse_pipeline"]

# What every location shares. One process per run: a process per step costs 1.5 s each and isolates nothing here.
defs = Definitions(resources={"dlt": IsolatedDltResource()}, executor=in_process_executor)
