"""A scaffolded component: a `defs.yaml` with two loads, of which one has a partition for each day."""

from pathlib import Path
from typing import Any

import dagster as dg
from dagster.components.testing.utils import create_defs_folder_sandbox
from dagster_dlt import DagsterDltResource, DltLoadCollectionComponent

from runtime.load.component import IsolatedDltLoadCollectionComponent

FOLDER = Path(__file__).parent
DAYS = ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04", "2026-01-05"]
RUNS = [{"asset_selection": [dg.AssetKey(["weather", "readings"])], "partition_key": day} for day in DAYS]
RUNS.append({"asset_selection": [dg.AssetKey(["weather", "stations"])]})
DATASET = "weather"


def definitions(resource: DagsterDltResource, **folder: Any) -> dg.Definitions:
    """Of the project as `dg scaffold defs` lays it out. It has no resource: the component has its own."""
    component: Any = IsolatedDltLoadCollectionComponent if folder else DltLoadCollectionComponent
    changes = {
        "dagster_dlt.DltLoadCollectionComponent": f"{component.__module__}.{component.__name__}",
        'destination="postgres"': f'destination="postgres", **{folder}',
    }
    with create_defs_folder_sandbox() as project:
        scaffolded = project.scaffold_component(component)
        for file in ("defs.yaml", "loads.py"):
            text = (FOLDER / file).read_text()
            for before, after in changes.items():
                text = text.replace(before, after)
            (scaffolded / file).write_text(text)
        with project.load_component_and_build_defs(scaffolded) as (_, defs):
            return defs
