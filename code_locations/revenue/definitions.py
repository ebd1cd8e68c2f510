"""Table of contents of the revenue team's location: each module exports its own `defs`."""

from dagster import Definitions

from code_locations.revenue import stripe
from runtime import location

defs = Definitions.merge(location.defs, stripe.defs)
