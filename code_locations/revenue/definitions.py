"""Table of contents of the revenue team's location: each module exports its own `defs`."""

from runtime.load import location

with location.isolated_imports(__package__):
    from code_locations.revenue import hubspot, stripe

defs = location.merge(hubspot.defs, stripe.defs)
