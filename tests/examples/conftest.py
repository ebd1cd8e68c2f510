"""Examples run accelerated, as in a code location, and load into warehouses of both kinds."""

from tests.runtime.conftest import warehouse

__all__ = ["warehouse"]
