"""What `defs.yaml` loads."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dlt

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
AT = dlt.sources.incremental("at", initial_value=BEGIN)


@dlt.source
def weather_readings() -> Any:
    @dlt.resource(write_disposition="merge", primary_key=["station", "at"])
    def readings(since: Any = AT) -> Iterator[Any]:
        for hour in range(5 * 24):
            at = BEGIN + timedelta(hours=hour)
            yield [{"station": n, "at": at, "sensors": [{"celsius": n + hour}]} for n in range(4)]

    return readings


@dlt.source
def weather_stations() -> Any:
    @dlt.resource(write_disposition="replace")
    def stations() -> Iterator[Any]:
        yield [{"station": n, "name": f"Station {n}"} for n in range(4)]

    return stations


readings_source, stations_source = weather_readings(), weather_stations()
readings_pipeline = dlt.pipeline("weather_readings", dataset_name="weather", destination="postgres")
stations_pipeline = dlt.pipeline("weather_stations", dataset_name="weather", destination="postgres")
