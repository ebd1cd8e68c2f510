"""The files of the operations location: what loads, what a broken file does to a run, and what the sensor launches."""

import os
from importlib import import_module
from pathlib import Path

import dagster as dg
import pytest

from dlt_sources.errors import SourceError
from sandbox.files import make
from tests.support.location import Location

TABLES = ("deliveries", "clicks", "stock")


@pytest.fixture
def location(tmp_path: Path) -> Location:
    make(tmp_path / "files")
    return Location(
        "operations",
        "filesystem",
        tmp_path,
        FILESYSTEM_TABLES="deliveries:csv,clicks:jsonl,stock:parquet",
        SOURCES__FILESYSTEM__BUCKET_URL=str(tmp_path / "files"),
    )


@pytest.fixture
def files(location: Location) -> Path:
    return location.folder / "files"


def test_a_load_brings_all_files_and_later_loads_new_files(location: Location, files: Path) -> None:
    report = location.load(*TABLES)
    assert report["success"], report["failures"]
    assert report["rows"] == {"deliveries": 150, "clicks": 600, "stock": 180}
    assert report["checks"] == {
        f"{table}.{check}": True for table in report["rows"] for check in ("files_are_whole", "types_agree")
    }
    assert location.sql("SELECT count(*) FROM deliveries WHERE postcode LIKE '0%' AND length(postcode) = 5") != [(0,)]
    assert location.sql("SELECT count(*) FROM clicks WHERE user__country = 'JP'") != [(0,)]

    make(files, days=4)
    assert location.load(*TABLES)["rows"] == {"deliveries": 50, "clicks": 200, "stock": 60}
    assert location.sql("SELECT count(DISTINCT _file) FROM deliveries") == [(4,)]


def test_a_broken_file_fails_the_run_with_its_name_and_line_after_all_other_files_are_loaded(
    location: Location, files: Path
) -> None:
    (files / "deliveries/0.csv").write_text("id,note\n1\n")
    (files / "clicks/9.jsonl").write_text('{"id": 1}\n{"id"')
    report = location.load(*TABLES)
    assert not report["success"]
    assert report["rows"] == {"deliveries": 150, "clicks": 600, "stock": 180}
    [failure] = report["failures"]
    message = failure.partition("Stack Trace")[0]
    assert "2 broken files, all other files are loaded." in message
    assert "deliveries/0.csv, line 2: 1 fields, but the header has 2" in message
    assert "clicks/9.jsonl, line 2: not JSON" in message

    (files / "deliveries/0.csv").write_text("id,note\n1,mended\n")
    (files / "clicks/9.jsonl").unlink()
    report = location.load(*TABLES)
    assert report["success"], report["failures"]
    assert report["rows"] == {"deliveries": 1, "clicks": 0, "stock": 0}


def test_checks_find_missing_rows_duplicate_rows_and_values_of_another_type(location: Location, files: Path) -> None:
    (files / "clicks/9.jsonl").write_text('{"id": "9", "milliseconds": "many"}\n')
    report = location.load(*TABLES)
    assert report["success"], report["failures"]
    assert [name for name, passed in report["checks"].items() if not passed] == ["clicks.types_agree"]

    location.sql("DELETE FROM deliveries WHERE _file_row = 7")
    location.sql("DELETE FROM clicks WHERE _file_row = 1")
    location.sql("INSERT INTO stock SELECT * FROM stock LIMIT 1")
    checks = location.load(*TABLES)["checks"]
    assert sorted(name for name, passed in checks.items() if not passed) == [
        "clicks.files_are_whole",
        "clicks.types_agree",
        "deliveries.files_are_whole",
        "stock.files_are_whole",
    ]


def test_a_folder_may_have_the_name_of_an_sql_keyword(location: Location, files: Path) -> None:
    (files / "stock").rename(files / "order")
    location.environment["FILESYSTEM_TABLES"] = "order:parquet"
    report = location.load("order")

    assert report["success"], report["failures"]
    assert report["rows"] == {"order": 180}
    assert report["checks"] == {"order.files_are_whole": True, "order.types_agree": True}


def test_without_a_bucket_url_the_location_imports_and_a_run_names_the_variable(location: Location) -> None:
    location.environment["SOURCES__FILESYSTEM__BUCKET_URL"] = ""
    report = location.load(*TABLES)
    assert not report["success"]
    [failure] = report["failures"]
    assert "SOURCES__FILESYSTEM__BUCKET_URL is missing, empty or a placeholder" in failure.partition("Stack Trace")[0]


class Sensor:
    """The sensor and its cursor, which the daemon would store."""

    def __init__(self, files: Path) -> None:
        self.files = files
        self.cursor: str | None = None
        self.definition = import_module("code_locations.operations.filesystem").deliveries_on_new_files

    def tick(self) -> dict[str, list[str]]:
        """What a tick launches: run key → tables."""
        tick = self.definition.evaluate_tick(dg.build_sensor_context(cursor=self.cursor))
        self.cursor = tick.cursor or self.cursor
        assert tick.run_requests or "is new or has changed" in tick.skip_message
        return {request.run_key: [key.path[-1] for key in request.asset_selection] for request in tick.run_requests}


@pytest.fixture
def sensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sensor:
    monkeypatch.setenv("FILESYSTEM_TABLES", "deliveries:csv,clicks:jsonl,stock:parquet")  # read at the first import
    monkeypatch.setenv("SOURCES__FILESYSTEM__BUCKET_URL", str(tmp_path))
    return Sensor(tmp_path)


def test_the_sensor_is_off_by_default(sensor: Sensor) -> None:
    assert sensor.definition.default_status is dg.DefaultSensorStatus.STOPPED


def test_the_sensor_launches_each_change_exactly_once(sensor: Sensor) -> None:
    assert sensor.tick() == {}
    make(sensor.files)
    first = sensor.tick()
    assert list(first.values()) == [["deliveries", "clicks", "stock"]]
    assert sensor.tick() == {}

    before = sensor.cursor
    file = sensor.files / "deliveries" / "late.csv"
    file.write_text("id\n1\n")
    os.utime(file, (0, 0))  # older than all others
    second = sensor.tick()
    assert list(second.values()) == [["deliveries"]]
    after, sensor.cursor = sensor.cursor, before  # a tick that crashed before its cursor was stored
    assert sensor.tick() == second
    assert sensor.cursor == after

    file.write_text("id\n1\n2\n")
    third = sensor.tick()
    file.write_text("id\n1\n")
    os.utime(file, (0, 0))  # back to a state that was launched before, but the warehouse has a newer one
    fourth = sensor.tick()
    assert len(first | second | third | fourth) == 4


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "SOURCES__FILESYSTEM__BUCKET_URL is missing, empty or a placeholder"),
        ("/nowhere", "the folder /nowhere does not exist."),
        (
            "s3://bucket/in",
            "SOURCES__FILESYSTEM__CREDENTIALS__AWS_SECRET_ACCESS_KEY is missing, empty or a placeholder",
        ),
    ],
)
def test_a_failed_tick_says_what_to_change(
    sensor: Sensor, monkeypatch: pytest.MonkeyPatch, url: str, sentence: str
) -> None:
    monkeypatch.setenv("SOURCES__FILESYSTEM__BUCKET_URL", url)
    monkeypatch.setenv("SOURCES__FILESYSTEM__CREDENTIALS__AWS_ACCESS_KEY_ID", "canary-1c2d")
    with pytest.raises(SourceError, match=sentence) as error:
        sensor.tick()
    assert "canary" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("", "The list is empty."),
        ("orders", "must be a comma-separated list of table:format"),
        ("orders:csv,Kunden:csv", "Not valid: Kunden:csv."),
        ("orders:csv,orders:jsonl", "Listed twice: orders."),
    ],
)
def test_a_wrong_list_of_tables_is_rejected_with_the_reason(sensor: Sensor, value: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        import_module("code_locations.operations.filesystem").parse_tables(value)
