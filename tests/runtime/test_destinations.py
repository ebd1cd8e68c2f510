"""Destinations beside DuckDB and Postgres: files, and as much of Snowflake as can be had without an account."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import dlt
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from dagster_dlt import DagsterDltResource, dlt_assets
from dagster_dlt.dlt_event_iterator import DltEventType
from dlt.common.destination.client import DestinationClientDwhConfiguration
from dlt.destinations.impl.snowflake.configuration import SnowflakeClientConfiguration
from dlt.destinations.sql_client import WithSqlClient
from dlt.pipeline.exceptions import PipelineStepFailed
from moto.server import ThreadedMotoServer

from runtime.load.checks import primary_key_checks
from runtime.load.directories import data_directory
from runtime.load.metadata import qualified_name
from runtime.load.resource import IsolatedDltResource
from runtime.load.translator import SourceTranslator
from runtime.load.warehouse import OPTIONS, query_int, warehouse_pipeline
from tests.support.colours import colours, colours_assets
from tests.support.paths import ROOT
from tests.support.snowflake_emulator import install_emulator, running_emulator

PREFIX = "DESTINATION__SNOWFLAKE__CREDENTIALS__"


def snowflake_config(pipeline: dlt.Pipeline) -> SnowflakeClientConfiguration:
    config = pipeline.destination_client().config
    assert isinstance(config, SnowflakeClientConfiguration)
    return config


@pytest.fixture
def snowflake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The variables of an account that signs in with a password."""
    monkeypatch.setenv("WAREHOUSE", "snowflake")
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    for name, value in {
        "HOST": "kgiotue-wn98412",
        "DATABASE": "ANALYTICS",
        "USERNAME": "LOADER",
        "PASSWORD": "canary-4d1f",
        "WAREHOUSE": "LOADING",
        "ROLE": "LOADER_ROLE",
    }.items():
        monkeypatch.setenv(PREFIX + name, value)
    return monkeypatch


def test_snowflake_takes_the_variables_of_the_example(snowflake: pytest.MonkeyPatch) -> None:
    config = snowflake_config(warehouse_pipeline("colours", "raw_colours"))

    parameters = config.credentials.to_connector_params()
    assert {name: parameters[name] for name in ("account", "database", "user", "password", "warehouse", "role")} == {
        "account": "kgiotue-wn98412",
        "database": "ANALYTICS",
        "user": "LOADER",
        "password": "canary-4d1f",
        "warehouse": "LOADING",
        "role": "LOADER_ROLE",
    }
    assert config.replace_strategy == "insert-from-staging"


@pytest.mark.parametrize("variable", ["PRIVATE_KEY", "PRIVATE_KEY_PATH"])
def test_snowflake_takes_a_key_pair(snowflake: pytest.MonkeyPatch, tmp_path: Path, variable: str) -> None:
    encoding, pkcs8 = serialization.Encoding, serialization.PrivateFormat.PKCS8
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(encoding.PEM, pkcs8, serialization.BestAvailableEncryption(b"canary-4d1f")).decode()
    path = tmp_path / "key.p8"
    path.write_text(pem)
    one_line = "".join(pem.splitlines()[1:-1])  # a line of .env
    snowflake.delenv(f"{PREFIX}PASSWORD")
    snowflake.setenv(PREFIX + variable, one_line if variable == "PRIVATE_KEY" else str(path))
    snowflake.setenv(f"{PREFIX}PRIVATE_KEY_PASSPHRASE", "canary-4d1f")

    parameters = snowflake_config(warehouse_pipeline("colours", "raw_colours")).credentials.to_connector_params()

    assert parameters["private_key"] == key.private_bytes(encoding.DER, pkcs8, serialization.NoEncryption())
    assert not parameters["password"]
    assert "canary-4d1f" not in str(parameters)


def test_assets_in_snowflake_have_its_kind(snowflake: pytest.MonkeyPatch) -> None:
    assert all({"dlt", "snowflake", "colours"} == spec.kinds for spec in colours_assets().specs)


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The credentials of a running emulator of Snowflake."""
    try:
        python = install_emulator()
    except (OSError, subprocess.SubprocessError) as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"fakesnow cannot be installed: {error}")
    with running_emulator(python, tmp_path_factory.mktemp("fakesnow") / "log") as credentials:
        yield credentials


@pytest.mark.filterwarnings("ignore:enable_server_session_keep_alive_auto_detection:FutureWarning")  # dlt sets neither
def test_a_load_reaches_the_emulator_as_far_as_its_stage(emulator: str, tmp_path: Path) -> None:
    """fakesnow takes neither several statements at once, which dlt can do without, nor a stage's name in quotes."""
    pipeline = dlt.pipeline(
        "colours",
        dataset_name="raw_colours",
        destination=dlt.destinations.snowflake(emulator, supports_multiple_statements=False, **OPTIONS["snowflake"]),
        pipelines_dir=str(tmp_path),
    )
    with pytest.raises(PipelineStepFailed, match="does not start with @"):
        pipeline.run(colours("red"))

    with pipeline.sql_client() as client:
        columns = client.execute_sql(
            "SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns "
            "WHERE table_name LIKE 'THINGS%' AND column_name NOT LIKE '_DLT%' ORDER BY 1, 2, 3"
        )
    assert columns == [
        (dataset, *column)
        for dataset in ("RAW_COLOURS", "RAW_COLOURS_STAGING")
        for column in (("THINGS", "COLOUR", "TEXT"), ("THINGS", "ID", "NUMBER"), ("THINGS__PARTS", "N", "NUMBER"))
    ]
    assert qualified_name(pipeline, pipeline.default_schema, "things") == "ANALYTICS.RAW_COLOURS.THINGS"


@dlt.source(name="readings", section="readings")
def readings(sensor: str = "a", number: int = 2) -> Any:
    """What sensors have measured, appended; which sensors there are, replaced; and how often they were read."""

    @dlt.resource(name="measures", write_disposition="append", primary_key=["sensor", "load"])
    def read_measures() -> Iterator[Any]:
        """What a sensor has measured."""
        state = dlt.current.resource_state()
        state["loads"] = state.get("loads", 0) + 1
        yield [{"sensor": sensor, "load": state["loads"] * 100 + i, "digits": [1, 2]} for i in range(number)]

    @dlt.resource(name="sensors", write_disposition="replace", primary_key="sensor")
    def read_sensors() -> Iterator[Any]:
        """Which sensors there are."""
        yield {"sensor": sensor, "places": ["here", "there"]}

    return read_measures, read_sensors


def readings_assets(partitions_def: dg.PartitionsDefinition[str] | None = None) -> dg.AssetsDefinition:
    @dlt_assets(
        dlt_source=readings().with_resources("measures") if partitions_def else readings(),
        dlt_pipeline=warehouse_pipeline("measured", "raw_readings"),
        name="readings",
        dagster_dlt_translator=SourceTranslator(source="readings"),
        partitions_def=partitions_def,
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        if context.has_partition_key:
            yield from dlt.run(context=context, dlt_source=readings(context.partition_key).with_resources("measures"))
        else:
            yield from dlt.run(context=context).fetch_row_count()

    return assets


def read_all() -> dg.ExecuteInProcessResult:
    """Loads both tables, counts and checks them."""
    assets = readings_assets()
    return dg.materialize([assets, primary_key_checks(assets)], resources={"dlt": IsolatedDltResource()})


def read_one(sensor: str) -> bool:
    """Loads one sensor, which is a partition."""
    assets = readings_assets(dg.StaticPartitionsDefinition(["a", "b", "c"]))
    return dg.materialize([assets], partition_key=sensor, resources={"dlt": IsolatedDltResource()}).success


def rows_of(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    [event] = [e for e in result.get_asset_materialization_events() if e.asset_key == dg.AssetKey(["readings", asset])]
    return {name: value.value for name, value in event.materialization.metadata.items()}


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that WAREHOUSE=filesystem loads into."""
    monkeypatch.setenv("WAREHOUSE", "filesystem")
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    monkeypatch.setenv("DESTINATION__FILESYSTEM__BUCKET_URL", str(tmp_path / "lake"))
    return tmp_path / "lake"


def test_parquet_files_are_appended_and_replaced_and_can_be_counted(lake: Path, tmp_path: Path) -> None:
    read_all()
    result = read_all()

    measures, sensors = rows_of(result, "measures"), rows_of(result, "sensors")
    assert (measures["rows_loaded"], measures["rows_loaded/measures__digits"], measures["dagster/row_count"]) == (
        2,
        4,
        4,
    )
    assert (sensors["rows_loaded"], sensors["dagster/row_count"]) == (1, 1)
    assert measures["dagster/table_name"] == "raw_readings.measures"
    assert [check.passed for check in result.get_asset_check_evaluations()] == [True, True]
    reader = warehouse_pipeline("reader", "raw_readings")
    assert query_int(reader, "SELECT count(*) FROM sensors__places") == 2
    assert query_int(reader, "SELECT max(load) FROM measures WHERE sensor = %s", "a") == 201  # the state was read back
    assert query_int(reader, "SELECT count(*) FROM _dlt_loads WHERE status = 0") == 2
    assert query_int(reader, "SELECT count(*) FROM never_loaded") is None
    assert {path.suffix for path in (lake / "raw_readings" / "measures").iterdir()} == {".parquet"}
    assert [path.name for path in lake.iterdir()] == ["raw_readings"]
    assert list((tmp_path / "dlt" / "runs").iterdir()) == []


def test_a_key_that_is_there_twice_in_the_files_fails_its_check(lake: Path) -> None:
    read_all()
    [file] = (lake / "raw_readings" / "measures").iterdir()
    shutil.copy(file, file.with_name("again.parquet"))
    result = read_all()

    checks = {check.asset_key.path[-1]: check for check in result.get_asset_check_evaluations()}
    assert not checks["measures"].passed
    assert checks["measures"].metadata["bad primary keys in measures"].value == 2
    assert checks["sensors"].passed


def test_runs_at_once_append_all_their_rows(lake: Path) -> None:
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        for _ in range(2):
            assert list(pool.map(read_one, ["a", "b", "c"])) == [True] * 3

    reader = warehouse_pipeline("reader", "raw_readings")
    assert query_int(reader, "SELECT count(*) FROM measures") == 12
    assert query_int(reader, "SELECT count(DISTINCT (sensor, load)) FROM measures") == 12
    assert query_int(reader, "SELECT count(*) FROM measures__digits") == 24


@pytest.fixture
def s3_server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def test_a_bucket_takes_files_too(s3_server: str, lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "canary-4d1f", "region_name": "eu-central-1"}
    for name, value in {**keys, "endpoint_url": s3_server}.items():
        monkeypatch.setenv(f"DESTINATION__FILESYSTEM__CREDENTIALS__{name.upper()}", value)
    monkeypatch.setenv("DESTINATION__FILESYSTEM__BUCKET_URL", "s3://lake/raw")
    client: Any = boto3.client("s3", endpoint_url=s3_server, **keys)
    client.create_bucket(Bucket="lake", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})

    assert all(read_one(sensor) for sensor in ("a", "b", "a"))

    names = [item["Key"] for item in client.list_objects_v2(Bucket="lake")["Contents"]]
    files = [name for name in names if name.startswith("raw/raw_readings/measures/")]
    rows = [pq.read_table(BytesIO(client.get_object(Bucket="lake", Key=name)["Body"].read())) for name in files]
    loaded = [(row["sensor"], row["load"]) for table in rows for row in table.to_pylist()]
    assert sorted(loaded) == [("a", 100), ("a", 101), ("a", 200), ("a", 201), ("b", 100), ("b", 101)]


@dlt.source(name="orders", section="orders")
def orders(cursor: bool = False) -> Any:
    """Orders, appended, and which kinds there are, replaced."""
    from_last = dlt.sources.incremental[int]("id") if cursor else None

    @dlt.resource(name="orders", write_disposition="append", primary_key="id")
    def read_orders(moment: Any = from_last) -> Iterator[Any]:
        assert not dlt.current.resource_state().get("page")  # looks at the state, and keeps nothing there
        yield [{"id": i, "lines": [{"n": 1}, {"n": 2}]} for i in range(25)]

    @dlt.resource(name="kinds", write_disposition="replace")
    def read_kinds() -> Iterator[Any]:
        yield {"kind": "book"}

    return read_orders, read_kinds


def send(
    sink: Any,
    source: Any = None,
    resource: DagsterDltResource | None = None,
    partition: str | None = None,
    dataset_name: Any = None,
) -> dg.ExecuteInProcessResult:
    """Loads orders into a custom destination."""

    @dlt_assets(
        dlt_source=source or orders(),
        dlt_pipeline=dlt.pipeline(
            "sent", destination=sink, dataset_name=dataset_name, pipelines_dir=str(data_directory("import"))
        ),
        name="sent",
        dagster_dlt_translator=SourceTranslator(source="readings"),
        partitions_def=dg.StaticPartitionsDefinition(["east", "west"]) if partition else None,
    )
    def assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[DltEventType]:
        yield from dlt.run(context=context)

    resources = {"dlt": resource or IsolatedDltResource()}
    return dg.materialize([assets], partition_key=partition, resources=resources, raise_on_error=False)


class Sink:
    """Receives batches of rows, as `destination()` calls it. Fails after it has received batch number `fails_after`."""

    def __init__(self, fails_after: int = 0) -> None:
        self.batches: list[tuple[str, list[Any]]] = []
        self.fails_after = fails_after

    def destination(self, **options: Any) -> Any:
        @dlt.destination(**options)
        def sink(items: Any, table: Any) -> None:
            rows = items if isinstance(items, list) else items.to_pylist()
            self.batches.append((table["name"], [row.get("id", row) for row in rows]))
            if len(self.batches) == self.fails_after:
                raise ConnectionError("the sink is away")

        return sink

    def rows(self, table: str) -> list[Any]:
        return [row for name, batch in self.batches if name == table for row in batch]


@pytest.mark.parametrize("dataset_name", [None, "raw_orders"])
@pytest.mark.parametrize("options", [{}, {"loader_file_format": "parquet"}])
def test_a_custom_destination_gets_what_it_gets_from_dagster_dlt(
    lake: Path, tmp_path: Path, dataset_name: str | None, options: dict[str, Any]
) -> None:
    """Each run sends all rows once, because nothing is stored of the runs before."""
    ours, stock = Sink(), Sink()
    for number in (1, 2):
        result = send(ours.destination(**options), dataset_name=dataset_name)
        assert result.success
        assert send(stock.destination(**options), resource=DagsterDltResource(), dataset_name=dataset_name).success

        for table, rows in {"orders": [*range(25)], "kinds": [{"kind": "book"}]}.items():
            assert ours.rows(table) == stock.rows(table) == rows * number

    sent = rows_of(result, "orders")
    assert sent["rows_loaded"] == 25
    assert sent["dagster/table_name"] == ("raw_orders.orders" if dataset_name else "orders")
    assert list((tmp_path / "dlt" / "runs").iterdir()) == []


def test_a_custom_destination_that_fails_gets_only_that_batch_again(lake: Path) -> None:
    """As dlt promises: each batch at least once. A load that is retried goes on after the batches that were taken."""
    sink = Sink(fails_after=2)

    assert send(sink.destination(max_parallel_load_jobs=1), orders().with_resources("orders")).success

    assert [batch[0] for _, batch in sink.batches] == [0, 10, 10, 20]


@pytest.mark.parametrize(
    ("source", "partition", "why"),
    [
        (orders(cursor=True), None, "cursors or other state, which sink cannot store"),
        (orders(cursor=True).with_resources("orders"), "east", "cursors or other state, which sink cannot store"),
        (orders(), "east", "kinds would replace the whole table, including the rows of all other partitions"),
    ],
)
def test_a_custom_destination_takes_no_cursors_and_no_partition_of_what_is_replaced(
    lake: Path, source: Any, partition: str | None, why: str
) -> None:
    sink = Sink()
    [event] = send(sink.destination(), source, partition=partition).get_step_failure_events()

    error = event.step_failure_data.error
    assert error is not None
    assert why in error.message
    assert sink.batches == []


def test_a_custom_destination_takes_partitions_without_cursors(lake: Path) -> None:
    sink = Sink()

    for partition in ("east", "west"):
        assert send(sink.destination(), orders().with_resources("orders"), partition=partition).success

    assert sink.rows("orders") == [*range(25)] * 2


MERGES = {"delete-insert", "upsert", "scd2", "insert-only", "cdc"}


def row_of(name: str) -> dict[str, str]:
    """What docs/warehouses.md has to say of a destination, as far as dlt knows it without its package."""
    destination = getattr(dlt.destinations, name)()
    caps, plain = destination.capabilities(), {"name": "table", "columns": {}}
    merges, replaces = caps.supported_merge_strategies, caps.supported_replace_strategies or []
    by_itself = not merges
    if caps.merge_strategies_selector:
        merges = caps.merge_strategies_selector(merges, table_schema=plain)
    if caps.replace_strategies_selector:
        replaces = caps.replace_strategies_selector(replaces, table_schema=plain)
    keeps_state = issubclass(destination.spec, DestinationClientDwhConfiguration)
    stages = "insert-from-staging" in replaces
    from_staging = OPTIONS.get(name, {}).get("replace_strategy") == "insert-from-staging"
    row = {
        "partitions at once": "yes" if keeps_state else "without cursors",
        "merge": "by itself" if by_itself else "all" if set(merges) == MERGES else ", ".join(sorted(merges)) or "no",
        "replace": "from staging" if from_staging else "truncates" + " ¹" * stages if replaces else "by itself",
        "own staging": "yes" if stages else "none",
        "refused": "cursors"
        if not keeps_state
        else "nothing"
        if "delete-insert" in merges
        else "merge without a strategy"
        if merges
        else "merge into plain tables",
    }
    with suppress(ImportError):  # the package of the destination, or a library that it needs, is not installed
        row["rows counted"] = "yes" if issubclass(destination.client_class, WithSqlClient) else "as sent"
    return row


@pytest.mark.parametrize("name", sorted(set(dlt.destinations.__all__) - {"dummy"}))  # which stores nothing
def test_the_page_on_warehouses_says_what_dlt_can(name: str) -> None:
    lines = (ROOT / "docs" / "warehouses.md").read_text().splitlines()
    [header] = [line for line in lines if line.startswith("| destination |")]
    columns = [cell.strip() for cell in header.strip("|").split("|")]
    [line] = [line for line in lines if line.startswith(f"| `{name}` | ") and line.count("|") == header.count("|")]
    row = dict(zip(columns, (cell.strip() for cell in line.strip("|").split("|")), strict=True))

    assert row | row_of(name) == row
