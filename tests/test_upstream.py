"""docs/upstream.md lists every private name of dlt and Dagster that the project imports, overrides or patches."""

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("runtime", "dlt_sources", "code_locations", "scripts")
LIBRARIES = ("dagster", "dagster_dlt", "dagster_docker", "dagster_postgres", "dagster_shared", "dlt")
PUBLIC = {"_replace", "_asdict", "_fields"}  # of named tuples
SET = re.compile(r"self\.(_\w+)(?:: [^=\n]+)? = ")
PYTHONS_OWN = {"_abc_impl", "_exit", "_is_protocol"}
ROW = re.compile(r"^\| .* \|$", re.MULTILINE)


class Use(NamedTuple):
    file: str
    name: str


def library(module: str | None) -> bool:
    return (module or "").partition(".")[0] in LIBRARIES


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def uses(path: Path) -> Iterator[Use]:
    """The private names of the libraries in a file, and the library attributes that it replaces."""
    file, tree = str(path.relative_to(ROOT)), ast.parse(path.read_text())
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and library(node.module):
            imported.update(alias.asname or alias.name for alias in node.names)
            if any(private(part) for part in (node.module or "").split(".")):
                yield from (Use(file, f"{node.module}.{alias.name}") for alias in node.names)
            else:
                yield from (Use(file, alias.name) for alias in node.names if private(alias.name))
        elif isinstance(node, ast.Import):
            found = [alias for alias in node.names if library(alias.name)]
            imported.update(alias.asname or alias.name.partition(".")[0] for alias in found)
            yield from (Use(file, alias.name) for alias in found if any(map(private, alias.name.split("."))))
    # What our own code in this file defines: methods and attributes of self, private functions and variables.
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        of_super = isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "super"
        if private(node.attr) and (of_super or node.attr not in own):
            yield Use(file, node.attr)
        if isinstance(node.ctx, ast.Store) and ast.unparse(node.value).partition(".")[0] in imported:
            yield Use(file, node.attr)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr":
            target, name = node.args[0], node.args[1]
            if ast.unparse(target).partition(".")[0] in imported and isinstance(name, ast.Constant):
                yield Use(file, str(name.value))


def overrides(path: Path) -> Iterator[Use]:
    """The private methods and attributes of the libraries that a module's classes replace."""
    if not any(isinstance(node, ast.ClassDef) for node in ast.walk(ast.parse(path.read_text()))):
        return
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for _, found in inspect.getmembers(import_module(name), inspect.isclass):
        if found.__module__ == name:
            bases = [base for base in found.__mro__[1:] if library(base.__module__)]
            inherited = {key for base in bases for key in vars(base)}
            set_by_bases = {key for base in bases for key in SET.findall(inspect.getsource(base))}
            replaced = {*vars(found)} & inherited | {*SET.findall(inspect.getsource(found))} & set_by_bases
            yield from (Use(str(path.relative_to(ROOT)), key) for key in replaced if private(key))


@cache
def all_uses() -> frozenset[Use]:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if "verified" not in path.parts]
    found = {use for path in paths for use in uses(path)}
    found |= {use for path in paths if path.relative_to(ROOT).parts[0] == "runtime" for use in overrides(path)}
    return frozenset(use for use in found if use.name not in PYTHONS_OWN)


def rows() -> list[str]:
    table = [row for row in ROW.findall((ROOT / "docs" / "upstream.md").read_text()) if "`" in row]
    assert table
    return table


def is_in(row: str, use: Use) -> bool:
    names = {name.rpartition(".")[2] for name in re.findall(r"`([^`]+)`", row)}
    module, _, name = use.name.rpartition(".")
    return f"`{use.file}`" in row and name in names and (not module or f"`{module}`" in row)


def test_every_private_name_is_listed() -> None:
    missing = sorted(use for use in all_uses() if not any(is_in(row, use) for row in rows()))
    if missing:
        lines = [f"{file}: {name}" for file, name in missing]
        pytest.fail("\n".join(["docs/upstream.md lacks a row for", *lines]), pytrace=False)


def test_every_row_is_still_needed() -> None:
    used = all_uses()
    stale = [row for row in rows() if not any(is_in(row, use) for use in used)]
    assert not stale, "docs/upstream.md has rows that nothing uses any more"


def test_every_row_names_a_test_that_exists() -> None:
    for row in rows():
        tests = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row)
        assert tests, f"no test in {row}"
        for path, name in tests:
            assert f"def {name}" in (ROOT / path).read_text(), f"{path}::{name} of docs/upstream.md does not exist"
