"""Table of contents of the engineering team's location: each module exports its own `defs`."""

from dagster import Definitions

from code_locations.engineering import github
from runtime import location

defs = Definitions.merge(location.defs, github.defs)
