"""The sources: one folder each, in plain dlt, usable without an orchestrator."""
