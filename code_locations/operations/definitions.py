"""Table of contents of the operations team's location: each module exports its own `defs`."""

from runtime.load import location

with location.isolated_imports(__package__):
    from code_locations.operations import filesystem, sql_database

defs = location.merge(filesystem.defs, sql_database.defs)
