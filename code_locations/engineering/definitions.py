"""Table of contents of the engineering team's location: each module exports its own `defs`."""

from dagster import Definitions

import runtime
from code_locations.engineering import github

defs = Definitions.merge(runtime.defs, github.defs)
