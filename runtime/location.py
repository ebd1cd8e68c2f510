"""What every code location shares: the resource `dlt`, and one process per run."""

from dagster import Definitions, in_process_executor

from runtime.resource import IsolatedDltResource

# A process per step would cost 1.5 s each, and a run's steps share their fate anyhow. Pools hold in process too.
defs = Definitions(resources={"dlt": IsolatedDltResource()}, executor=in_process_executor)
