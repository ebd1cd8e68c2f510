"""The documentation names only what exists: links, headings, files, tests, commands, imports."""

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from runtime.load import location
from tests.dlt_sources import zendesk
from tests.support.paths import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "sandbox").glob("*.md")),
]
PACKAGES = ("benchmarks", "code_locations", "dlt_sources", "runtime", "sandbox", "scripts", "tests")
EXAMPLE = "zendesk"  # the source that a reader is to write
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def links(path: Path) -> Iterator[tuple[str, str]]:
    """Text and target of each relative link, outside of code blocks."""
    text = FENCED.sub("", path.read_text())
    for label, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", text):
        if "://" not in target:
            yield label, target


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def fail_for(problems: list[str]) -> None:
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


@page
def test_links_lead_to_files_and_headings(path: Path) -> None:
    problems = []
    for _, target in links(path):
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists():
            problems.append(f"{target}: there is no such file")
        elif anchor and anchor not in anchors(file):
            problems.append(f"{target}: there is no such heading")
    fail_for(problems)


@page
def test_a_link_that_names_a_test_leads_to_its_file(path: Path) -> None:
    fail_for(
        [
            f"{target} has no {label}"
            for label, target in links(path)
            if re.fullmatch(r"`test_\w+`", label)
            and not re.search(rf"^def {label.strip('`')}\b", (path.parent / target).read_text(), re.MULTILINE)
        ]
    )


@pytest.mark.parametrize("path", [path for path in PAGES if path.name != "CHANGELOG.md"], ids=lambda path: path.stem)
def test_files_in_code_style_exist(path: Path) -> None:
    """The changelog may name files that are gone."""
    names = re.findall(rf"`((?:{'|'.join((*PACKAGES, 'docs'))})/[\w./-]*)`", path.read_text())
    fail_for(
        [
            f"{name} does not exist"
            for name in names
            if not (ROOT / name).exists()
            and EXAMPLE not in name
            and not re.fullmatch(r"sandbox/\w+", name)  # a repository
        ]
    )


@page
def test_commands_name_targets_modules_and_services_that_exist(path: Path) -> None:
    text = path.read_text()
    inline, indented = re.findall(r"`([^`\n]+)`", text), re.findall(r"^ {4,}(\S.*)$", text, re.MULTILINE)
    code = "\n".join([*inline, *indented])
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    asked = [
        target for targets in re.findall(r"^make((?: [a-z-]+)+)", code, re.MULTILINE) for target in targets.split()
    ]
    fail_for(
        [
            *(f"make {name}: no such target" for name in asked if name not in targets),
            *(
                f"python -m {name}: no such module"
                for name in re.findall(r"python -m ([\w.]+)", code)
                if name.startswith(PACKAGES) and not find_spec(name)
            ),
            *(
                f"docker compose exec {name}: no such service"
                for name in re.findall(r"docker compose exec (?:-T )?(\w+)", code)
                if name not in services
            ),
        ]
    )


@page
def test_python_examples_compile_and_import_what_exists(path: Path) -> None:
    problems = []
    for _, language, code in FENCED.findall(path.read_text()):
        for node in ast.walk(ast.parse(code)) if language == "python" else ():
            if isinstance(node, ast.ImportFrom) and node.module and EXAMPLE not in node.module:
                module = importlib.import_module(node.module)
                problems += [f"{node.module} has no {a.name}" for a in node.names if not hasattr(module, a.name)]
    fail_for(problems)


@page
def test_an_example_that_names_its_file_is_that_file(path: Path) -> None:
    examples = re.findall(r"^<!-- (\S+) -->\n```\w*\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
    fail_for([f"the example is not {name}" for name, code in examples if code != (ROOT / name).read_text()])


def test_the_example_of_a_wiring_module_defines_its_asset_check_and_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dlt_sources.zendesk", zendesk)
    [code] = [c for _, _, c in FENCED.findall((ROOT / "docs/add-a-source.md").read_text()) if "@dlt_assets" in c]
    module: dict[str, Any] = {"__name__": "wiring"}
    exec(code, module)
    definitions = dg.Definitions.merge(location.defs, module["defs"])
    repository = definitions.get_repository_def()

    assert set(repository.assets_defs_by_key) == {dg.AssetKey(["zendesk", "tickets"])}
    assert len(repository.asset_graph.asset_check_keys) == 1
    assert [schedule.name for schedule in repository.schedule_defs] == ["zendesk_hourly"]


def test_the_readme_has_one_screen_and_a_half() -> None:
    assert 100 <= len((ROOT / "README.md").read_text().splitlines()) <= 120
