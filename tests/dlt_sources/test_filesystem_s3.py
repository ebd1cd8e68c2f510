"""Files in an S3-compatible bucket, with a real server and client, and the errors for wrong settings."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
import requests
from moto.server import ThreadedMotoServer

from dlt_sources.errors import PermanentSourceError, TransientSourceError
from dlt_sources.filesystem import filesystem_tables, list_files
from tests.dlt_sources.test_filesystem import TABLES, numbers
from tests.support.source_warehouse import SourceWarehouse

SECRET = "canary-4d1f"
PREFIX = "SOURCES__FILESYSTEM__CREDENTIALS__"


class Bucket:
    """The bucket `partner`, which the source reads below `in`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client: Any = boto3.client(
            "s3", endpoint_url=url, aws_access_key_id="key", aws_secret_access_key=SECRET, region_name="eu-central-1"
        )
        self.client.create_bucket(Bucket="partner", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})

    def put(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket="partner", Key=f"in/{name}", Body=content)


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    requests.post(f"{s3_server}/moto-api/reset-auth", data=b"inf", timeout=10)
    requests.post(f"{s3_server}/moto-api/reset", timeout=10)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    monkeypatch.setenv("SOURCES__FILESYSTEM__BUCKET_URL", "s3://partner/in/")
    monkeypatch.setenv(f"{PREFIX}AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv(f"{PREFIX}AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv(f"{PREFIX}ENDPOINT_URL", s3_server)
    monkeypatch.setenv(f"{PREFIX}REGION_NAME", "eu-central-1")
    return Bucket(s3_server)


def test_a_bucket_is_loaded_like_a_folder(bucket: Bucket, warehouse: SourceWarehouse) -> None:
    for table, file_format in TABLES.items():
        bucket.put(f"{table}/a.{file_format}", numbers(file_format, 1_100))
    bucket.put("orders/2026/01/b.csv", numbers("csv", 2))
    bucket.put("orders/.unfinished.csv", b"1,2\n1\n")
    bucket.put("orders/_temporary/c.csv", b"1,2\n1\n")
    bucket.put("orders/broken.csv", b"id\n1\n1,2\n")
    broken: dict[str, str] = {}

    assert warehouse.load(filesystem_tables(TABLES, broken)) == {"orders": 1_102, "clicks": 1_100, "stock": 1_100}
    assert broken == {"orders/broken.csv": "line 3: 2 fields, but the header has 1"}
    assert warehouse.load(filesystem_tables(TABLES, broken)) == {}

    bucket.put("orders/broken.csv", numbers("csv", 3))
    bucket.put("clicks/a.jsonl", numbers("jsonl", 5))
    assert warehouse.load(filesystem_tables(TABLES, broken)) == {"orders": 3, "clicks": 5}
    assert broken == {}
    assert [warehouse.value(f"SELECT count(*) FROM {table}") for table in TABLES] == [1_105, 5, 1_100]


def test_a_missing_folder_in_a_bucket_is_empty(bucket: Bucket) -> None:
    assert list_files({"orders": "csv"}) == {"orders": {}}


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        (
            "AWS_SECRET_ACCESS_KEY",
            "",
            f"{PREFIX}AWS_SECRET_ACCESS_KEY is missing, empty or a placeholder: the key's id and secret",
        ),
        (
            "AWS_ACCESS_KEY_ID",
            " ",
            f"{PREFIX}AWS_ACCESS_KEY_ID is missing, empty or a placeholder: the key's id and secret",
        ),
        ("ENDPOINT_URL", "nonsense", f"{PREFIX}ENDPOINT_URL must look like https://s3.example.com."),
        ("ENDPOINT_URL", f"http://me:{SECRET}@127.0.0.1", f"{PREFIX}ENDPOINT_URL must look like"),
    ],
)
def test_an_error_names_a_wrong_setting(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(f"{PREFIX}{variable}", value)
    with pytest.raises(PermanentSourceError) as error:
        list_files(TABLES)
    assert str(error.value).startswith(sentence)
    assert SECRET not in str(error.value)


def test_an_error_names_a_missing_key_and_role(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}AWS_ACCESS_KEY_ID", "")
    monkeypatch.delenv(f"{PREFIX}AWS_SECRET_ACCESS_KEY")
    with pytest.raises(PermanentSourceError, match="are missing, empty or placeholders, and this machine has no role"):
        list_files(TABLES)


def test_the_machines_own_key_is_used(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}AWS_ACCESS_KEY_ID", "")
    monkeypatch.setenv(f"{PREFIX}AWS_SECRET_ACCESS_KEY", "")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "role")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    bucket.put("orders/a.csv", b"id\n")
    assert list(list_files({"orders": "csv"})["orders"]) == ["orders/a.csv"]


def test_an_error_names_a_bucket_that_does_not_exist(
    bucket: Bucket, warehouse: SourceWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCES__FILESYSTEM__BUCKET_URL", "s3://nowhere/in")
    error = warehouse.load_error(filesystem_tables(TABLES))
    assert str(error).startswith("SOURCES__FILESYSTEM__BUCKET_URL: s3://nowhere/in does not exist")
    assert isinstance(error, PermanentSourceError)


def test_an_error_names_a_key_without_access(bucket: Bucket, warehouse: SourceWarehouse) -> None:
    requests.post(f"{bucket.url}/moto-api/reset-auth", data=b"0", timeout=10)  # from now on no key has access
    error = warehouse.load_error(filesystem_tables(TABLES))
    assert f"check {PREFIX}AWS_ACCESS_KEY_ID and its secret." in str(error)
    assert SECRET not in str(error)
    assert isinstance(error, PermanentSourceError)


def test_an_endpoint_that_does_not_answer_is_a_transient_error(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(TransientSourceError, match="s3://partner/in cannot be reached") as error:
        list_files(TABLES)
    assert SECRET not in str(error.value)
