"""A run's partition as dlt sees it: a day bounds what is read, at both ends."""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import dlt
import pyarrow as pa
import pytest
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType
from dlt import sources

from runtime.load import resource
from runtime.load.locks import pipeline_lock
from runtime.load.resource import IsolatedDltResource
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import warehouse_pipeline
from tests.support.warehouse import Warehouse

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
DAILY = dg.DailyPartitionsDefinition(start_date="2026-01-01", end_date="2026-01-08")


def orders(cursor: Any, value: Any, parallelized: bool = False) -> Any:
    """A source of one order every six hours of a week, dated by `value`."""

    @dlt.source(name="shop", section="shop")
    def shop() -> Any:
        @dlt.resource(write_disposition="merge", primary_key="id", parallelized=parallelized)
        def orders(updated_at: Any = cursor) -> Iterator[Any]:
            """Orders."""
            yield [{"id": i, "updated_at": value(FIRST + timedelta(hours=6 * i))} for i in range(28)]

        return orders

    return shop()


def materialize(source: Any, key: str | dg.PartitionKeyRange, stock: bool = False) -> dg.ExecuteInProcessResult:
    @dlt_assets(
        dlt_source=source,
        dlt_pipeline=warehouse_pipeline("shop", "raw_shop"),
        dagster_dlt_translator=SourceTranslator(source="shop"),
        partitions_def=DAILY,
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        yield from dlt.run(context=context)

    tags = (
        {}
        if isinstance(key, str)
        else {
            "dagster/asset_partition_range_start": key.start,
            "dagster/asset_partition_range_end": key.end,
        }
    )
    return dg.materialize(
        [assets],
        partition_key=key if isinstance(key, str) else None,
        tags=tags,
        resources={"dlt": DagsterDltResource() if stock else IsolatedDltResource()},
    )


def loaded(warehouse: Warehouse) -> list[int]:
    return [number for (number,) in warehouse.rows("SELECT id FROM raw_shop.orders ORDER BY id")]


@pytest.mark.parametrize("stock", [pytest.param(True, marks=[pytest.mark.slow, pytest.mark.xfail(strict=True)]), False])
def test_a_day_loads_that_day_alone(warehouse: Warehouse, stock: bool) -> None:
    source = orders(dlt.sources.incremental("updated_at", initial_value=FIRST), lambda moment: moment)
    materialize(source, "2026-01-03", stock)

    assert loaded(warehouse) == [8, 9, 10, 11]


def test_days_may_come_in_any_order_and_again(warehouse: Warehouse) -> None:
    for day in ("2026-01-05", "2026-01-02", "2026-01-05", "2026-01-03"):
        materialize(orders(dlt.sources.incremental[datetime]("updated_at"), lambda moment: moment), day)

    assert loaded(warehouse) == [4, 5, 6, 7, 8, 9, 10, 11, 16, 17, 18, 19]


def test_a_backfill_over_a_range_is_one_run(warehouse: Warehouse) -> None:
    source = orders(dlt.sources.incremental[datetime]("updated_at"), lambda moment: moment)
    materialize(source, dg.PartitionKeyRange("2026-01-02", "2026-01-04"))

    assert loaded(warehouse) == list(range(4, 16))


def test_a_parallelized_resource_is_bounded_too(warehouse: Warehouse) -> None:
    source = orders(dlt.sources.incremental[datetime]("updated_at"), lambda moment: moment, parallelized=True)
    materialize(source, "2026-01-03")

    assert loaded(warehouse) == [8, 9, 10, 11]


def seconds(moment: datetime) -> int:
    return int(moment.timestamp())


@pytest.mark.parametrize(
    ("cursor", "value"),
    [
        pytest.param(lambda: dlt.sources.incremental[date]("updated_at"), datetime.date, id="date"),
        pytest.param(
            lambda: dlt.sources.incremental[int]("updated_at", allow_external_schedulers=True), seconds, id="epoch"
        ),
    ],
)
def test_dates_and_marked_epochs_are_bounded_by_the_day(warehouse: Warehouse, cursor: Any, value: Any) -> None:
    materialize(orders(cursor(), value), "2026-01-03")

    assert loaded(warehouse) == [8, 9, 10, 11]


@pytest.mark.parametrize(
    ("cursor", "value"),
    [
        pytest.param(lambda: dlt.sources.incremental("updated_at"), datetime.isoformat, id="no type"),
        pytest.param(
            lambda: dlt.sources.incremental("updated_at", initial_value="2026-01-01"), datetime.isoformat, id="text"
        ),
        pytest.param(lambda: dlt.sources.incremental("updated_at", initial_value=0), seconds, id="integer"),
        pytest.param(
            lambda: dlt.sources.incremental("updated_at", initial_value=datetime(2027, 1, 1), last_value_func=min),  # noqa: DTZ001
            lambda moment: moment.replace(tzinfo=None),
            id="backwards",
        ),
        pytest.param(
            lambda: dlt.sources.incremental("updated_at", initial_value=FIRST, lag=3600),
            lambda moment: moment,
            id="lag",
        ),
    ],
)
def test_a_cursor_without_a_window_loads_as_without_partitions(warehouse: Warehouse, cursor: Any, value: Any) -> None:
    for day in ("2026-01-03", "2026-01-01"):
        materialize(orders(cursor(), value), day)

    assert loaded(warehouse) == list(range(28))


def test_a_cursor_keeps_a_window_of_its_own(warehouse: Warehouse) -> None:
    start, end = FIRST + timedelta(days=1), FIRST + timedelta(days=3)
    cursor = dlt.sources.incremental("updated_at", initial_value=start, end_value=end)
    materialize(orders(cursor, lambda moment: moment), "2026-01-03")

    assert loaded(warehouse) == list(range(4, 12))


@pytest.mark.parametrize(
    ("cursor", "key", "alone"),
    [
        (dlt.sources.incremental[datetime]("updated_at"), "2026-01-03", False),
        (dlt.sources.incremental[datetime]("updated_at"), dg.PartitionKeyRange("2026-01-02", "2026-01-04"), True),
        (dlt.sources.incremental("updated_at", initial_value=0), "2026-01-03", True),
        (dlt.sources.incremental("updated_at", initial_value=0, end_value=9), "2026-01-03", False),
    ],
)
def test_runs_that_share_rows_or_a_cursor_with_other_partitions_load_alone(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, cursor: Any, key: Any, alone: bool
) -> None:
    taken: list[str] = []

    def recorded(op: Any, pipeline: Any) -> Any:
        taken.append(pipeline.pipeline_name)
        return pipeline_lock(op, pipeline)

    monkeypatch.setattr(resource, "pipeline_lock", recorded)
    unchanged: Callable[[datetime], Any] = lambda moment: moment  # noqa: E731
    materialize(orders(cursor, seconds if cursor.initial_value == 0 else unchanged), key)

    assert taken == (["shop"] if alone else [])


def test_a_day_of_a_job_of_ops_is_that_day(warehouse: Warehouse) -> None:
    @dg.op(out={})
    def load(context: dg.OpExecutionContext, dlt: DagsterDltResource) -> Iterator[Any]:
        source = orders(sources.incremental[datetime]("updated_at"), lambda moment: moment)
        yield from dlt.run(context=context, dlt_source=source, dlt_pipeline=warehouse_pipeline("shop", "raw_shop"))

    @dg.job(partitions_def=DAILY, resource_defs={"dlt": IsolatedDltResource()})
    def job() -> None:
        load()

    job.execute_in_process(partition_key="2026-01-03")

    assert loaded(warehouse) == [8, 9, 10, 11]


def test_without_partitions_a_cursor_moves_on_as_ever(warehouse: Warehouse) -> None:
    rows = list(range(3))

    @dlt.source(name="shop", section="shop")
    def shop() -> Any:
        @dlt.resource(write_disposition="merge", primary_key="id")
        def orders(number: Any = dlt.sources.incremental("id", initial_value=0)) -> Iterator[Any]:  # noqa: B008
            """Orders."""
            yield [{"id": i} for i in rows]

        return orders

    @dlt_assets(
        dlt_source=shop(),
        dlt_pipeline=warehouse_pipeline("shop", "raw_shop"),
        dagster_dlt_translator=SourceTranslator(source="shop"),
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        yield from dlt.run(context=context)

    counts = []
    for new in (3, 4):
        result = dg.materialize([assets], resources={"dlt": IsolatedDltResource()})
        [event] = result.get_asset_materialization_events()
        counts.append(event.materialization.metadata["rows_loaded"].value)
        rows.append(new)

    assert counts == [3, 2]  # the row at the cursor again, which may have changed
    assert loaded(warehouse) == [0, 1, 2, 3]


@pytest.mark.parametrize("as_hint", [False, True])
def test_a_row_that_changes_within_the_cursors_last_value_is_loaded_again(warehouse: Warehouse, as_hint: bool) -> None:
    def load(states: list[str]) -> None:
        @dlt.source(name="shop", section="shop")
        def shop() -> Any:
            cursor: Any = dlt.sources.incremental("at", initial_value=date(2026, 1, 1))
            rows = [{"id": number, "at": date(2026, 2, 1), "state": state} for number, state in enumerate(states)]
            hints: dict[str, Any] = {"name": "orders", "write_disposition": "merge", "primary_key": "id"}
            if as_hint:
                return dlt.resource(rows, incremental=cursor, **hints)

            @dlt.resource(**hints)
            def orders(at: Any = cursor) -> Iterator[Any]:
                yield rows

            return orders

        @dlt_assets(
            dlt_source=shop(),
            dlt_pipeline=warehouse_pipeline("shop", "raw_shop"),
            dagster_dlt_translator=SourceTranslator(source="shop"),
        )
        def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
            yield from dlt.run(context=context)

        dg.materialize([assets], resources={"dlt": IsolatedDltResource()})

    load(["open", "open"])
    load(["paid", "open"])

    assert warehouse.rows("SELECT id, state FROM raw_shop.orders ORDER BY id") == [(0, "paid"), (1, "open")]


@pytest.mark.parametrize(("missing", "expected"), [("exclude", [1, 2, 5, 6]), ("include", [1, 2, 3, 4, 5, 6])])
def test_an_arrow_page_without_cursor_values_does_not_end_the_read(
    warehouse: Warehouse, missing: Any, expected: list[int]
) -> None:
    def page(ids: list[int], hours: list[int | None]) -> Any:
        times = [FIRST + timedelta(hours=hour) if hour else None for hour in hours]
        return pa.table({"id": ids, "at": pa.array(times, pa.timestamp("us", "UTC"))})

    cursor = dlt.sources.incremental[datetime]("at", row_order="asc", on_cursor_value_missing=missing)

    @dlt.source(name="shop", section="shop")
    def shop() -> Any:
        @dlt.resource(write_disposition="merge", primary_key="id")
        def orders(at: Any = cursor) -> Iterator[Any]:
            yield from (page([1, 2], [1, 2]), page([3, 4], [None, None]), page([5, 6], [3, 4]))

        return orders

    materialize(shop(), "2026-01-01")

    assert loaded(warehouse) == expected
