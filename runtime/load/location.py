"""What every code location shares: the resource `dlt`, and a placeholder for each module that cannot be loaded."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import dagster as dg
from dagster_dlt import DagsterDltResource

from runtime.load import retries
from runtime.load.advice import advice
from runtime.load.assets import with_readable_metadata
from runtime.load.providers import vaults_at_import
from runtime.load.resource import IsolatedDltResource

# In-process: the default executor starts an interpreter for each step. Pools limit steps within one process, too.
defs = dg.Definitions(resources={"dlt": IsolatedDltResource()}, executor=dg.in_process_executor)
NOT_LOADED = "not_loaded"  # the last part of a placeholder's key, and its kind
ERRORS = (*retries.ERRORS, SystemExit)  # what a module may raise; an interrupt is not among them

logger = logging.getLogger(__name__)


@contextmanager
def isolated_imports(package: str) -> Iterator[None]:
    """Within it, `from <package> import <module>` gives a stand-in for a module that raises, and the others load.

    The stand-in has nothing but `defs`: one asset, `[<module>, not_loaded]`. Its description says what to do, and so
    does its run, which fails. Outside of this block the same import raises, as it does in tests. The imports stay
    statements, so that mypy and editors follow them and definitions.py reads as in Dagster's guide.
    """
    names = vars(sys.modules[package])

    @cache
    def isolated(name: str) -> Any:
        del names["__getattr__"]  # what the module itself imports from the package must raise
        try:
            module = import_module(f"{package}.{name}")
            if not isinstance(getattr(module, "defs", None), dg.Definitions):
                raise TypeError(f"{module.__name__} has no `defs`: end it with `defs = dg.Definitions(assets=[…])`")
        except ERRORS as error:
            names.pop(name, None)  # a module without `defs`
            return SimpleNamespace(defs=placeholder(f"{package}.{name}", advice(error, package)))
        finally:
            names["__getattr__"] = isolated
        return module

    names["__getattr__"] = isolated  # Python asks it for the modules that the package has not imported yet (PEP 562)
    try:
        with vaults_at_import():
            yield
    finally:
        del names["__getattr__"]


def merge(*modules: dg.Definitions) -> dg.Definitions:
    """The definitions of a location: those of its modules, and what all locations share.

    A module that contradicts those before it gets a placeholder, too. For example, it has an asset key of theirs.
    """
    safe = [_without_stock_resource(module) for module in modules]
    try:
        return with_readable_metadata(_valid(defs, *safe))
    except Exception:
        fitting = [defs]
        for module, parts in zip(modules, safe, strict=True):
            try:
                _valid(*fitting, parts)
                fitting.append(parts)
            except Exception as error:
                fitting.append(placeholder(_name_of(module), advice(error, _name_of(module))))
        return with_readable_metadata(_valid(*fitting))


def placeholder(module: str, sentence: str, program: str = "") -> dg.Definitions:
    """The definitions of a module that could not be loaded: one asset, whose run fails with the sentence.

    `program` shows the error in a shell, if not `import <module>`.
    """
    name = module.rpartition(".")[2]
    program = program or f"import {module}"
    logger.error("%s is not loaded. %s", module, sentence)

    @dg.asset(
        key=[name, NOT_LOADED],
        group_name=name,
        kinds={NOT_LOADED},
        description=f"{module} is not loaded, so its assets, schedules and sensors are not here. {sentence}",
        metadata={"what to do": sentence, "traceback": dg.MetadataValue.md(f'`python -c "{program}"`')},
    )
    def not_loaded(context: dg.AssetExecutionContext) -> None:
        retries.disable_run_retries(context.op_execution_context)
        raise dg.Failure(sentence, allow_retries=False)

    return dg.Definitions(assets=[not_loaded])


def _valid(*parts: dg.Definitions) -> dg.Definitions:
    merged = dg.Definitions.merge(*parts)
    dg.Definitions.validate_loadable(merged)
    return merged


def _without_stock_resource(module: dg.Definitions) -> dg.Definitions:
    """The definitions without dagster-dlt's own resource `dlt`, which Dagster's guide adds. `defs` has a safe one."""
    resources = dict(module.resources or {})
    if type(resources.get("dlt")) is not DagsterDltResource:
        return module
    del resources["dlt"]
    others = (
        *("assets", "schedules", "sensors", "jobs", "executor", "loggers", "asset_checks", "metadata"),
        "component_tree",
    )
    return dg.Definitions(resources=resources, **{name: getattr(module, name) for name in others})


def _name_of(definitions: dg.Definitions) -> str:
    """The module whose `defs` they are. In `sys.modules`, None blocks an import."""
    modules = [(name, module) for name, module in sys.modules.items() if module]
    return next((name for name, module in modules if vars(module).get("defs") is definitions), "unnamed_module")
