"""The example that comes with the source. The project does not use it."""

import dlt
from weather import weather_source  # type: ignore[import-not-found]


def load_weather() -> None:
    """Loads everything."""
    pipeline = dlt.pipeline(pipeline_name="weather", destination="duckdb", dataset_name="weather_data")
    pipeline.run(weather_source())


if __name__ == "__main__":
    load_weather()
