"""A state-backed component: the lanes are looked up when the state is refreshed, and not when the location starts."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import dlt
from dagster.components.utils.defs_state import DefsStateConfig, DefsStateConfigArgs, ResolvedDefsStateConfig

from runtime.load.component import IsolatedDltLoadCollectionComponent, IsolatedLoad
from runtime.load.warehouse import warehouse_pipeline


@dataclass
class LanesComponent(dg.StateBackedComponent, dg.Resolvable):
    """A table for each lane."""

    defs_state: ResolvedDefsStateConfig = field(default_factory=DefsStateConfigArgs.local_filesystem)

    @property
    def defs_state_config(self) -> DefsStateConfig:
        return DefsStateConfig.from_args(self.defs_state, default_key="lanes")

    def write_state_to_path(self, state_path: Path) -> None:
        state_path.write_text(json.dumps(os.environ["LANES"].split(",")))

    def build_defs_from_state(self, context: dg.ComponentLoadContext, state_path: Path | None) -> dg.Definitions:
        if state_path is None:
            return dg.Definitions()
        source, pipeline = lanes(json.loads(state_path.read_text())), warehouse_pipeline("lanes", "raw_lanes")
        loads = IsolatedDltLoadCollectionComponent([IsolatedLoad(pipeline, source)])
        job = dg.define_asset_job("lanes", selection=dg.AssetSelection.key_prefixes("raw_lanes"))
        return dg.Definitions.merge(loads.build_defs(context), dg.Definitions(jobs=[job]))


@dlt.source(name="lanes", section="lanes")
def lanes(names: list[str]) -> Iterator[Any]:
    def ports(lane: str) -> Iterator[Any]:
        """Ports of a lane."""
        yield [{"lane": lane, "number": number} for number in range(3)]

    for name in names:
        yield dlt.resource(ports, name=name, primary_key="number", write_disposition="merge")(name)
