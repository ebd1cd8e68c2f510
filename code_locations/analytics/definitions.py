"""Table of contents of the analytics team's location: each module exports its own `defs`."""

from runtime.load import location

with location.isolated_imports(__package__):
    from code_locations.analytics import marts, report

defs = location.merge(marts.defs, report.defs)
