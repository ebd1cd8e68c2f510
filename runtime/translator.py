"""How a dlt resource becomes a Dagster asset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dagster import AssetKey, AssetSpec
from dagster_dlt import DagsterDltTranslator
from dagster_dlt.translator import DltResourceTranslatorData
from dlt.extract.resource import DltResource


@dataclass
class SourceTranslator(DagsterDltTranslator):
    """Names the assets of one source: key `[<source>, <resource>]`, group `<source>`, nothing invented upstream.

    `source` is the folder's name in `dlt_sources`. The docstring of each resource becomes its description,
    unless `descriptions` has one under the resource's name.
    """

    source: str = ""
    owners: Sequence[str] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    descriptions: Mapping[str, str] = field(default_factory=dict)

    def get_asset_spec(self, data: DltResourceTranslatorData) -> AssetSpec:
        spec = super().get_asset_spec(data)
        metadata = dict(spec.metadata)
        metadata.pop("dagster/table_name", None)  # dagster-dlt's lacks the dataset, or names a table that never is
        if data.pipeline and isinstance(data.resource.table_name, str):
            metadata["dagster/table_name"] = f"{data.pipeline.dataset_name}.{data.resource.table_name}"
        return spec.replace_attributes(
            key=AssetKey([self.source, data.resource.name]),
            description=self._description(data.resource) or spec.description,
            deps=[],  # dagster-dlt would make up an upstream asset `<source>_<resource>` that nobody has
            group_name=self.source,
            owners=self.owners,
            tags=self.tags,
            kinds={*spec.kinds, self.source},
            metadata=metadata,
        )

    def _description(self, resource: DltResource) -> str | None:
        """dagster-dlt finds none for a resource that has an incremental: its pipe has more than one step."""
        function = resource._pipe.gen
        return self.descriptions.get(resource.name) or (function.__doc__ if callable(function) else None)
