"""What a source remembers between reads: a second read in the same process would begin where the first one stopped."""

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from functools import partial
from types import BuiltinMethodType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from dlt.extract.resource import DltResource
from dlt.extract.source import DltSource

from runtime.load.retries import causes

DEPTH = 6
# What these keep is connections, configuration and caches. A resource's cursor is restored by dlt.
LIBRARIES = ("_thread", "dagster", "dlt", "logging", "requests", "sqlalchemy", "ssl", "threading", "typing", "urllib3")


class Reads:
    """The reads of a source by one run: whether another one would begin anew.

    It would not if what the source remembers has changed, or if the last one began with another row than the first one.
    A number or a text may be a position or a count of requests: it decides only until the first row is there.
    """

    def __init__(self, source: DltSource) -> None:
        self._source = source
        self._before = {strict: source_state(source, strict) for strict in (False, True)}
        self._first_rows: dict[str, str] = {}
        self._went_on = False
        self._failure: BaseException | None = None

    def begin_anew(self) -> bool:
        if self._went_on or source_state(self._source) != self._before[False]:
            return False
        if all(resource.name in self._first_rows for resource in _roots(self._source)):
            return True
        return bool(source_state(self._source, strict=True) == self._before[True])

    def watch(self, source: DltSource) -> None:
        """Compares the first row of each resource of a copy of the source with that of earlier reads."""
        for resource in _roots(source):
            resource.add_step(FirstRow(partial(self._compare, resource.name)), insert_at=1)

    def has_failed(self, error: BaseException) -> None:
        *_, self._failure = causes(error)

    def _compare(self, resource: str, row: str) -> None:
        if self._first_rows.setdefault(resource, row) != row and self._failure:
            self._went_on = True
            raise self._failure  # why the source is read again


class FirstRow:
    """A step of a pipe, which tells what the first row is."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._has_told = False

    def __call__(self, item: Any, meta: Any = None) -> Any:
        if not self._has_told and (row := _first_row(item)) is not None:
            self._has_told = True
            self._tell(row)
        return item


def _roots(source: DltSource) -> list[DltResource]:
    """The resources that read something, and do not transform what another one has read."""
    return [resource for resource in source.resources.extracted if not resource.is_transformer]


def _first_row(item: Any) -> str | None:
    if isinstance(item, list):
        return repr(item[0]) if item else None
    if hasattr(item, "slice") and hasattr(item, "schema"):  # Arrow, Polars
        return str(item.slice(0, 1)) if len(item) else None
    return repr(item)


def source_state(source: DltSource, strict: bool = False) -> Any:
    """Equals an earlier result if nothing has changed of what the resources' functions remember.

    Looks at their arguments and defaults, variables of enclosing functions, the globals that they name, attributes, and
    the same of all objects and functions among these. An iterator, or an object that cannot be looked into, never
    equals itself. Numbers and texts in globals and attributes count only if `strict`.
    """
    state = State(strict)
    try:
        return [state.of(resource._pipe.gen, DEPTH) for resource in source.resources.extracted]
    except Exception:  # an object that does not let itself be looked at
        return object()


class State:
    """The state of values, each of which is looked at once."""

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self._seen: dict[int, int] = {}

    def of(self, value: Any, depth: int) -> Any:
        match value:
            case bool() | int() | float() | str() | bytes() | None:
                return value
            case type() | ModuleType():
                return None
            case DltResource():
                return self.of(value._pipe.gen, depth)
            case bytearray():
                return bytes(value)
            case Iterator():
                return object()
        if type(value).__module__.partition(".")[0] in LIBRARIES or self._seen.get(id(value), -1) >= depth:
            return None
        self._seen[id(value)] = depth
        parts = self._parts(value)
        return parts if not isinstance(parts, list) else [self.of(one, depth - 1) for one in parts if depth]

    def _parts(self, value: Any) -> Any:
        """What the value is made of, as a list; or what tells whether it has changed."""
        match value:
            case Mapping():
                return [len(value), *value.keys(), *value.values()]
            case Set() | list() | tuple() | deque():
                return [len(value), *value]
            case partial():
                return [value.func, *value.args, *value.keywords.values()]
            case MethodType():
                return [value.__func__, value.__self__]
            case BuiltinMethodType():
                return [value.__self__]
            case FunctionType():
                found = [value.__globals__.get(name) for name in _names(value.__code__)]
                defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
                found += vars(value).values()  # `__wrapped__` is one
                return [*_enclosed(value), *defaults, *self._counting(found)]
        slots = [name for one in type(value).__mro__ for name in getattr(one, "__slots__", ())]
        attributes = [*getattr(value, "__dict__", {}).values(), *(getattr(value, name, None) for name in slots)]
        if attributes:
            return self._counting(attributes)
        if hasattr(value, "qsize"):
            return value.qsize()
        if hasattr(value, "__dict__"):
            return None
        # By convention, what can be hashed by its value does not change: a date, a number, a pattern.
        return value if isinstance(value, Hashable) and type(value).__hash__ != object.__hash__ else object()

    def _counting(self, values: Sequence[Any]) -> list[Any]:
        return [one for one in values if self._strict or not isinstance(one, int | float | str | bytes | None)]


def _names(code: CodeType) -> Iterator[str]:
    """The names of globals and attributes that a function uses, and functions in it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _enclosed(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # nothing has been assigned to the variable yet
            yield cell.cell_contents
