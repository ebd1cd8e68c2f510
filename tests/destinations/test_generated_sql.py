"""Warehouses in the cloud: what can be checked offline. Configuration, names, staging, and the statements dlt sends."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import dlt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from runtime.load.directories import data_directory
from runtime.load.locks import staging_client
from runtime.load.pipeline import run_pipeline
from runtime.load.sweep import staging_folder, staging_layout
from runtime.load.warehouse import warehouse_pipeline

KEY = (
    rsa.generate_private_key(public_exponent=65537, key_size=2048)
    .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    .decode()
)
S3 = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "-", "REGION_NAME": "eu-central-1"}
ODBC = "?driver=ODBC+Driver+18+for+SQL+Server"

# The variables `DESTINATION__<NAME>__…`, and what a table and that of a run's staging dataset are called.
VARIABLES: Mapping[str, Mapping[str, str]] = {
    "bigquery": {"CREDENTIALS__PROJECT_ID": "dw", "CREDENTIALS__PRIVATE_KEY": KEY, "CREDENTIALS__CLIENT_EMAIL": "l@dw"},
    "clickhouse": {"CREDENTIALS": "clickhouse://loader:-@localhost:9440/dw"},
    "databricks": {
        "CREDENTIALS__SERVER_HOSTNAME": "host",
        "CREDENTIALS__HTTP_PATH": "/sql",
        "CREDENTIALS__ACCESS_TOKEN": "-",
        "CREDENTIALS__CATALOG": "dw",
    },
    "motherduck": {"CREDENTIALS": "md:///dw?token=-"},
    "mssql": {"CREDENTIALS": f"mssql://loader:-@localhost/dw{ODBC}"},
    "redshift": {"CREDENTIALS": "redshift://loader:-@localhost/dw"},
    "snowflake": {"CREDENTIALS": "snowflake://loader:-@host/DW?warehouse=W&role=R"},
    "synapse": {"CREDENTIALS": f"synapse://loader:-@localhost/dw{ODBC}"},
    "athena": {"QUERY_RESULT_BUCKET": "s3://results"} | {f"CREDENTIALS__{name}": value for name, value in S3.items()},
}
TABLES = {
    "bigquery": "`dw`.`{}`.`issues`",
    "clickhouse": "`dw`.`{}___issues`",
    "databricks": "`dw`.`{}`.`issues`",
    "motherduck": '"dw"."{}"."issues"',
    "mssql": '"{}"."issues"',
    "redshift": '"{}"."issues"',
    "snowflake": '"{}"."ISSUES"',
    "synapse": '"{}"."issues"',
}


@pytest.fixture
def pipeline(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dlt.Pipeline:
    name: str = request.param
    monkeypatch.setenv("WAREHOUSE", name)
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv(f"DESTINATION__{name.upper()}__REPLACE_STRATEGY", "insert-from-staging")
    for variable, value in VARIABLES[name].items():
        monkeypatch.setenv(f"DESTINATION__{name.upper()}__{variable}", value)
    monkeypatch.setenv("DESTINATION__FILESYSTEM__BUCKET_URL", "s3://lake/stage")
    for variable, value in S3.items():
        monkeypatch.setenv(f"DESTINATION__FILESYSTEM__CREDENTIALS__{variable}", value)
    pipeline = warehouse_pipeline("issues", "raw_github")
    try:
        assert pipeline.destination.client_class
    except ImportError as error:  # pyodbc needs a library of the system
        pytest.skip(f"{error}: apt-get install unixodbc")
    return pipeline


class Loaded:
    """What a run of the pipeline would load issues with labels with: its client, its folder, its staging dataset."""

    def __init__(self, pipeline: dlt.Pipeline, **hints: Any) -> None:
        @dg.op
        def step(context: dg.OpExecutionContext) -> None:
            run_id, step_key = context.run.run_id, str(context.op_handle)
            self.folder = staging_folder(run_id, step_key)
            self.staging_dataset = staging_layout("raw_github", run_id, step_key) % "raw_github"
            with run_pipeline(pipeline, context) as own:
                self.destination, self.staging, self.files = own.destination, own.staging, staging_client(own)

        @dg.job
        def run() -> None:
            step()

        assert run.execute_in_process().success
        issues = [{"id": 1, "at": "2026-01-31T12:00:00Z", "labels": [{"name": "bug"}]}]
        like: Any = {"destination": self.destination, "staging": self.staging, "dataset_name": "raw_github"}
        normalizing = dlt.pipeline("like", pipelines_dir=str(data_directory("like")), **like)
        normalizing.extract(dlt.resource(issues, name="issues", primary_key="id", **hints), schema=dlt.Schema("github"))
        normalizing.normalize()
        self.client: Any = normalizing._get_destination_clients(normalizing.schemas["github"])[0]
        columns = list(self.client.schema.tables["issues"]["columns"].values())
        self.created = " ".join(self.client._get_table_update_sql("issues", columns, False))


def sql_of(jobs: Any) -> str:
    return "\n".join(Path(job.new_file_path()).read_text() for job in jobs)


@pytest.mark.parametrize("pipeline", sorted(TABLES), indirect=True)
def test_statements_name_the_dataset_and_the_staging_of_the_run(pipeline: dlt.Pipeline) -> None:
    name = pipeline.destination.destination_name
    loaded = Loaded(pipeline, write_disposition="merge")
    chain = [loaded.client.prepare_load_table(table) for table in ("issues", "issues__labels")]
    datasets = ("raw_github", loaded.staging_dataset)
    table, staged = (TABLES[name].format(one.upper() if name == "snowflake" else one) for one in datasets)

    merge = sql_of(loaded.client._create_merge_followup_jobs(chain))
    replaced = [table | {"x-replace-strategy": loaded.client.config.replace_strategy} for table in chain]
    assert table in loaded.created
    assert table in merge
    assert staged in merge
    assert staged in sql_of(loaded.client._create_replace_followup_jobs(replaced))


STAGED = ["bigquery", "clickhouse", "databricks", "redshift", "snowflake", "synapse"]


@pytest.mark.parametrize("pipeline", STAGED, indirect=True)
def test_files_are_staged_in_a_folder_of_the_run(pipeline: dlt.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESTINATION__FILESYSTEM__LAYOUT", "files/{table_name}/{load_id}.{file_id}.{ext}")
    staging: Any = dlt.destinations.filesystem()
    pipeline.staging = staging
    loaded = Loaded(pipeline)

    assert loaded.files
    assert loaded.files.get_table_dir("issues") == f"lake/stage/raw_github/{loaded.folder}/files/issues/"
    assert loaded.client.config.staging_config.layout == loaded.files.config.layout


@pytest.mark.parametrize("pipeline", ["athena"], indirect=True)
def test_the_files_of_athena_stay_because_they_are_its_tables(pipeline: dlt.Pipeline) -> None:
    staging: Any = dlt.destinations.filesystem()
    pipeline.staging = staging
    loaded = Loaded(pipeline, write_disposition="append")

    assert "`awsdatacatalog`.`raw_github`.`issues`" in loaded.created
    assert "LOCATION 's3://lake/stage/raw_github/issues/'" in loaded.created
    assert loaded.files is None
