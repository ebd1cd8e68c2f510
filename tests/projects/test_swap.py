"""A project has loaded with the stock resource, then only the resource is swapped: what is loaded again, or twice?"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import dlt
import duckdb
import pytest
from dagster_dlt import DagsterDltResource, dlt_assets

from runtime.load.resource import IsolatedDltResource

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-11")
NAMES = dg.StaticPartitionsDefinition(["de", "fr"])


class Shop:
    """A vendor with two orders a day, loaded by one asset into DuckDB."""

    def __init__(self, folder: Path, disposition: str, cursor: str | None, partitions: Any) -> None:
        self.disposition, self.cursor, self.partitions, self.orders = disposition, cursor, partitions, 10
        self.pipeline = dlt.pipeline(
            "shop",
            dataset_name="raw_shop",
            destination=dlt.destinations.duckdb(str(folder / "shop.duckdb")),
            pipelines_dir=str(folder / "pipelines"),
        )

    def source(self) -> Any:
        initial = {"id": 0, "at": BEGIN}.get(self.cursor or "")

        def orders() -> Iterator[Any]:
            yield [{"id": n, "at": BEGIN + timedelta(hours=12 * n - 6)} for n in range(1, self.orders + 1)]

        @dlt.source(name="shop", section="shop")
        def shop() -> Any:
            incremental = dlt.sources.incremental(self.cursor, initial) if self.cursor else None
            disposition: Any = self.disposition
            return dlt.resource(
                orders, name="orders", primary_key="id", write_disposition=disposition, incremental=incremental
            )

        return shop()

    def load(self, resource: DagsterDltResource, key: str | None = None) -> Any:
        """The asset's key and the number of rows sent, or the sentence of the failure."""

        @dlt_assets(dlt_source=self.source(), dlt_pipeline=self.pipeline, name="shop", partitions_def=self.partitions)
        def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[Any]:
            yield from dlt.run(context=context)

        result = dg.materialize([assets], resources={"dlt": resource}, partition_key=key, raise_on_error=False)
        if not result.success:
            [failure] = result.get_step_failure_events()
            return str(failure.step_failure_data.error)
        [event] = result.get_asset_materialization_events()
        assert event.asset_key
        return event.asset_key.to_user_string(), getattr(event.materialization.metadata.get("rows_loaded"), "value", 0)

    def rows(self) -> list[int]:
        with duckdb.connect(str(self.pipeline.sql_client().credentials.database)) as connection:
            return [n for (n,) in connection.sql("SELECT id FROM raw_shop.orders ORDER BY id").fetchall()]


ALL, LATER = list(range(1, 11)), list(range(1, 15))
STOCK, OURS = DagsterDltResource(), IsolatedDltResource()


@pytest.fixture(autouse=True)
def data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))


@pytest.mark.parametrize(
    ("disposition", "cursor", "sent"),
    [("append", "id", 0), ("merge", "id", 1), ("replace", None, 10)],  # a merge reads the rows of the last value again
)
def test_without_partitions_the_cursor_goes_on_and_back(
    tmp_path: Path, disposition: str, cursor: str | None, sent: int
) -> None:
    shop = Shop(tmp_path, disposition, cursor, None)

    assert shop.load(STOCK) == ("dlt_shop_orders", 10)
    assert (shop.load(OURS), shop.rows()) == (("dlt_shop_orders", sent), ALL)
    shop.orders = 14
    assert (shop.load(OURS), shop.rows()) == (("dlt_shop_orders", sent + 4), LATER)
    shop.load(STOCK)
    assert shop.rows() == LATER


def test_days_that_merge_are_read_day_by_day_and_change_no_row(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "merge", "at", DAYS)
    shop.load(STOCK, "2026-01-02")  # reads everything, whatever the day is

    assert (shop.load(OURS, "2026-01-02"), shop.rows()) == (("dlt_shop_orders", 2), ALL)
    shop.orders = 14
    assert (shop.load(OURS, "2026-01-07"), shop.rows()) == (("dlt_shop_orders", 2), [*ALL, 13, 14])


def test_days_that_append_go_on_with_the_first_day_that_is_not_loaded(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "append", "at", DAYS)
    shop.load(STOCK, "2026-01-02")
    shop.orders = 14

    for loaded in ("2026-01-02", "2026-01-03", "2026-01-05"):
        assert "orders would append rows that are already loaded" in shop.load(OURS, loaded)
    assert shop.rows() == ALL
    for day in ("2026-01-06", "2026-01-07"):
        assert shop.load(OURS, day) == ("dlt_shop_orders", 2)
    assert shop.rows() == LATER


def test_days_whose_cursor_is_no_time_go_on_with_it(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "append", "id", DAYS)
    shop.load(STOCK, "2026-01-02")
    shop.orders = 14

    assert (shop.load(OURS, "2026-01-03"), shop.rows()) == (("dlt_shop_orders", 4), LATER)


def test_partitions_with_names_that_merge_read_everything_once_and_change_no_row(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "merge", "id", NAMES)
    shop.load(STOCK, "de")

    for sent in (10, 1):
        assert shop.load(OURS, "de") == ("dlt_shop_orders", sent)
    assert (shop.load(OURS, "fr"), shop.rows()) == (("dlt_shop_orders", 10), ALL)


def test_partitions_with_names_that_append_are_refused(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "append", "id", NAMES)
    shop.load(STOCK, "de")

    assert "orders would append rows that are already loaded" in shop.load(OURS, "de")
    assert shop.rows() == ALL
