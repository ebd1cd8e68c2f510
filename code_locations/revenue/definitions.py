"""Table of contents of the revenue team's location: each module exports its own `defs`."""

from dagster import Definitions

from code_locations.revenue import hubspot, stripe
from runtime import location

defs = Definitions.merge(location.defs, hubspot.defs, stripe.defs)
