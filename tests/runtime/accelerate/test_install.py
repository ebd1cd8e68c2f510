"""`install()` patches the libraries once, with the tested versions only, and never when it is switched off."""

import logging
import subprocess
import sys
import tomllib

import pytest

from runtime import accelerate
from tests.support.paths import ROOT

REPLACED = {
    "dagster_postgres.event_log.event_log.create_pg_engine",
    "dagster_postgres.run_storage.run_storage.create_pg_engine",
    "dagster_postgres.schedule_storage.schedule_storage.create_pg_engine",
    "dlt.common.data_writers.writers.ParquetDataWriter.write_data",
    "dlt.normalize.worker.JsonLItemsNormalizer",
    "runtime.instance.server.LocationServer.process_context",
}

# Prints which names of the libraries' modules and classes hold something else after `install()` than before.
COMPARE = """
import sys
from runtime import accelerate
from runtime.accelerate import connections, forks, normalizer, parquet

def names():
    found = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in ("dagster", "dagster_dlt", "dagster_postgres", "dlt", "runtime"):
            continue
        for key, value in list(vars(module).items()):
            found[f"{name}.{key}"] = value
            if isinstance(value, type) and value.__module__ == name:
                found |= {f"{name}.{key}.{inner}": one for inner, one in vars(value).items()}
    return found

before = names()
accelerate.install()
first = names()
accelerate.install()
second = names()
print(*sorted(name for name, value in before.items() if first[name] is not value))
print(*sorted(name for name, value in first.items() if second[name] is not value))
"""


def replaced(**environment: str) -> list[str]:
    """What two calls of `install()` replace in a new process: by the first and by the second."""
    done = subprocess.run(
        [sys.executable, "-c", COMPARE],
        env={"PATH": "", **environment},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return done.stdout.split("\n")[:2]


def test_a_second_call_replaces_nothing_more() -> None:
    first, second = replaced()
    assert set(first.split()) == REPLACED
    assert second == ""


@pytest.mark.parametrize("value", ["false", "False", "0", "no", "off"])
def test_the_switch_leaves_the_libraries_as_they_are(value: str) -> None:
    assert replaced(RUNTIME__ACCELERATE=value) == ["", ""]


def test_other_versions_are_not_accelerated(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("RUNTIME__ACCELERATE", raising=False)
    monkeypatch.setitem(accelerate.TESTED_VERSIONS, "dlt", "1.30.0")
    with caplog.at_level(logging.INFO):
        assert accelerate.install() is False
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "found dlt 1.31.0, tested with" in record.getMessage()


def test_the_tested_versions_are_those_of_the_lock() -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    locked = {package["name"]: package.get("version") for package in lock["package"]}
    assert {name: locked[name] for name in accelerate.TESTED_VERSIONS} == accelerate.TESTED_VERSIONS
