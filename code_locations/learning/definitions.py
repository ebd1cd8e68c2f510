"""Table of contents of the learning team's location: each module exports its own `defs`."""

from runtime.load import location

with location.isolated_imports(__package__):
    from code_locations.learning import thinkific

defs = location.merge(thinkific.defs)
