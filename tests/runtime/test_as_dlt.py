"""Random loads through plain dlt and through ours: every row of every table is the same in the warehouse.

The rows are such that plain dlt loads them as they are. What ours does with others is in test_values.py.
`AS_DLT_HISTORIES` is how many. The default seed is fixed, so that a change cannot fail by chance; `make test-upstream`
draws one. A failure prints the seed for `AS_DLT_SEED`.
"""

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import count
from typing import Any

import dagster as dg
import dlt
import pytest
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from runtime.load.resource import IsolatedDltResource
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import warehouse_pipeline
from tests.support.warehouse import Warehouse

HISTORIES = int(os.environ.get("AS_DLT_HISTORIES", "4"))  # for each destination
SEED = int(os.environ.get("AS_DLT_SEED") or (random.randrange(10**9) if HISTORIES > 8 else 1))

Row = dict[str, Any]

SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "double": st.floats(-1e9, 1e9, allow_nan=False, width=32),
    "bool": st.booleans(),
    "text": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
    | st.sampled_from(["007", "no", "'; --", "a\tb\\n", "\N{SNOWMAN}"]),
    "timestamp": st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    "date": st.dates(date(1900, 1, 1), date(2200, 1, 1)),
    "decimal": st.decimals(-(10**9), 10**9, places=6),
    "binary": st.binary(min_size=1, max_size=8),  # dlt stores empty bytes as text
    "mixed": st.integers(0, 9) | st.sampled_from(["north", "south"]),
}


@st.composite
def shapes(draw: st.DrawFn, depth: int = 2) -> dict[str, st.SearchStrategy[Any]]:
    """Key → its values, of one type: scalars, objects, lists of scalars and of objects."""
    shape: dict[str, st.SearchStrategy[Any]] = {}
    for key in draw(st.lists(st.sampled_from(["a", "bB", "c_d", "größe", "select", "value"]), unique=True, max_size=4)):
        kind = draw(st.sampled_from([*SCALARS, "object", "list", "rows"] if depth else [*SCALARS]))
        if kind == "object":
            shape[key] = rows(draw(shapes(depth - 1)))
        elif kind == "list":
            shape[key] = st.lists(SCALARS[draw(st.sampled_from(["bigint", "text", "decimal"]))], max_size=3)
        elif kind == "rows":
            shape[key] = st.lists(rows(draw(shapes(depth - 1))), max_size=3)
        else:
            shape[key] = SCALARS[kind]
    return shape


def rows(shape: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Row]:
    """Objects of a shape: any of the keys may be missing or null."""
    return st.fixed_dictionaries({}, optional={key: st.none() | values for key, values in shape.items()})


@dataclass(frozen=True)
class History:
    """Loads into one table, each in pages."""

    hints: dict[str, Any]
    loads: list[list[list[Row]]]


@st.composite
def histories(draw: st.DrawFn) -> History:
    disposition = draw(st.sampled_from(["append", "replace", "merge", {"disposition": "merge", "strategy": "upsert"}]))
    hints: dict[str, Any] = {"write_disposition": disposition}
    if draw(st.booleans()):
        hints["max_table_nesting"] = draw(st.integers(0, 2))
    merges = disposition not in ("append", "replace")
    if merges:
        hints["primary_key"] = "id"
    row = rows(draw(shapes()))
    loads = []
    for _ in range(draw(st.integers(1, 3))):
        # Without a second row of the same key: plain dlt leaves to chance which one stays.
        items = draw(st.dictionaries(st.integers(0, 12), row, max_size=10))
        page = draw(st.integers(1, 5))
        found = [{"id": number, **item} for number, item in items.items()]
        loads.append([found[start : start + page] for start in range(0, len(found), page)])
    return History(hints, loads)


def shop(history: History, pages: list[list[Row]]) -> Any:
    orders = dlt.resource(lambda: iter(pages), name="orders", **history.hints)
    return dlt.source(lambda: orders, name="shop", section="shop")()


def load(history: History, pipeline: dlt.Pipeline) -> None:
    """Loads a history as a location does."""
    for pages in history.loads:

        @dlt_assets(
            dlt_source=shop(history, pages),
            dlt_pipeline=pipeline,
            dagster_dlt_translator=SourceTranslator(source="shop"),
        )
        def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
            yield from dlt.run(context=context)

        dg.materialize([assets], resources={"dlt": IsolatedDltResource()})


def tables(pipeline: dlt.Pipeline) -> dict[str, Any]:
    """By table: its columns with their types, and its rows, in which ids are replaced by what they stand for."""
    with pipeline.sql_client() as client:
        columns: dict[str, dict[str, str]] = {}
        for table, column, data_type in (
            client.execute_sql(
                "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = %s "
                "ORDER BY table_name, column_name",
                pipeline.dataset_name,
            )
            or ()
        ):
            if not table.startswith("_dlt"):
                columns.setdefault(table, {})[column] = data_type
        loads = [load for (load,) in client.execute_sql("SELECT load_id FROM _dlt_loads ORDER BY inserted_at") or ()]
        stored: dict[str, list[Row]] = {}
        for table, types in columns.items():
            names = ", ".join(client.escape_column_name(name, casefold=False) for name in types)
            found = client.execute_sql(f"SELECT {names} FROM {client.make_qualified_table_name(table)}") or ()
            values = ([bytes(one) if isinstance(one, memoryview) else one for one in row] for row in found)
            stored[table] = [dict(zip(types, row, strict=True)) for row in values]
    by_id = {row["_dlt_id"]: row for found in stored.values() for row in found}

    def seen(row: Row) -> Row:
        plain = {name: value for name, value in row.items() if not name.startswith("_dlt") or name == "_dlt_list_idx"}
        if "_dlt_load_id" in row:
            plain["load"] = loads.index(row["_dlt_load_id"])
        for reference in ("_dlt_parent_id", "_dlt_root_id"):
            if reference in row:
                plain[reference] = seen(by_id[row[reference]])
        return plain

    return {
        table: {"columns": columns[table], "rows": sorted(repr(seen(row)) for row in found)}
        for table, found in stored.items()
    }


@pytest.mark.timeout(30 * HISTORIES)
def test_random_loads_arrive_as_with_plain_dlt(warehouse: Warehouse) -> None:
    number = count()

    @seed(SEED)
    @settings(
        max_examples=HISTORIES,
        phases=[Phase.generate, Phase.shrink] if HISTORIES > 8 else [Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(histories())
    def compare(history: History) -> None:
        n = next(number)
        plain, ours = (warehouse_pipeline(f"{name}_{n}", f"{name}_{n}") for name in ("plain", "ours"))
        for pages in history.loads:
            plain.run(shop(history, pages))
        load(history, ours)
        assert tables(ours) == tables(plain), f"AS_DLT_SEED={SEED}"

    compare()
