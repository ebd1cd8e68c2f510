"""The assets that dlt resources become."""

from collections.abc import Callable
from typing import Any

import dagster as dg
import dlt
import pytest
from dagster_dlt.translator import DltResourceTranslatorData
from dagster_shared.utils.warnings import SupersessionWarning
from dlt.extract.resource import DltResource

from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import warehouse_pipeline

Read = Callable[[dg.AssetSpec], Any]


def translate(translator: SourceTranslator, name: str = "orders") -> dg.AssetSpec:
    resource = dlt.resource([{"id": 1}], name=name)
    return translator.get_asset_spec(
        DltResourceTranslatorData(resource=resource, pipeline=warehouse_pipeline("shop", "raw_shop"))
    )


def test_the_defaults() -> None:
    spec = translate(SourceTranslator(source="shop", owners=["team:shop"], tags={"domain": "sales"}))

    assert (spec.key, spec.group_name, list(spec.deps)) == (dg.AssetKey(["shop", "orders"]), "shop", [])
    assert (list(spec.owners), spec.tags["domain"], spec.kinds) == (["team:shop"], "sales", {"dlt", "duckdb", "shop"})


@pytest.mark.parametrize(("name", "table"), [("orders", "orders"), ("Orders", "orders"), ("line-items", "line_items")])
def test_the_catalogue_has_the_tables_name_in_the_warehouse(name: str, table: str) -> None:
    spec = translate(SourceTranslator(source="shop"), name)

    assert spec.metadata["dagster/table_name"] == f"raw_shop.{table}"


@pytest.mark.parametrize(
    ("method", "value", "read"),
    [
        ("get_asset_key", dg.AssetKey(["mine"]), lambda spec: spec.key),
        ("get_group_name", "mine", lambda spec: spec.group_name),
        ("get_deps_asset_keys", [dg.AssetKey(["mine"])], lambda spec: [dep.asset_key for dep in spec.deps]),
        ("get_description", "mine", lambda spec: spec.description),
        ("get_owners", ["team:mine"], lambda spec: list(spec.owners)),
        ("get_tags", {"mine": "yes"}, lambda spec: {key: spec.tags[key] for key in spec.tags if "kind" not in key}),
        ("get_kinds", {"mine"}, lambda spec: spec.kinds),
        ("get_metadata", {"mine": 1}, lambda spec: {"mine": spec.metadata["mine"]}),
        ("get_automation_condition", dg.AutomationCondition.eager(), lambda spec: spec.automation_condition),
    ],
)
def test_overrides_of_older_guides_take_effect(method: str, value: Any, read: Read) -> None:
    def override(self: SourceTranslator, resource: DltResource, *_: Any) -> Any:
        return value

    translator = type("Mine", (SourceTranslator,), {method: override})(source="shop")
    with pytest.warns(SupersessionWarning, match=method):
        spec = translate(translator)

    assert read(spec) == value
    if method != "get_asset_key":
        assert spec.key == dg.AssetKey(["shop", "orders"])


def test_an_override_that_dagster_dlt_no_longer_calls_is_refused() -> None:
    with pytest.raises(TypeError, match="Mine: override get_automation_condition, not get_auto_materialize_policy"):
        type("Mine", (SourceTranslator,), {"get_auto_materialize_policy": lambda self, resource: None})
