"""Which of dlt's own variables the pipelines obey."""

from pathlib import Path
from typing import Any

import dlt
import pytest

from runtime.load.warehouse import warehouse_pipeline


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    monkeypatch.delenv("WAREHOUSE", raising=False)
    monkeypatch.delenv("DESTINATION__DUCKDB__CREDENTIALS", raising=False)


def file() -> str:
    """The DuckDB file that a load would write."""
    credentials: Any = warehouse_pipeline("shop", "raw_shop").destination_client().config.credentials
    return Path(credentials.database).name


def test_without_a_setting_the_file_is_in_the_data_folder() -> None:
    assert file() == "warehouse.duckdb"


@pytest.mark.parametrize(
    "variable",
    [
        "DESTINATION__DUCKDB__CREDENTIALS",
        "DESTINATION__CREDENTIALS",
        "DESTINATION__DUCKDB__CREDENTIALS__DATABASE",
        "DESTINATION__CREDENTIALS__DATABASE",
        "SHOP__DESTINATION__DUCKDB__CREDENTIALS",
        "SHOP__DESTINATION__CREDENTIALS__DATABASE",
        "SHOP__CREDENTIALS",
    ],
)
def test_the_file_may_be_set_as_a_whole_or_as_a_part(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "mine.duckdb")

    assert file() == "mine.duckdb"


PREFIXES = ["DESTINATION__POSTGRES__", "DESTINATION__", "SHOP__DESTINATION__POSTGRES__", "SHOP__DESTINATION__", ""]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_options_are_defaults(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    monkeypatch.setenv("WAREHOUSE", "postgres")
    assert options() == (4, "insert-from-staging")
    monkeypatch.setenv(f"{prefix}MAX_PARALLEL_LOAD_JOBS", "7")
    monkeypatch.setenv(f"{prefix}REPLACE_STRATEGY", "staging-optimized")
    assert options() == (7, "staging-optimized")


def test_a_setting_of_the_pipeline_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAREHOUSE", "postgres")
    monkeypatch.setenv("DESTINATION__POSTGRES__MAX_PARALLEL_LOAD_JOBS", "7")
    monkeypatch.setenv("SHOP__DESTINATION__MAX_PARALLEL_LOAD_JOBS", "2")
    monkeypatch.setenv("SHOP__DESTINATION__POSTGRES__CREATE_INDEXES", "false")
    assert options()[0] == 2
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS", "postgresql://loader:x@localhost/x")
    config: Any = warehouse_pipeline("shop", "raw_shop").destination_client().config
    assert config.create_indexes is False


def test_0_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAREHOUSE", "postgres")
    with dlt.config.values({"destination.postgres.max_parallel_load_jobs": 0}):
        assert options()[0] == 0


def options() -> tuple[int | None, str | None]:
    destination = warehouse_pipeline("shop", "raw_shop").destination
    return destination.capabilities().max_parallel_load_jobs, destination.config_params.get("replace_strategy")
