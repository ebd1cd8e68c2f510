"""Table of contents of the engineering team's location: each module exports its own `defs`."""

from runtime.load import location

with location.isolated_imports(__package__):
    from code_locations.engineering import github

defs = location.merge(github.defs)
