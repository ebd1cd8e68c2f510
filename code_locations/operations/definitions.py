"""Table of contents of the operations team's location: each module exports its own `defs`."""

from dagster import Definitions

from code_locations.operations import sql_database
from runtime import location

defs = Definitions.merge(location.defs, sql_database.defs)
