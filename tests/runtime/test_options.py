"""Options of `dlt.run` and of the pipeline, with partitions: each does what dlt documents, or the run is refused."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import dlt
import pytest
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType

from runtime.load.resource import IsolatedDltResource
from runtime.load.settings import LoadOptions
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import warehouse_pipeline
from tests.support.warehouse import Warehouse

PARTITIONS = dg.StaticPartitionsDefinition(["east", "west"])


def load(rows: list[Any], pipeline: dlt.Pipeline, partition: str, hints: Any = None, **options: Any) -> str:
    """Loads a partition of `orders`. Returns the failure's sentence, or an empty text."""

    @dlt.source(name="shop", section="shop")
    def shop() -> Any:
        merge = {"write_disposition": "merge", "primary_key": "id"}
        return dlt.resource(lambda: iter([rows]), name="orders", **(merge if hints is None else hints))

    @dlt_assets(
        dlt_source=shop(),
        dlt_pipeline=pipeline,
        dagster_dlt_translator=SourceTranslator(source="shop"),
        partitions_def=PARTITIONS,
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        yield from dlt.run(context=context, **options)

    resources = {"dlt": IsolatedDltResource()}
    result = dg.materialize([assets], partition_key=partition, resources=resources, raise_on_error=False)
    failures = [event.step_failure_data for event in result.get_step_failure_events()]
    return " ".join(str(one.user_failure_data.description if one.user_failure_data else one.error) for one in failures)


def loaded(warehouse: Warehouse, columns: str = "id, note", table: str = "orders") -> list[tuple[Any, ...]]:
    return warehouse.rows(f"SELECT {columns} FROM raw_shop.{table} ORDER BY 1, 2")


EAST, WEST = [{"id": 1, "note": "a"}, {"id": 2, "note": "b"}], [{"id": 3, "note": "c"}]
ALL = [(1, "a"), (2, "b"), (3, "c")]

# Option → a value, and the sentence of the refusal. An empty one: the run does it, as a test below shows.
OPTIONS: dict[str, tuple[Any, str]] = {
    "destination": ("duckdb", "destination cannot be set for a single run"),
    "staging": ("filesystem", "staging cannot be set for a single run"),
    "dataset_name": ("elsewhere", "dataset_name cannot be set for a single run"),
    "credentials": ("elsewhere", "credentials cannot be set for a single run"),
    "refresh": ("drop_data", "refresh='drop_data' would drop the rows of all partitions"),
    "table_name": ("sales", ""),
    "write_disposition": ("append", ""),
    "columns": ({"note": {"data_type": "text"}}, ""),
    "primary_key": ("id", ""),
    "schema": (dlt.Schema("shop"), ""),
    "loader_file_format": ("parquet", ""),
    "table_format": ("native", ""),
    "schema_contract": ({"columns": "freeze"}, ""),
}


def test_every_option_of_dlt_has_its_line() -> None:
    assert set(OPTIONS) == set(inspect.signature(dlt.Pipeline.run).parameters) - {"self", "data"}


@pytest.mark.parametrize(("option", "value", "refusal"), [(name, *line) for name, line in OPTIONS.items()])
def test_partitions_load_whole_with_an_option_or_are_refused(
    warehouse: Warehouse, option: str, value: Any, refusal: str
) -> None:
    pipeline = warehouse_pipeline("shop", "raw_shop")
    sentences = [load(EAST, pipeline, "east", **{option: value}), load(WEST, pipeline, "west", **{option: value})]

    if refusal:
        assert all(refusal in sentence for sentence in sentences), sentences
        assert warehouse.datasets() == set()
    else:
        assert sentences == ["", ""]
        assert loaded(warehouse, table="sales" if option == "table_name" else "orders") == ALL


def test_a_write_disposition_of_the_run_appends(warehouse: Warehouse) -> None:
    pipeline = warehouse_pipeline("shop", "raw_shop")
    for _ in range(2):
        assert not load(WEST, pipeline, "west", write_disposition="append")

    assert loaded(warehouse) == [(3, "c"), (3, "c")]


def test_a_primary_key_of_the_run_merges(warehouse: Warehouse) -> None:
    pipeline = warehouse_pipeline("shop", "raw_shop")
    for note in ("old", "new"):
        rows = [{"id": 1, "note": note}]
        assert not load(rows, pipeline, "east", {"write_disposition": "merge"}, primary_key="id")

    assert loaded(warehouse) == [(1, "new")]


def test_columns_of_the_run_give_types(warehouse: Warehouse) -> None:
    pipeline = warehouse_pipeline("shop", "raw_shop")
    assert not load([{"id": 1, "note": 7}], pipeline, "east", columns={"note": {"data_type": "text"}})

    assert loaded(warehouse) == [(1, "7")]


@pytest.mark.parametrize(
    ("contract", "sentence", "expected"),
    [
        ("freeze", "orders", [(1, "a"), (2, "b")]),
        ({"columns": "freeze"}, "orders", [(1, "a"), (2, "b")]),
        ({"columns": "discard_value"}, "", ALL),
        ({"columns": "discard_row"}, "", [(1, "a"), (2, "b")]),
        ("evolve", "", ALL),
    ],
    ids=str,
)
@pytest.mark.parametrize("given_to", ["run", "resource"])
def test_a_contract_holds_between_partitions(
    warehouse: Warehouse, contract: Any, sentence: str, expected: list[Any], given_to: str
) -> None:
    """The second partition brings a column that the first has not."""
    pipeline = warehouse_pipeline("shop", "raw_shop")
    hints = {"write_disposition": "merge", "primary_key": "id"}
    assert not load(EAST, pipeline, "east", hints)
    more = [row | {"more": True} for row in WEST]
    failure = (
        load(more, pipeline, "west", hints, schema_contract=contract)
        if given_to == "run"
        else load(more, pipeline, "west", hints | {"schema_contract": contract})
    )

    assert bool(failure) == bool(sentence), failure
    assert sentence in failure
    assert loaded(warehouse) == expected


def test_schemas_are_exported_and_imported(warehouse: Warehouse, tmp_path: Path) -> None:
    pipeline = dlt.pipeline(
        "shop",
        destination=warehouse_pipeline("shop", "raw_shop").destination,
        dataset_name="raw_shop",
        export_schema_path=str(tmp_path / "export"),
        import_schema_path=str(tmp_path / "import"),
    )
    assert not load(EAST, pipeline, "east")

    exported = tmp_path / "export" / "shop.schema.yaml"
    assert "note:" in exported.read_text()
    imported = tmp_path / "import" / "shop.schema.yaml"
    imported.write_text(
        imported.read_text().replace("  orders:\n", "  orders:\n    description: What was ordered\n", 1)
    )
    assert not load(WEST, pipeline, "west")
    assert loaded(warehouse) == ALL
    assert "What was ordered" in exported.read_text()


@dlt.source(name="shop", section="shop")
def shop(disposition: Any = "merge", key_hints: Any = None) -> Any:
    """Orders, the newest first, and customers."""

    def resource(name: str) -> Any:
        @dlt.resource(name=name, write_disposition=disposition, **(key_hints or {"primary_key": "id"}))
        def rows(last: Any = dlt.sources.incremental("id", initial_value=0)) -> Iterator[Any]:  # noqa: B008
            for start in range(90, 0, -10):
                yield [{"id": start + i, "lines": [{"n": 1}]} for i in range(10) if start + i > last.start_value]

        return rows

    return resource("orders"), resource("customers")


def launch(source: Any, *tables: str, **config: Any) -> str:
    """A run of some tables as from the launchpad. Returns the failure's sentence, or an empty text."""

    @dlt_assets(
        dlt_source=source,
        dlt_pipeline=warehouse_pipeline("shop", "raw_shop"),
        name="shop",
        dagster_dlt_translator=SourceTranslator(source="shop"),
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource, config: LoadOptions) -> Any:
        yield from dlt.run(context=context, **config.arguments)

    result = dg.materialize(
        [assets],
        selection=[dg.AssetKey(["shop", table]) for table in tables] or None,
        run_config={"ops": {"shop": {"config": config}}},
        resources={"dlt": IsolatedDltResource()},
        raise_on_error=False,
    )
    failures = [event.step_failure_data.user_failure_data for event in result.get_step_failure_events()]
    return " ".join(str(one.description) for one in failures if one)


def count(warehouse: Warehouse, table: str = "orders") -> int:
    [(rows,)] = warehouse.rows(f"SELECT count(*) FROM raw_shop.{table}")
    return int(rows)


def test_a_try_out_reads_some_rows_and_leaves_the_rest_to_the_next_load(warehouse: Warehouse) -> None:
    assert not launch(shop(), max_items=15)
    assert count(warehouse) == 20  # whole pages
    assert not launch(shop())

    for table in ("orders", "customers"):
        assert warehouse.rows(f"SELECT count(*), count(DISTINCT id) FROM raw_shop.{table}") == [(90, 90)]
        assert count(warehouse, f"{table}__lines") == 90


@pytest.mark.parametrize(
    ("disposition", "keys"),
    [
        ("append", None),
        ("replace", None),
        ("merge", {"merge_key": "id"}),
        ("merge", {"primary_key": (), "merge_key": ()}),
        ({"disposition": "merge", "strategy": "scd2"}, None),
    ],
    ids=str,
)
def test_a_try_out_that_would_lose_or_double_rows_is_refused(warehouse: Warehouse, disposition: Any, keys: Any) -> None:
    sentence = launch(shop(disposition, keys), max_items=10)

    assert sentence.startswith("customers, orders cannot be tried out with max_items: "), sentence
    assert warehouse.datasets() == set()


@pytest.mark.parametrize(
    ("tables", "config", "sentence", "left"),
    [
        (["orders"], {"refresh": "drop_sources"}, "would drop customers, too, which this run does not load", (91, 91)),
        (["orders"], {"refresh": "drop_resources"}, "", (90, 91)),
        (["orders"], {"refresh": "drop_data"}, "", (90, 91)),
        ([], {"refresh": "drop_sources"}, "", (90, 90)),
        (
            [],
            {"refresh": "drop_data", "max_items": 5},
            "refresh='drop_data' would empty tables, and max_items load",
            (91, 91),
        ),
    ],
    ids=str,
)
def test_a_refresh_loads_its_tables_anew_and_no_others(
    warehouse: Warehouse, tables: list[str], config: dict[str, Any], sentence: str, left: tuple[int, int]
) -> None:
    """A row that the source does not have stands for what a refresh removes."""
    assert not launch(shop())
    for table in ("orders", "customers"):
        warehouse.rows(f"INSERT INTO raw_shop.{table} SELECT 1000, _dlt_load_id, 'more' FROM raw_shop.{table} LIMIT 1")
    failure = launch(shop(), *tables, **config)

    assert sentence in failure
    assert bool(sentence) == bool(failure)
    assert (count(warehouse), count(warehouse, "customers")) == left
