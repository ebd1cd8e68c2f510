"""Loads stations and their readings from a weather service."""

from collections.abc import Iterator, Sequence

import dlt
from dlt.common.typing import TDataItem
from dlt.extract import DltResource

from .helpers import get_pages
from .settings import PAGE_SIZE


@dlt.source
def weather_source(api_key: str = dlt.secrets.value, page_size: int = PAGE_SIZE) -> Sequence[DltResource]:
    """Stations and readings, all of them in each load.

    Args:
        api_key (str): The key of the account. Taken from `secrets.toml` or the environment if not given.
        page_size (int): Items per request.
    """

    @dlt.resource(write_disposition="replace")
    def stations() -> Iterator[TDataItem]:
        """Where it is measured."""
        yield from get_pages("stations", api_key, page_size)

    @dlt.transformer(data_from=stations, write_disposition="merge", primary_key=("station_id", "hour"))
    def readings(page: TDataItem) -> Iterator[TDataItem]:
        """What was measured."""
        for station in page:
            yield from get_pages(f"stations/{station['id']}/readings", api_key, page_size)

    return stations, readings
