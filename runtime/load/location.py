"""What every code location shares: the resource `dlt`, and a placeholder for each module that cannot be loaded."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import dagster as dg
from dagster_dlt import DagsterDltResource
from dlt.common.schema import Schema
from dlt.extract.decorators import DltSourceFactoryWrapper
from dlt.extract.resource import DltResource
from dlt.extract.source import DltSource

from runtime.load import retries
from runtime.load.advice import advice, missing_settings
from runtime.load.assets import with_readable_metadata
from runtime.load.providers import vaults_at_import
from runtime.load.resource import IsolatedDltResource

# In-process: the default executor starts an interpreter for each step. Pools limit steps within one process, too.
defs = dg.Definitions(resources={"dlt": IsolatedDltResource()}, executor=dg.in_process_executor)
NOT_LOADED = "not_loaded"  # the last part of a placeholder's key, and its kind
ERRORS = (*retries.ERRORS, SystemExit)  # what a module may raise; an interrupt is not among them
Call = Callable[..., DltSource]

logger = logging.getLogger(__name__)


@contextmanager
def isolated_imports(package: str) -> Iterator[None]:
    """Within it, `from <package> import <module>` gives a stand-in for a module that raises, and the others load.

    The stand-in has nothing but `defs`: one asset, `[<module>, not_loaded]`. Its description says what to do, and so
    does its run, which fails. If only one of several dlt sources of the module lacks a setting, that source has the
    asset, `[<source>, not_loaded]`, and the module's other assets are there. Outside of this block the same import
    raises, as it does in tests. The imports stay statements, so that mypy and editors follow them and definitions.py
    reads as in Dagster's guide.
    """
    names = vars(sys.modules[package])

    @cache
    def isolated(name: str) -> Any:
        del names["__getattr__"]  # what the module itself imports from the package must raise
        try:
            return _imported(f"{package}.{name}")
        except ERRORS as error:
            sentence = advice(error, package)
            if missing_settings(error) and (module := _without_sources_that_lack_settings(f"{package}.{name}")):
                return module
            names.pop(name, None)  # a module without `defs`
            return SimpleNamespace(defs=placeholder(f"{package}.{name}", sentence))
        finally:
            names["__getattr__"] = isolated

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


def _imported(name: str) -> ModuleType:
    """The module.

    Raises:
        TypeError: it has no `defs`.
    """
    module = import_module(name)
    if not isinstance(getattr(module, "defs", None), dg.Definitions):
        raise TypeError(f"{name} has no `defs`: end it with `defs = dg.Definitions(assets=[…])`")
    return module


def _without_sources_that_lack_settings(name: str) -> ModuleType | None:
    """The module, if it has assets without the dlt sources that lack a setting."""
    call: Call = DltSourceFactoryWrapper.__call__
    messages: list[str] = []

    def call_or_not_loaded(factory: Any, *args: Any, **kwargs: Any) -> DltSource:
        try:
            with _calls_of_sources(call):  # what the source is made of must raise
                return call(factory, *args, **kwargs)
        except Exception as error:
            if missing_settings(error):
                source = factory.name or factory.__name__
                sentence = advice(error, name)
                messages.append(f"The source {source} is not loaded, so its assets are not here. {sentence}")
                return _source_not_loaded(source, messages[-1], error)
            raise

    try:
        with _calls_of_sources(call_or_not_loaded):
            module = _imported(name)
        specs = _valid(defs, _without_stock_resource(module.defs)).resolve_all_asset_specs()
        if not all(is_placeholder(spec.key) for spec in specs):
            for message in messages:
                logger.error("%s: %s", name, message)
            return module
    except ERRORS:
        pass  # the first error says more
    sys.modules.pop(name, None)
    return None


@contextmanager
def _calls_of_sources(call: Call) -> Iterator[None]:
    """Within it, `call` is what a call of a function with `@dlt.source` does."""
    before = DltSourceFactoryWrapper.__call__
    DltSourceFactoryWrapper.__call__ = call  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        DltSourceFactoryWrapper.__call__ = before  # type: ignore[method-assign]


def _source_not_loaded(name: str, description: str, error: Exception) -> DltSource:
    """A source with one resource, whose load fails with the error."""

    def not_loaded() -> Iterator[Any]:
        raise error
        yield

    not_loaded.__doc__ = description
    return DltSource(Schema(name), name, [DltResource.from_data(not_loaded, name=NOT_LOADED)])


def is_placeholder(key: dg.AssetKey) -> bool:
    """Whether it is the key of what stands for a module, or for a dlt source, that is not loaded."""
    return key.path[-1].endswith(NOT_LOADED)  # dagster-dlt's own translator: `dlt_<source>_not_loaded`


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
