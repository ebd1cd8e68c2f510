"""Table of contents of the platform location: each module exports its own `defs`."""

from runtime.load import location

with location.isolated_imports(__package__):
    from code_locations.platform import alerts, backups, figures, heartbeat, pruning

defs = location.merge(alerts.defs, backups.defs, figures.defs, heartbeat.defs, pruning.defs)
