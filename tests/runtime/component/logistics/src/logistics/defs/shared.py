"""What all code locations share: the resource `dlt`, and steps in the run's own process."""

from runtime.load.location import defs

__all__ = ["defs"]
