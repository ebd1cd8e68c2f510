"""Table of contents of the operations team's location: each module exports its own `defs`."""

from dagster import Definitions

from code_locations.operations import filesystem, sql_database
from runtime import location

defs = Definitions.merge(location.defs, filesystem.defs, sql_database.defs)
