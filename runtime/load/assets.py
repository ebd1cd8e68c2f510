"""What `@dlt_assets` keeps in its assets: the dlt source, the pipeline and the translator."""

from collections.abc import Mapping
from typing import Any

import dlt
from dagster import AssetKey, AssetsDefinition, AssetSpec, Definitions
from dagster_dlt import DagsterDltTranslator
from dagster_dlt.constants import META_KEY_PIPELINE, META_KEY_SOURCE, META_KEY_TRANSLATOR
from dagster_dlt.translator import DltResourceTranslatorData
from dlt.extract.source import DltSource


def dlt_objects(assets: AssetsDefinition) -> Mapping[str, Any]:
    """The objects by dagster-dlt's metadata keys. Empty if the assets are not made by `@dlt_assets`.

    They come from the outputs of the op, because `with_readable_metadata` replaces them in the asset specs.
    """
    outputs = assets.node_def.output_defs if assets.is_executable else ()
    return next((output.metadata for output in outputs if META_KEY_SOURCE in output.metadata), {})


def pipeline_of(assets: AssetsDefinition) -> dlt.Pipeline:
    """The pipeline of a `@dlt_assets`."""
    pipeline: dlt.Pipeline = dlt_objects(assets)[META_KEY_PIPELINE]
    return pipeline


def source_of(assets: AssetsDefinition) -> DltSource:
    """The source of a `@dlt_assets`."""
    source: DltSource = dlt_objects(assets)[META_KEY_SOURCE]
    return source


def resource_names(assets: AssetsDefinition) -> Mapping[AssetKey, str]:
    """The name of the dlt resource behind each asset of a `@dlt_assets`.

    Raises:
        ValueError: an asset's key is not the one that the translator gives to any resource.
    """
    translator: DagsterDltTranslator = dlt_objects(assets)[META_KEY_TRANSLATOR]
    names = {
        translator.get_asset_spec(DltResourceTranslatorData(resource=resource, pipeline=pipeline_of(assets))).key: name
        for name, resource in source_of(assets).selected_resources.items()
    }
    if unknown := [key.to_user_string() for key in assets.keys if key not in names]:
        raise ValueError(
            f"The translator of {assets.op.name} gives no dlt resource the key {', '.join(unknown)}. "
            "Set keys in the translator's get_asset_spec."
        )
    return names


def with_readable_metadata(defs: Definitions) -> Definitions:
    """Replaces the dlt objects in the asset specs by their names.

    Dagster cannot store objects: the catalogue would show "[DltSource] (unserializable)" for each of them.
    """
    return defs.permissive_map_resolved_asset_specs(func=_with_names, selection=None)


def _with_names(spec: AssetSpec) -> AssetSpec:
    keys = {META_KEY_SOURCE, META_KEY_PIPELINE, META_KEY_TRANSLATOR} & spec.metadata.keys()
    return spec.merge_attributes(metadata={key: _name(spec.metadata[key]) for key in sorted(keys)})


def _name(value: Any) -> Any:
    match value:
        case DltSource():
            return value.name
        case dlt.Pipeline():
            return value.pipeline_name
        case DagsterDltTranslator():
            return type(value).__name__
        case _:  # it has been replaced already
            return value
