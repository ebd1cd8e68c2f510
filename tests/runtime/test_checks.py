"""The check of primary keys: which tables it looks at, and what it says when it has nothing to look at."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import dagster as dg
import dlt
import pytest
from dagster_dlt import DagsterDltResource, DagsterDltTranslator, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType
from dagster_dlt.translator import DltResourceTranslatorData

from runtime.load.checks import primary_key_checks, row_count_check
from runtime.load.resource import IsolatedDltResource
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import warehouse_pipeline
from tests.support.warehouse import Warehouse


class Capitals(DagsterDltTranslator):
    """Keys that are neither dagster-dlt's nor the project's."""

    def get_asset_spec(self, data: DltResourceTranslatorData) -> dg.AssetSpec:
        return super().get_asset_spec(data).replace_attributes(key=["shop", data.resource.name.upper()])


@dlt.source(name="checked_shop", section="shop")
def shop(ids: tuple[int, ...], primary_key: str | None = "id") -> Any:
    """Orders with these ids."""
    hints: dict[str, Any] = {"columns": {"id": {"data_type": "bigint"}}}
    hints |= {"primary_key": primary_key} if primary_key else {}
    return dlt.resource([{"id": id} for id in ids], name="orders", write_disposition="append", **hints)


def shop_assets(
    ids: tuple[int, ...],
    translator: DagsterDltTranslator | None = None,
    primary_key: str | None = "id",
    loaded_as: str = "checked_shop",
) -> dg.AssetsDefinition:
    @dlt_assets(
        dlt_source=shop(ids, primary_key),
        dlt_pipeline=warehouse_pipeline("checked_shop", "raw_colours"),
        name="shop",
        dagster_dlt_translator=translator or SourceTranslator(source="shop"),
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        yield from dlt.run(context=context, dlt_source=shop.clone(name=loaded_as)(ids, primary_key))

    return assets


def evaluation(assets: dg.AssetsDefinition, **options: Any) -> dg.AssetCheckEvaluation:
    """The check's result after a load of all assets, or of the `selection` in `options`."""
    result = dg.materialize([assets, primary_key_checks(assets)], resources={"dlt": IsolatedDltResource()}, **options)
    [found] = result.get_asset_check_evaluations()
    return found


@pytest.mark.parametrize(
    ("translator", "key"),
    [
        (SourceTranslator(source="shop"), "shop/orders"),
        (DagsterDltTranslator(), "dlt_checked_shop_orders"),
        (Capitals(), "shop/ORDERS"),
    ],
)
def test_duplicate_keys_are_found_whatever_the_asset_is_called(
    warehouse: Warehouse, translator: DagsterDltTranslator, key: str
) -> None:
    check = evaluation(shop_assets((1, 1, 2), translator))

    assert check.asset_key.to_user_string() == key
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.ERROR
    assert check.metadata["bad primary keys in orders"].value == 1


def test_a_source_that_is_loaded_under_another_name_fails(warehouse: Warehouse) -> None:
    check = evaluation(shop_assets((1, 1), loaded_as="store"))

    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert check.description == "Loads have reported rows, but the warehouse has no table of this asset."


def test_a_table_without_a_primary_key_fails(warehouse: Warehouse) -> None:
    check = evaluation(shop_assets((1, 1), primary_key=None))

    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert check.description == "The table has no primary key, so there is nothing to check."


@pytest.mark.parametrize("primary_key", ["id", None])
def test_a_table_that_has_never_had_a_row_passes(warehouse: Warehouse, primary_key: str | None) -> None:
    check = evaluation(shop_assets((), primary_key=primary_key))

    assert check.passed
    assert check.description == "No rows have been loaded yet."


@pytest.mark.parametrize(
    ("lost", "sentence"),
    [
        ("DROP TABLE raw_colours.orders", "The warehouse has no table orders any more."),
        (None, "Loads have reported rows, but the warehouse has no table of this asset."),
    ],
    ids=["table", "dataset"],
)
def test_without_a_table_the_check_passes_only_if_no_rows_were_loaded(
    warehouse: Warehouse, lost: str | None, sentence: str
) -> None:
    assets = shop_assets((1, 2))
    alone = dg.AssetSelection.checks_for_assets(assets)
    with dg.DagsterInstance.ephemeral() as instance:
        before = evaluation(assets, selection=alone, instance=instance)
        assert evaluation(assets, instance=instance).passed
        assert evaluation(shop_assets(()), instance=instance).passed  # the last load found nothing new
        with warehouse_pipeline("checked_shop", "raw_colours").sql_client() as client:
            client.execute_sql(lost) if lost else client.drop_dataset()
        after = evaluation(assets, selection=alone, instance=instance)

    assert before.passed
    assert before.description == "No rows have been loaded yet."
    assert (after.passed, after.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert after.description == sentence


@pytest.mark.parametrize(("at_the_source", "passed", "missing"), [(2, True, 0), (3, True, 0), (4, False, 1)])
def test_rows_are_counted_at_the_source_and_in_the_warehouse(
    warehouse: Warehouse, at_the_source: int, passed: bool, missing: int
) -> None:
    assets, asked = shop_assets((1, 2, 3)), []

    def expected(created: datetime) -> int:
        asked.append(created)
        return at_the_source

    statement = "SELECT count(*) FROM orders WHERE %s < now()"
    check = row_count_check(assets, ["shop", "orders"], "Shop", expected, statement, dg.AssetCheckSeverity.WARN)
    result = dg.materialize([assets, check], resources={"dlt": IsolatedDltResource()})

    [found] = result.get_asset_check_evaluations()
    assert (found.check_name, found.passed, found.severity) == ("rows_match_shop", passed, dg.AssetCheckSeverity.WARN)
    assert {name: value.value for name, value in found.metadata.items()} == {
        "rows in Shop": at_the_source,
        "rows in the warehouse": 3,
        "missing rows": missing,
    }
    assert len(asked) == 1


def test_a_newer_schema_without_the_table_does_not_hide_it(warehouse: Warehouse) -> None:
    """Partitions that load at the same time store a version of the schema each."""
    assets = shop_assets((1, 2))
    with dg.DagsterInstance.ephemeral() as instance:
        evaluation(assets, instance=instance)
        other = dlt.resource([{"id": 1}], name="others")
        warehouse_pipeline("other", "raw_colours").run(dlt.source(lambda: other, name="checked_shop", section="shop")())
        check = evaluation(assets, selection=dg.AssetSelection.checks_for_assets(assets), instance=instance)

    assert check.passed, check.description
    assert check.metadata["tables"].value == ["orders"]
