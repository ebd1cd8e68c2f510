"""Requests to the weather service."""

from collections.abc import Iterator

from dlt.common.typing import TDataItem
from dlt.sources.helpers import requests

from .settings import API_URL


def get_pages(path: str, api_key: str, page_size: int) -> Iterator[TDataItem]:
    """Yields page after page of a list."""
    offset = 0
    while True:
        response = requests.get(
            f"{API_URL}/{path}",
            headers={"X-Api-Key": api_key},
            params={"limit": str(page_size), "offset": str(offset)},
        )
        response.raise_for_status()
        page = response.json()
        if not page:
            return
        yield page
        offset += page_size
