"""The service `metrics`: what Dagster knows of itself, for Prometheus (docs/operating.md)."""
