"""What is read: one folder per source, each plain dlt that runs with no orchestrator."""
