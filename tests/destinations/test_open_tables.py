"""Delta and Iceberg tables on `filesystem`, in a folder and on an S3 server."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import dlt
import pytest
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType
from dlt.destinations.impl.filesystem.filesystem import FilesystemClient
from tenacity import Retrying, stop_after_delay, wait_fixed

from runtime.load.resource import IsolatedDltResource
from runtime.load.warehouse import stored_schemas, warehouse_pipeline
from tests.support.stack import free_port
from tests.support.tallies import DATASET, GOODS, SHOPS, load_at_once

CREDENTIALS = {"aws_access_key_id": "key", "aws_secret_access_key": "canary-4d1f", "region_name": "eu-central-1"}


@pytest.fixture(params=["delta", "iceberg"])
def table_format(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TALLIES_FORMAT", request.param)
    return str(request.param)


@pytest.fixture
def bucket_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder that WAREHOUSE=filesystem loads into."""
    monkeypatch.setenv("WAREHOUSE", "filesystem")
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    monkeypatch.setenv("DESTINATION__FILESYSTEM__BUCKET_URL", str(tmp_path / "lake"))
    return str(tmp_path / "lake")


@pytest.fixture
def s3_bucket(bucket_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A bucket in its place, on a server of its own: while deltalake reads, no other thread of its process runs."""
    port = free_port()
    settings = {**CREDENTIALS, "endpoint_url": f"http://127.0.0.1:{port}"}
    for name, value in settings.items():
        monkeypatch.setenv(f"DESTINATION__FILESYSTEM__CREDENTIALS__{name.upper()}", value)
    monkeypatch.setenv("DESTINATION__FILESYSTEM__BUCKET_URL", "s3://lake/raw")
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        client: Any = boto3.client("s3", **settings)
        for attempt in Retrying(stop=stop_after_delay(60), wait=wait_fixed(0.2), reraise=True):
            with attempt:
                client.create_bucket(Bucket="lake", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        yield
        server.terminate()


def rows(table_format: Any, table: str, source: str = "tallies", dataset: str = DATASET) -> list[Any]:
    """The rows of a table, as the library of its format reads them."""
    pipeline = warehouse_pipeline("reader", dataset)
    schema = next(stored_schemas(pipeline, source))
    client = pipeline._get_destination_clients(schema)[0]
    assert isinstance(client, FilesystemClient)
    found = client.load_open_table(table_format, table)
    return list((found.to_pyarrow_table() if table_format == "delta" else found.scan().to_arrow()).to_pylist())


@pytest.mark.timeout(800)
@pytest.mark.parametrize("place", ["bucket_url", "s3_bucket"])
def test_partitions_at_once_keep_all_their_rows(place: str, table_format: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(place)
    goods = len(SHOPS) * GOODS
    for number in (1, 2):
        load_at_once()

        counts = {table: len(rows(table_format, table)) for table in ("goods", "goods__labels", "sales")}
        assert counts == {"goods": goods, "goods__labels": goods * 2, "sales": goods * number}
        assert len({(row["shop"], row["id"]) for row in rows(table_format, "goods")}) == goods


@pytest.mark.timeout(400)
@pytest.mark.filterwarnings("ignore:Delete operation did not match any records")  # pyiceberg's, of an empty table
def test_a_replaced_table_has_the_rows_of_the_last_load(bucket_url: str, table_format: Any) -> None:
    for number in (3, 2):

        @dlt.source(name="prices", section="prices")
        def prices(number: int = number) -> Any:
            yield dlt.resource(
                [{"id": i, "steps": [i]} for i in range(number)],
                name="prices",
                write_disposition="replace",
                table_format=table_format,
            )

        @dlt_assets(dlt_source=prices(), dlt_pipeline=warehouse_pipeline("prices", "raw_prices"), name="prices")
        def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
            yield from dlt.run(context=context)

        assert dg.materialize([assets], resources={"dlt": IsolatedDltResource()}).success
        for table in ("prices", "prices__steps"):
            assert len(rows(table_format, table, "prices", "raw_prices")) == number
