"""How a dlt resource becomes a Dagster asset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from dagster import AssetKey, AssetSpec, FreshnessPolicy
from dagster_dlt import DagsterDltTranslator
from dagster_dlt.translator import DltResourceTranslatorData
from dlt.common.schema import Schema
from dlt.extract.resource import DltResource

from runtime.load.metadata import declared_columns

TABLE_NAME = "dagster/table_name"


@dataclass
class SourceTranslator(DagsterDltTranslator):
    """Names the assets of one source: key `[<source>, <resource>]`, group `group` or `<source>`, no upstream assets.

    `source` is the folder's name in `dlt_sources`. The docstring of each resource becomes its description,
    unless `descriptions` has one under the resource's name. To change more, override `get_asset_spec`. The methods of
    older Dagster guides, such as `get_asset_key` and `get_deps_asset_keys`, work too.
    """

    source: str = ""
    owners: Sequence[str] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    descriptions: Mapping[str, str] = field(default_factory=dict)
    group: str = ""
    fresh_within: timedelta | None = None  # after this time without a load, the catalogue says that the data is old

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "get_auto_materialize_policy" in vars(cls):  # dagster-dlt does not call it any more
            raise TypeError(f"{cls.__name__}: override get_automation_condition, not get_auto_materialize_policy.")

    def get_asset_spec(self, data: DltResourceTranslatorData) -> AssetSpec:
        spec = super().get_asset_spec(data)
        ours: Mapping[str, Mapping[str, Any]] = {
            "get_asset_key": {"key": AssetKey([self.source, data.resource.name])},
            "get_description": {"description": self._description(data.resource) or spec.description},
            "get_deps_asset_keys": {"deps": []},  # dagster-dlt would add `<source>_<resource>`, which does not exist
            "get_group_name": {"group_name": self.group or self.source},
            "get_owners": {"owners": self.owners},
            "get_tags": {"tags": self.tags},
            "get_kinds": {"kinds": {*spec.kinds, self.source}},
            "get_metadata": {"metadata": self._metadata(spec.metadata, data)},
        }
        for method, attributes in ours.items():
            # A subclass that overrides a method of older guides wins: super() has called it.
            if getattr(type(self), method) is getattr(DagsterDltTranslator, method):
                spec = spec.replace_attributes(**attributes)
        if self.fresh_within:
            spec = spec.replace_attributes(freshness_policy=FreshnessPolicy.time_window(self.fresh_within))
        return spec

    def _description(self, resource: DltResource) -> str | None:
        """dagster-dlt finds no docstring if the resource has an incremental, as its pipe then has several steps."""
        function = resource._pipe.gen
        return self.descriptions.get(resource.name) or (function.__doc__ if callable(function) else None)

    def _metadata(self, metadata: Mapping[str, Any], data: DltResourceTranslatorData) -> Mapping[str, Any]:
        """With the declared columns and the full name of the table, which dagster-dlt gives without its dataset."""
        others = {key: value for key, value in metadata.items() if key != TABLE_NAME}
        if columns := declared_columns(data.resource):
            others["dagster/column_schema"] = columns
        name = data.resource.table_name
        if not data.pipeline or not isinstance(name, str):
            return others
        naming = Schema("any").naming  # the configured one
        return others | {TABLE_NAME: f"{data.pipeline.dataset_name}.{naming.normalize_tables_path(name)}"}
