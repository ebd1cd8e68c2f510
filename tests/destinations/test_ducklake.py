"""DuckLake: its catalog in Postgres, its files in a folder. Its extension comes as a package, for DuckDB 1.5.5."""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dagster as dg
import dlt
import pytest
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType

from runtime.load.checks import primary_key_checks
from runtime.load.resource import IsolatedDltResource
from runtime.load.warehouse import warehouse_pipeline
from tests.support.database import Database
from tests.support.tallies import DATASET, GOODS, SHOPS, load_at_once

EXTENSIONS = ("ducklake", "postgres_scanner")
INSTALL = "import sys, duckdb; [duckdb.execute(f\"INSTALL '{file}'\") for file in sys.argv[1:]]"

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def lake(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """An empty lake as the warehouse."""
    folders = [find_spec(f"duckdb_extension_{name}") for name in EXTENSIONS]
    files = [next(Path(one.origin).parent.rglob("*.duckdb_extension")) for one in folders if one and one.origin]
    if len(files) < len(EXTENSIONS):
        pytest.skip("the extension of DuckLake is not installed: make test-destinations")
    for name, value in {
        "HOME": str(tmp_path),  # where DuckDB installs extensions
        "WAREHOUSE": "ducklake",
        "DLT_DATA_DIR": str(tmp_path / "dlt"),
        "DESTINATION__DUCKLAKE__CREDENTIALS__CATALOG": database.url,
        "DESTINATION__DUCKLAKE__CREDENTIALS__STORAGE__BUCKET_URL": str(tmp_path / "lake"),
    }.items():
        monkeypatch.setenv(name, value)
    subprocess.run([sys.executable, "-c", INSTALL, *files], env=dict(os.environ), check=True, timeout=60)
    return database


def rows(table: str, dataset: str = DATASET) -> list[dict[str, Any]]:
    with (
        warehouse_pipeline("reader", dataset).sql_client() as client,
        client.execute_query(f"SELECT * FROM {client.make_qualified_table_name(table)}") as cursor,
    ):
        found = cursor.df()
        assert found is not None
        return list(found.to_dict("records"))


def test_partitions_at_once_keep_all_their_rows(lake: Database) -> None:
    goods = len(SHOPS) * GOODS
    for number in (1, 2):
        load_at_once()

        counts = {table: len(rows(table)) for table in ("goods", "goods__labels", "sales")}
        assert counts == {"goods": goods, "goods__labels": goods * 2, "sales": goods * number}
        assert len({(row["shop"], row["id"]) for row in rows("goods")}) == goods


@pytest.mark.parametrize("disposition", ["replace", "merge"])
def test_a_second_load_changes_what_it_says(lake: Database, disposition: Any) -> None:
    for prices in ([{"id": 1, "price": 1}, {"id": 2, "price": 2}], [{"id": 2, "price": 3}]):

        @dlt.source(name="prices", section="prices")
        def source(rows: Any = tuple(prices)) -> Any:
            return dlt.resource(list(rows), name="prices", write_disposition=disposition, primary_key="id")

        @dlt_assets(dlt_source=source(), dlt_pipeline=warehouse_pipeline("prices", "raw_prices"), name="prices")
        def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
            yield from dlt.run(context=context).fetch_row_count()

        result = dg.materialize([assets, primary_key_checks(assets)], resources={"dlt": IsolatedDltResource()})

        assert all(check.passed for check in result.get_asset_check_evaluations())
        [asset] = result.asset_materializations_for_node("prices")
        assert asset.metadata["dagster/row_count"].value == len(rows("prices", "raw_prices"))
    kept = {1: 1} if disposition == "merge" else {}
    assert {row["id"]: row["price"] for row in rows("prices", "raw_prices")} == kept | {2: 3}
