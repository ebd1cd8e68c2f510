"""Parcels by the day on which they were sent."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import dlt

from runtime.load.warehouse import warehouse_pipeline


@dlt.source(name="parcels", section="parcels")
def parcels(time_window: tuple[datetime, datetime] | None = None) -> Any:
    @dlt.resource(name="parcels", primary_key="id", write_disposition="merge")
    def read_parcels() -> Iterator[Any]:
        """Parcels, one an hour, and where they have been scanned."""
        assert time_window
        start, end = time_window
        for number in range((end - start) // timedelta(hours=1)):
            sent = start + timedelta(hours=number)
            yield {"id": f"{sent:%d-%H}", "sent_at": sent, "scans": [{"place": "hub"}, {"place": "door"}]}

    return read_parcels


pipeline = warehouse_pipeline("parcels", "raw_parcels")
