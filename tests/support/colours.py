"""A small location for tests: things of a colour, with parts, one partition per colour.

`python -m tests.support.colours COLOUR [--stock]` loads a partition in its own process, as a run does.
"""

import sys
from collections.abc import Iterator
from typing import Any

import dagster as dg
import dlt
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType

from runtime.load.resource import IsolatedDltResource
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import warehouse_pipeline

COLOURS = ["red", "green", "blue", "black", "white", "grey", "rusty", "none"]  # `rusty` fails, `none` has no rows
SHADES = [f"shade{number:02}" for number in range(24)]  # for the stress suite
THINGS = 50
PARTS = 3


@dlt.source(name="colours", section="colours")
def colours(colour: str = "none", things: int = THINGS) -> Any:
    """Things of a colour, and a count of all loads."""

    @dlt.resource(name="things", write_disposition="merge", primary_key=["colour", "id"])
    def read_things() -> Iterator[Any]:
        """Things of a colour, each with its parts."""
        for i in range(things):
            if colour == "rusty" and i == things // 2:
                raise ValueError("the paint has run out")
            yield {"colour": colour, "id": i, "parts": [{"n": n} for n in range(PARTS)]}

    @dlt.resource(name="visits", write_disposition="merge", primary_key=["colour", "visit"])
    def read_visits() -> Iterator[Any]:
        """One row per load of a colour; the source's state counts them."""
        state = dlt.current.resource_state()
        state[colour] = state.get(colour, 0) + 1
        yield {"colour": colour, "visit": state[colour]}

    return read_things, read_visits


def colours_assets(pool: str | None = None) -> dg.AssetsDefinition:
    """The assets. This reads from the environment which warehouse they load into."""

    @dlt_assets(
        dlt_source=colours(),
        dlt_pipeline=warehouse_pipeline("colours", "raw_colours"),
        name="colours",
        dagster_dlt_translator=SourceTranslator(source="colours", owners=["team:paint"]),
        partitions_def=dg.StaticPartitionsDefinition(COLOURS + SHADES),
        pool=pool,
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        things = 0 if context.partition_key == "none" else THINGS
        yield from dlt.run(context=context, dlt_source=colours(context.partition_key, things))

    return assets


def load(
    colour: str, resource: DagsterDltResource | None = None, instance: dg.DagsterInstance | None = None
) -> dg.ExecuteInProcessResult:
    """Materialize one partition."""
    resources = {"dlt": resource or IsolatedDltResource()}
    return dg.materialize([colours_assets()], partition_key=colour, resources=resources, instance=instance)


if __name__ == "__main__":
    load(sys.argv[1], DagsterDltResource() if "--stock" in sys.argv else None)
