"""Table of contents of the learning team's location: each module exports its own `defs`."""

from dagster import Definitions

from code_locations.learning import thinkific
from runtime import location

defs = Definitions.merge(location.defs, thinkific.defs)
