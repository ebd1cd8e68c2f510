"""What a single run asks for, and whether the resource may do it: done as dlt documents it, or refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import dlt
import pytest
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType

from runtime.load.resource import IsolatedDltResource
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import warehouse_pipeline
from tests.support.warehouse import Warehouse

CURSOR = dlt.sources.incremental("id", initial_value=0)


@dlt.source(name="clients", section="clients")
def clients(count: int = 3, cursor: bool = True) -> Any:
    """Clients in the order of their ids."""

    @dlt.resource(name="clients", primary_key="id", write_disposition="merge")
    def with_cursor(moment: Any = CURSOR) -> Iterator[Any]:
        yield [{"id": i, "of": count} for i in range(1, count + 1)]

    @dlt.resource(name="clients", primary_key="id", write_disposition="merge")
    def without_cursor() -> Iterator[Any]:
        yield [{"id": i, "of": count} for i in range(1, count + 1)]

    return with_cursor if cursor else without_cursor


def load(
    source: Any, pipeline: dlt.Pipeline | None = None, partition: str | None = None, **arguments: Any
) -> dg.ExecuteInProcessResult:
    @dlt_assets(
        dlt_source=source,
        dlt_pipeline=pipeline or warehouse_pipeline("clients", "raw_clients"),
        dagster_dlt_translator=SourceTranslator(source="clients"),
        partitions_def=dg.StaticPartitionsDefinition(["east", "west"]) if partition else None,
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        yield from dlt.run(context=context, **arguments)

    resources = {"dlt": IsolatedDltResource()}
    return dg.materialize([assets], partition_key=partition, resources=resources, raise_on_error=False)


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    [event] = result.get_step_failure_events()
    error = event.step_failure_data.error
    assert error is not None
    return error.message


def loaded(warehouse: Warehouse) -> list[tuple[int, int]]:
    return [(id, of) for id, of in warehouse.rows("SELECT id, of FROM raw_clients.clients ORDER BY id")]


def test_a_refresh_drops_tables_and_cursors_as_dlt_documents(warehouse: Warehouse) -> None:
    assert load(clients(3)).success
    assert load(clients(3)).success
    assert loaded(warehouse) == [(1, 3), (2, 3), (3, 3)]

    assert load(clients(2), refresh="drop_sources").success
    assert loaded(warehouse) == [(1, 2), (2, 2)]
    assert load(clients(4)).success
    assert loaded(warehouse) == [(1, 2), (2, 4), (3, 4), (4, 4)]  # 2 is at the cursor, so it may have changed


def test_a_write_disposition_holds_for_its_run(warehouse: Warehouse) -> None:
    load(clients(3, cursor=False))
    assert load(clients(2, cursor=False), write_disposition="replace").success
    assert loaded(warehouse) == [(1, 2), (2, 2)]
    assert load(clients(3, cursor=False)).success
    assert loaded(warehouse) == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("arguments", [{"write_disposition": "replace"}, {"refresh": "drop_sources"}])
def test_a_partition_may_not_drop_the_rows_of_others(warehouse: Warehouse, arguments: dict[str, Any]) -> None:
    load(clients(3), partition="east")
    result = load(clients(2), partition="west", **arguments)

    assert not result.success
    assert "the rows of all" in failure_of(result)
    assert "west" in failure_of(result)
    assert loaded(warehouse) == [(1, 3), (2, 3), (3, 3)]


def test_where_to_load_is_the_pipelines_business(warehouse: Warehouse) -> None:
    result = load(clients(3), dataset_name="elsewhere")

    assert "dataset_name cannot be set for a single run" in failure_of(result)
    assert warehouse.datasets() == set()


def test_a_destination_without_state_takes_no_source_with_a_cursor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path))
    received: list[int] = []

    @dlt.destination(batch_size=10)
    def sink(items: Any, table: Any) -> None:
        received.extend(item["id"] for item in items)

    pipeline = dlt.pipeline("sink", destination=sink, dataset_name="sink", pipelines_dir=str(tmp_path / "import"))
    result = load(clients(3), pipeline)

    assert "cursors or other state, which sink cannot store" in failure_of(result)
    assert received == []
    assert load(clients(3, cursor=False), pipeline).success
    assert sorted(received) == [1, 2, 3]


def test_cursors_that_are_never_read_back_are_refused(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESTORE_FROM_DESTINATION", "false")
    assert "RESTORE_FROM_DESTINATION=false" in failure_of(load(clients(3)))


UPSERT = {"disposition": "merge", "strategy": "upsert"}


@pytest.mark.parametrize(
    "hints", [{}, {"write_disposition": UPSERT}, {"table_format": "delta"}, {"table_format": "iceberg"}]
)
def test_files_never_merge_otherwise_than_a_source_means_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hints: dict[str, Any]
) -> None:
    """dlt would append; in Delta and Iceberg it upserts: children that are gone stay, and keys that came twice."""
    monkeypatch.setenv("WAREHOUSE", "filesystem")
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    monkeypatch.setenv("DESTINATION__FILESYSTEM__BUCKET_URL", str(tmp_path / "lake"))

    source = clients(3)
    source.resources["clients"].apply_hints(**hints)

    assert "filesystem cannot merge clients" in failure_of(load(source))
    assert not list(tmp_path.glob("lake/raw_clients/clients/*"))
    for _ in range(2):
        assert load(clients(3, cursor=False), write_disposition="replace").success
    assert len(list(tmp_path.glob("lake/raw_clients/clients/*"))) == 1


def test_a_generator_object_that_was_read_is_named(warehouse: Warehouse) -> None:
    def rows(name: str) -> Any:
        return dlt.resource(({"id": i, "of": 2} for i in range(2)), name=name)

    @dlt.source(name="clients", section="clients")
    def objects() -> Any:
        return rows("clients"), rows("visits"), clients(cursor=False).clients.with_name("function")

    source = objects()
    assert load(source).success
    result = load(source)

    assert "clients, visits of clients cannot be read again in this process" in failure_of(result)
    assert "dlt.run(context, dlt_source=clients(…))" in failure_of(result)
    assert loaded(warehouse) == [(0, 2), (1, 2)]
    assert load(objects()).success


SHOPS = dg.StaticPartitionsDefinition(["east", "west"])


def materialize(source: Any, tags: dict[str, str] | None = None, **options: Any) -> dg.ExecuteInProcessResult:
    """One run; `options` are those of `@dlt_assets`, `select` and `partition_key` those of the run."""
    run = {name: options.pop(name) for name in ("partition_key", "selection") if name in options}

    @dlt_assets(
        dlt_source=source,
        dlt_pipeline=warehouse_pipeline("clients", "raw_clients"),
        dagster_dlt_translator=SourceTranslator(source="clients"),
        **options,
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        yield from dlt.run(context=context)

    return dg.materialize([assets], tags=tags, resources={"dlt": IsolatedDltResource()}, raise_on_error=False, **run)


@pytest.mark.parametrize(("merge_key", "succeeds"), [(None, False), ("shop", True)])
def test_history_of_a_partition_needs_a_merge_key(warehouse: Warehouse, merge_key: Any, succeeds: bool) -> None:
    disposition: Any = {"disposition": "merge", "strategy": "scd2"}
    stock = dlt.resource([{"shop": "east"}], name="stock", write_disposition=disposition, merge_key=merge_key)
    result = materialize(one(stock), partitions_def=SHOPS, partition_key="east")

    assert result.success is succeeds
    if not succeeds:
        assert "stock keeps history (scd2): the rows of east would retire" in failure_of(result)
        assert warehouse.datasets() == set()


def test_named_partitions_do_not_load_in_one_run(warehouse: Warehouse) -> None:
    result = materialize(
        clients(3),
        partitions_def=SHOPS,
        backfill_policy=dg.BackfillPolicy.single_run(),
        tags={"dagster/asset_partition_range_start": "east", "dagster/asset_partition_range_end": "west"},
    )

    assert "east...west cannot load in one run, because each has cursors of its own" in failure_of(result)


def test_assets_that_share_a_cursor_load_together(warehouse: Warehouse) -> None:
    @dlt.source(name="clients", section="clients")
    def source() -> Any:
        @dlt.resource(write_disposition="merge", primary_key="id")
        def orders(last: Any = dlt.sources.incremental("id", initial_value=0)) -> Iterator[Any]:  # noqa: B008
            yield [{"id": 1}]

        @dlt.transformer(data_from=orders, write_disposition="merge", primary_key="id")
        def details(page: Any) -> Iterator[Any]:
            yield page

        return orders, details

    for chosen in ("orders", "details"):
        result = materialize(source(), selection=[dg.AssetKey(["clients", chosen])])
        assert "details, orders share the cursor of orders" in failure_of(result)
    assert materialize(source()).success


@pytest.mark.parametrize(("primary_key", "succeeds"), [(None, False), ("id", True)])
def test_a_merge_without_a_key_counts_as_an_append(warehouse: Warehouse, primary_key: Any, succeeds: bool) -> None:
    rows = dlt.resource([{"id": 1}], name="rows", write_disposition="merge", primary_key=primary_key)
    result = materialize(one(rows), tags={"dagster/retry_number": "1"})

    assert result.success is succeeds
    if not succeeds:
        assert "rows would append rows that the lost run" in failure_of(result)


def test_a_key_that_the_source_finds_while_it_reads_counts(warehouse: Warehouse) -> None:
    @dlt.resource(name="rows", write_disposition="merge")
    def rows() -> Iterator[Any]:
        yield dlt.mark.with_hints([{"id": 1}], dlt.mark.make_hints(write_disposition="merge", primary_key="id"))

    result = materialize(one(rows), tags={"dagster/retry_number": "1"})

    assert result.success, failure_of(result)


def test_a_partition_does_not_append_what_the_stock_resource_has_loaded(warehouse: Warehouse) -> None:
    @dlt.source(name="clients", section="clients")
    def source() -> Any:
        @dlt.resource(name="clients", write_disposition="append")
        def rows(last: Any = dlt.sources.incremental("id", initial_value=0)) -> Iterator[Any]:  # noqa: B008
            yield [{"id": i} for i in range(1, 4) if i > last.start_value]

        return rows

    @dlt_assets(
        dlt_source=source(),
        dlt_pipeline=warehouse_pipeline("clients", "raw_clients"),
        dagster_dlt_translator=SourceTranslator(source="clients"),
        partitions_def=SHOPS,
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        yield from dlt.run(context=context)

    stock = dg.materialize([assets], partition_key="east", resources={"dlt": DagsterDltResource()})
    swapped = materialize(source(), partitions_def=SHOPS, partition_key="east")

    assert stock.success
    assert "clients would append rows that are already loaded" in failure_of(swapped)
    assert warehouse.rows("SELECT count(*) FROM raw_clients.clients") == [(3,)]


def test_a_subclass_cannot_take_the_isolation_away() -> None:
    with pytest.raises(TypeError, match=r"Own overrides _run, which isolates and retries loads\. Override run\(\)"):

        class Own(IsolatedDltResource):
            def _run(self, *args: Any, **kwargs: Any) -> Any:
                return super()._run(*args, **kwargs)


def one(resource: Any) -> Any:
    """A source of one resource."""

    @dlt.source(name="clients", section="clients")
    def source() -> Any:
        return resource

    return source()
