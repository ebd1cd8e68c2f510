"""`runtime/` in another repository: a copy of the folder, beside a project that has only dagster-dlt and DuckDB."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import duckdb
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from runtime.check_project import check
from tests.support.paths import ROOT

NEEDED = ["dagster-dlt", "dlt[duckdb]"]
# Python imports this module by itself. It hides what an empty project would not have installed.
HIDE = """
import sys

class Hidden:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden)
"""
LOADS = """
from collections.abc import Iterator
from typing import Any

import dagster as dg
import dlt
from dagster_dlt import DagsterDltResource, dlt_assets

from runtime.load.directories import import_directory


@dlt.source(section="shop")
def shop(country: str = "") -> Any:
    @dlt.resource(write_disposition="merge", primary_key=["country", "id"])
    def orders(id: Any = dlt.sources.incremental("id", 0)) -> Iterator[Any]:
        yield [{"country": country, "id": n, "lines": [{"n": 1}, {"n": 2}]} for n in range(1, 101)]

    return orders


@dlt_assets(
    dlt_source=shop(),
    dlt_pipeline=dlt.pipeline(
        "shop", dataset_name="raw_shop", destination="duckdb", pipelines_dir=import_directory()
    ),
    name="shop",
    partitions_def=dg.StaticPartitionsDefinition(["at", "ch", "de", "dk", "fr", "it"]),
)
def shop_assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource) -> Iterator[Any]:
    yield from dlt.run(context=context, dlt_source=shop(context.partition_key))


defs = dg.Definitions(assets=[shop_assets], jobs=[dg.define_asset_job("load", [shop_assets])])
"""
DEFINITIONS = """
from runtime.load import location

with location.isolated_imports(__package__):
    from bakery import broken, loads

defs = location.merge(loads.defs, broken.defs)
"""
RUN = """
import sys
from importlib import import_module
from pkgutil import walk_packages

import runtime.load
from bakery.definitions import defs

for module in walk_packages(runtime.load.__path__, "runtime.load."):
    import_module(module.name)
print([spec.description for spec in defs.resolve_all_asset_specs() if spec.key.path[-1] == "not_loaded"])
assert defs.resolve_job_def("load").execute_in_process(partition_key=sys.argv[1]).success
"""


def installed(requirements: list[str]) -> Iterator[str]:
    """The names of packages that pip would install for these."""
    todo = [Requirement(text) for text in requirements]
    seen = set[tuple[str, str]]()
    for requirement in todo:  # which grows
        for extra in ("", *requirement.extras):
            name = canonicalize_name(requirement.name)
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                needed = [Requirement(text) for text in requires(name) or ()]
            except PackageNotFoundError:  # for another Python or system
                continue
            yield name
            todo += [one for one in needed if not one.marker or one.marker.evaluate({"extra": extra})]


@pytest.fixture
def bakery(tmp_path: Path) -> Path:
    """A project with a copy of `runtime/`, and nothing else of this repository."""
    allowed = set(installed(NEEDED))
    hidden = {
        name
        for name, packages in packages_distributions().items()
        if not allowed & {canonicalize_name(package) for package in packages}
    }
    assert "psycopg2" in hidden
    project = tmp_path / "project"
    shutil.copytree(ROOT / "runtime", project / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    (project / "bakery").mkdir()
    (project / "bakery" / "__init__.py").touch()
    (project / "bakery" / "loads.py").write_text(LOADS)
    (project / "bakery" / "broken.py").write_text("import dlt\n\ntoken = dlt.secrets['sources.shop.token']\n")
    (project / "bakery" / "definitions.py").write_text(DEFINITIONS)
    (project / "sitecustomize.py").write_text(HIDE.format(names=hidden))
    return project


def start(project: Path, *arguments: str) -> subprocess.Popen[str]:
    """Python in the project, with an environment of its own."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(project.parent),
        "PYTHONPATH": str(project),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "DLT_DATA_DIR": str(project.parent / "dlt"),
        "DESTINATION__DUCKDB__CREDENTIALS": str(project / "shop.duckdb"),
    }
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, cwd=project, env=environment, stdout=-1, stderr=subprocess.STDOUT, text=True)


@pytest.mark.timeout(300)
def test_six_partitions_load_at_once_where_nothing_else_of_this_repository_is(bakery: Path) -> None:
    runs = [start(bakery, "-c", RUN, country) for country in ("at", "ch", "de", "dk", "fr", "it")]
    outputs = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * 6, "\n".join(outputs)[-4000:]

    assert "SOURCES__SHOP__TOKEN is missing" in outputs[0]
    assert "(bakery/broken.py:3)" in outputs[0]
    with duckdb.connect(str(bakery / "shop.duckdb")) as connection:
        assert connection.sql("SELECT count(*), count(DISTINCT country) FROM raw_shop.orders").fetchall() == [(600, 6)]
        assert connection.sql("SELECT count(*) FROM raw_shop.orders__lines").fetchall() == [(1200,)]
    assert check([bakery]) == []  # it passes over the copy of `runtime/`
