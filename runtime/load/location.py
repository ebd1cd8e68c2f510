"""What every code location shares: the resource `dlt`, one process per run, and modules that stop only themselves."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from types import ModuleType

import dagster as dg
from dagster_dlt import DagsterDltResource

from runtime.load.advice import advice
from runtime.load.assets import with_readable_metadata
from runtime.load.resource import IsolatedDltResource
from runtime.load.retries import disable_run_retries

# A process per step would start an interpreter for each step. Pools limit steps within one process, too.
defs = dg.Definitions(resources={"dlt": IsolatedDltResource()}, executor=dg.in_process_executor)
NOT_LOADED = "not_loaded"  # the last part of a placeholder's key, and its kind

logger = logging.getLogger(__name__)


@contextmanager
def isolated_imports(package: str) -> Iterator[None]:
    """Within it, a module of `package` that raises at import gets a placeholder as its `defs`, and the others load.

    The placeholder is one asset, `[<module>, not_loaded]`. Its description says what to do, and so does its run, which
    fails. Outside of this block the same import raises, as it does in tests.
    """
    finder = _Finder(package)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def merge(*modules: dg.Definitions) -> dg.Definitions:
    """The definitions of a location: those of its modules, and what all locations share.

    A module that contradicts those before it gets a placeholder, too. For example, it has an asset key of theirs.
    """
    return with_readable_metadata(_fitting(modules))


def _fitting(modules: Sequence[dg.Definitions]) -> dg.Definitions:
    safe = [_without_stock_resource(module) for module in modules]
    try:
        return _valid(defs, *safe)
    except Exception:
        fitting = [defs]
        for module, parts in zip(modules, safe, strict=True):
            try:
                _valid(*fitting, parts)
                fitting.append(parts)
            except Exception as error:
                fitting.append(placeholder(_name_of(module), advice(error)))
        return _valid(*fitting)


def placeholder(module: str, sentence: str) -> dg.Definitions:
    """The definitions of a module that could not be loaded: one asset, whose run fails with the sentence."""
    name = module.rpartition(".")[2]
    logger.error("%s is not loaded. %s", module, sentence)

    @dg.asset(
        key=[name, NOT_LOADED],
        group_name=name,
        kinds={NOT_LOADED},
        description=f"{module} is not loaded, so its assets, schedules and sensors are not here. {sentence}",
        metadata={"what to do": sentence, "traceback": dg.MetadataValue.md(f'`python -c "import {module}"`')},
    )
    def not_loaded(context: dg.AssetExecutionContext) -> None:
        disable_run_retries(context.op_execution_context)
        raise dg.Failure(sentence, allow_retries=False)

    return dg.Definitions(assets=[not_loaded])


class _Finder(MetaPathFinder):
    """Finds the modules of one package, which `_Loader` then imports."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        if package != self.package or not path:
            return None
        found = PathFinder.find_spec(fullname, path) or ModuleSpec(fullname, None)
        file, folders = found.origin or f"{path[0]}/{name}.py", found.submodule_search_locations
        return spec_from_file_location(
            fullname, file, loader=_Loader(fullname, file), submodule_search_locations=folders
        )


class _Loader(SourceFileLoader):
    """Imports a module as Python does, and puts a placeholder into it if that fails."""

    def exec_module(self, module: ModuleType) -> None:
        try:
            super().exec_module(module)
            if not isinstance(getattr(module, "defs", None), dg.Definitions):
                raise TypeError(f"{module.__name__} has no `defs`: end it with `defs = dg.Definitions(assets=[…])`")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit and dlt's TerminalException are no Exception
            module.defs = placeholder(module.__name__, advice(error))  # type: ignore[attr-defined]


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
    others = ("assets", "schedules", "sensors", "jobs", "executor", "loggers", "asset_checks", "metadata")
    return dg.Definitions(resources=resources, **{name: getattr(module, name) for name in others})


def _name_of(definitions: dg.Definitions) -> str:
    return next(name for name, module in sys.modules.items() if vars(module).get("defs") is definitions)
