"""Depots by region."""

from collections.abc import Iterator
from typing import Any

import dlt

from runtime.load.warehouse import warehouse_pipeline

NUMBER = dlt.sources.incremental("number", initial_value=0)


@dlt.source(name="depots", section="depots")
def depots(partition_key: str | None = None) -> Any:
    @dlt.resource(name="depots", primary_key=["region", "number"], write_disposition="merge")
    def read_depots(number: Any = NUMBER) -> Iterator[Any]:
        """Depots and their gates."""
        for depot in range(50):
            yield {"region": partition_key, "number": depot, "gates": [{"letter": "a"}, {"letter": "b"}]}

    return read_depots


pipeline = warehouse_pipeline("depots", "raw_depots")
