"""The wiring file, as Dagster's guide to dlt has it."""

from collections.abc import Iterator

import dagster as dg
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType
from dlt_sources.verified.weather import weather_source  # type: ignore[import-untyped]

from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import warehouse_pipeline


@dlt_assets(
    dlt_source=weather_source(),
    dlt_pipeline=warehouse_pipeline("weather", "raw_weather"),
    name="weather",
    dagster_dlt_translator=SourceTranslator(source="weather"),
)
def weather_assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
    yield from dlt.run(context=context)


defs = dg.Definitions(assets=[weather_assets])
