"""`python -m runtime.check_project`: what it finds in somebody's project, and that the corrected code passes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.check_project import check
from tests.support.paths import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))
IMPORTS = """
import os
from collections.abc import Iterator

import dagster as dg
import dlt
from dagster_dlt import DagsterDltResource, dlt_assets

from runtime.load.directories import import_directory
from runtime.load.resource import IsolatedDltResource
"""
DAYS = 'days = dg.DailyPartitionsDefinition("2026-01-01")'
ASSETS = """
@dlt_assets(dlt_source={source}, dlt_pipeline=pipeline, name="shop", partitions_def={partitions})
def shop_assets(context: dg.AssetExecutionContext, dlt: DagsterDltResource):
    yield from dlt.run(context=context)
"""
ORDERS = """
@dlt.source
def shop():
    @dlt.resource(write_disposition={disposition})
    def orders():
        yield from range(3)
    @dlt.resource(write_disposition="merge", primary_key="id")
    def customers():
        yield from range(3)
    return orders, customers
"""
GENERATOR = """
def rows(country="de"):
    yield {"id": 1}
"""


def partitioned(disposition: str, source: str = "shop()", partitions: str = "days") -> str:
    return DAYS + ORDERS.format(disposition=disposition) + ASSETS.format(source=source, partitions=partitions)


# What is found → the code, with a comment on the line; words of the sentence; the corrected code.
FOUND = {
    "the stock resource": (
        'defs = dg.Definitions(resources={"dlt": DagsterDltResource()})  # found',
        "IsolatedDltResource()",
        'defs = dg.Definitions(resources={"dlt": IsolatedDltResource()})',
    ),
    "the stock resource by another name": (
        "import dagster_dlt as dd\nresource = dd.DagsterDltResource()  # found",
        "IsolatedDltResource()",
        "resource = IsolatedDltResource()",
    ),
    "the stock resource of the older package": (
        "from dagster_embedded_elt.dlt import DagsterDltResource as Resource\nresource = Resource()  # found",
        "IsolatedDltResource()",
        "resource = IsolatedDltResource()",
    ),
    "a subclass of the stock resource": (
        "class Dlt(DagsterDltResource): ...  # found",
        "class Dlt(IsolatedDltResource)",
        "class Dlt(IsolatedDltResource): ...",
    ),
    "a subclass of the stock component": (
        "from dagster_dlt import DltLoadCollectionComponent\nclass Loads(DltLoadCollectionComponent): ...  # found",
        "class Loads(IsolatedDltLoadCollectionComponent)",
        "class Loads(IsolatedDltLoadCollectionComponent): ...",
    ),
    "_run": (
        "class Dlt(IsolatedDltResource):\n    def _run(self, context, **kwargs): ...  # found",
        "run() or extract_resource_metadata()",
        "class Dlt(IsolatedDltResource):\n    def run(self, context, **kwargs): ...",
    ),
    "_run of a class between": (
        "class Base(IsolatedDltResource): ...\nclass Dlt(Base):\n    def _run(self, context, **kwargs): ...  # found",
        "Dlt overrides _run",
        "class Base: ...\nclass Dlt(Base):\n    def _run(self, context, **kwargs): ...",
    ),
    "a pipeline": (
        'pipeline = dlt.pipeline("shop", destination="duckdb")  # found',
        "pipelines_dir=import_directory()",
        'pipeline = dlt.pipeline("shop", destination="duckdb", pipelines_dir=import_directory())',
    ),
    "a pipeline in a shared folder": (
        'pipeline = dlt.pipeline("shop", destination="duckdb", pipelines_dir="/data/dlt")  # found',
        "pipelines_dir=import_directory()",
        'if __name__ == "__main__":\n    dlt.pipeline("shop", destination="duckdb", pipelines_dir="/data/dlt")',
    ),
    "a pipeline of a factory": (
        'def build(name):\n    return dlt.pipeline(name, destination="duckdb")  # found\n'
        'pipelines = [build(name) for name in "ab"]',
        "wait for one another",
        'def build(name):\n    return dlt.pipeline(name, destination="duckdb")',
    ),
    "a pipeline in a decorator": (
        "def build(name):\n    @dlt_assets(dlt_source=s,\n        dlt_pipeline=dlt.pipeline(name))  # found\n"
        '    def assets(context): ...\n    return assets\nassets = build("shop")',
        "wait for one another",
        "def build(name):\n    @dg.op\n    def load():\n        dlt.pipeline(name)\n    return load()\n"
        'graph = build("shop")',
    ),
    "replace by a partition": (
        partitioned('"replace"').replace(
            '    @dlt.resource(write_disposition="replace")', '    @dlt.resource(write_disposition="replace")  # found'
        ),
        'one partition of days at a time. Write write_disposition="merge"',
        partitioned('"merge", primary_key="id"'),
    ),
    "replace by a partition, of a strategy": (
        partitioned('{"disposition": "replace"}')
        .replace("    @dlt.resource(write_disposition={", "    @dlt.resource(write_disposition={")
        .replace('"replace"})', '"replace"})  # found'),
        'Write write_disposition="merge"',
        partitioned('"replace"', partitions="None"),
    ),
    "replace of the run": (
        partitioned('"merge"').replace(
            "    yield from dlt.run(context=context)",
            '    yield from dlt.run(context=context, write_disposition="replace")  # found',
        ),
        'Write write_disposition="merge"',
        partitioned('"replace"', source='shop().with_resources("customers")'),
    ),
    "replace in a configuration": (
        DAYS
        + ASSETS.format(source="rest_api_source(config)", partitions="days")
        + 'config = {"resource_defaults": {"write_disposition": "replace"}}  # found',
        'Write write_disposition="merge"',
        DAYS
        + ASSETS.format(source="rest_api_source(config)", partitions="days")
        + 'config = {"resource_defaults": {"write_disposition": "merge", "primary_key": "id"}}',
    ),
    "a secret of dlt": (
        'token = dlt.secrets["sources.shop.token"]  # found',
        "dlt.secrets.value` into the signature of the resource",
        'def orders(token: str = dlt.secrets.value):\n    return dlt.secrets["sources.shop.token"]',
    ),
    "a variable given to a source": (
        '@dlt.source\ndef shop(api_key): ...\nsource = shop(api_key=os.environ["SHOP"])  # found',
        "`api_key: str = dlt.secrets.value`",
        '@dlt.source\ndef shop(since): ...\nsource = shop(since=os.environ["SHOP_START_DATE"])',
    ),
    "a variable given by way of a name": (
        'TOKEN = os.getenv("SHOP_TOKEN", "")  # found\n' + ASSETS.format(source="shop(TOKEN)", partitions="None"),
        "SHOP_TOKEN', '') is read at import",
        'TOKEN = os.getenv("SHOP_TOKEN", "")\nclient = Chat(TOKEN)',
    ),
    "a variable of Dagster": (
        "from dlt.sources.rest_api import rest_api_source\n"
        'source = rest_api_source({"token": dg.EnvVar("SHOP_TOKEN").get_value()})  # found',
        "is read at import",
        'chat = Chat(token=dg.EnvVar("CHAT_TOKEN"))',
    ),
    "credentials of a destination": (
        'destination = dlt.destinations.postgres(os.environ["WAREHOUSE"])  # found',
        "DESTINATION__POSTGRES__CREDENTIALS into the environment",
        "destination = dlt.destinations.postgres()",
    ),
    "a generator object": (
        GENERATOR + 'orders = dlt.resource(rows("fr"), name="orders")  # found',
        "Write dlt.resource(rows, …)('fr') instead",
        GENERATOR + 'orders = dlt.resource(rows, name="orders")("fr")',
    ),
    "a generator object of a source": (
        GENERATOR
        + '@dlt.source\ndef shop():\n    return dlt.resource(rows(), name="orders")  # found\nsource = shop()',
        "Write dlt.resource(rows, …) instead",
        GENERATOR + '@dlt.source\ndef shop():\n    return dlt.resource(rows, name="orders")\nsource = shop()',
    ),
    "an iterator": (
        'numbers = iter([1, 2])\norders = dlt.resource(numbers, name="orders")  # found',
        "iter([1, 2]) is an iterator",
        'orders = dlt.resource([1, 2], name="orders")',
    ),
}


@pytest.mark.parametrize(("code", "sentence", "corrected"), FOUND.values(), ids=FOUND)
def test_it_names_the_line_and_what_to_write_instead(tmp_path: Path, code: str, sentence: str, corrected: str) -> None:
    file = tmp_path / "loads.py"
    file.write_text(IMPORTS + code)
    number = (IMPORTS + code).partition("# found")[0].count("\n") + 1
    [finding] = check([tmp_path])

    assert str(finding).startswith(f"{file}:{number}: ")
    assert sentence in str(finding)
    assert str(finding).endswith(" instead.")

    file.write_text((IMPORTS + code).replace("# found", "# check-project: ignore"))
    assert check([tmp_path]) == []
    file.write_text(IMPORTS + corrected)
    assert check([tmp_path]) == []


GUIDE = {
    "sources.py": """
import dlt

@dlt.source
def issues(repository: str):
    @dlt.resource(write_disposition="replace")
    def open_issues():
        yield {"id": 1}
    return open_issues
""",
    "assets.py": """
import dlt
from dagster import AssetExecutionContext, StaticPartitionsDefinition
from dagster_dlt import DagsterDltResource, dlt_assets

from .sources import issues

@dlt_assets(
    dlt_source=issues("dagster-io/dagster"),
    dlt_pipeline=dlt.pipeline("github_issues", dataset_name="github", destination="snowflake", progress="log"),
    name="github",
    group_name="github",
    partitions_def=StaticPartitionsDefinition(["dagster-io/dagster"]),
)
def github_assets(context: AssetExecutionContext, dlt: DagsterDltResource):
    yield from dlt.run(context=context)
""",
    "definitions.py": """
import dagster as dg
from dagster_dlt import DagsterDltResource

from .assets import github_assets

defs = dg.Definitions(assets=[github_assets], resources={"dlt": DagsterDltResource()})
""",
}


def test_a_project_as_dagsters_guide_has_it(tmp_path: Path) -> None:
    """The source is in another file than the assets that replace a partition with it."""
    folder = tmp_path / "my.project" / "github"
    folder.mkdir(parents=True)
    for name, code in GUIDE.items():
        (folder / name).write_text(code)

    command = [sys.executable, "-m", "runtime.check_project", str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    lines = [line.removeprefix(f"{folder}/") for line in process.stdout.splitlines()]
    assert [line.split(" ", 1)[0] for line in lines] == ["assets.py:10:", "definitions.py:7:", "sources.py:6:"]
    assert process.returncode == 1


def test_in_a_location_that_isolates_imports_the_guides_code_is_fine(tmp_path: Path) -> None:
    """`isolated_imports` takes turns, and `merge` replaces the resource."""
    location = tmp_path / "loads"
    location.mkdir()
    code = GUIDE["assets.py"].replace("from .sources import issues", "from .shared import pipeline, issues")
    (location / "github.py").write_text(
        code + 'from dagster import Definitions\ndefs = Definitions(resources={"dlt": DagsterDltResource()})\n'
    )
    (location / "shared.py").write_text('import dlt\npipeline = dlt.pipeline("shared", pipelines_dir="/data")\n')
    assert len(check([tmp_path])) == 3

    (location / "definitions.py").write_text(
        "from runtime.load import location\n"
        "with location.isolated_imports(__package__):\n    from loads import github\n"
        "defs = location.merge(github.defs)\n"
    )
    assert check([tmp_path]) == []


def test_nothing_is_found_in_this_repository_and_its_examples(tmp_path: Path) -> None:
    """Examples are modules of a location."""
    examples = [code for page in PAGES for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]
    names = [f"example_{number}" for number, _ in enumerate(examples)]
    for name, code in zip(names, examples, strict=True):
        (tmp_path / f"{name}.py").write_text(code)
    imports = "".join(f"    from {tmp_path.name} import {name}\n" for name in names)
    (tmp_path / "definitions.py").write_text(f"with location.isolated_imports(__package__):\n{imports}")

    assert [str(found) for found in check([ROOT / "code_locations", ROOT / "dlt_sources", tmp_path])] == []


def test_the_stock_component_is_found_in_a_defs_yaml(tmp_path: Path) -> None:
    file = tmp_path / "loads" / "defs.yaml"
    file.parent.mkdir()
    ours = "runtime.load.component.IsolatedDltLoadCollectionComponent"
    names = "dagster_dlt.DltLoadCollectionComponent", '"dagster_dlt.components.DltLoadCollectionComponent"', ours
    file.write_text("---\n".join(f"type: {name}\nattributes: {{loads: []}}\n" for name in names))

    found = check([tmp_path])

    assert [(one.file, one.line) for one in found] == [(file, 1), (file, 4)]
    assert all(ours in str(one) for one in found)


def test_a_file_that_python_cannot_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("pass\ndef broken(:\n")
    [found] = map(str, check([tmp_path]))

    assert found.startswith(f"{tmp_path}/broken.py:2: Python 3.")
    assert "cannot read this file: " in found


def test_a_path_without_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "module.py").touch()
    command = [sys.executable, "-m", "runtime.check_project", str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert process.returncode == 2
    assert f"{tmp_path} is no Python file and no folder with one." in process.stderr
