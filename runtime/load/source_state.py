"""What a source remembers between reads: a second read in the same process would begin where the first one stopped."""

from collections import deque
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from functools import partial
from queue import Queue
from types import FunctionType, MethodType, ModuleType
from typing import Any

from dlt.extract.source import DltSource

REMEMBERING = (Mapping, Set, list, tuple, deque, Queue, Iterator)
DEPTH = 4


def source_state(source: DltSource) -> Any:
    """Equals an earlier result if the source, as far as anybody can see, begins anew when it is read again.

    Looks at what the resources' functions hold: their arguments, variables of enclosing functions, and containers in
    these, in the objects among these and in the globals that they name. An iterator never equals itself: nobody can
    tell what is left of it.
    """
    try:
        return [_state(resource._pipe.gen, DEPTH) for resource in source.resources.extracted]
    except Exception:  # an object that does not let itself be looked at
        return object()


def _state(value: Any, depth: int) -> Any:
    match value:
        case Iterator():
            return object()
        case Queue():
            return value.qsize()
        case Mapping():
            return [(key, _state(one, depth - 1)) for key, one in value.items()] if depth else len(value)
        case Set() | list() | tuple() | deque():
            return [_state(one, depth - 1) for one in value] if depth else len(value)
        case partial():
            return _state([value.func, value.args, value.keywords], depth)
        case MethodType():
            return _state([value.__func__, value.__self__], depth)
        case FunctionType() if depth:
            used = [value.__globals__.get(name) for name in value.__code__.co_names]
            held = [*_enclosed(value), *(one for one in used if isinstance(one, (*REMEMBERING, FunctionType)))]
            wrapped = getattr(value, "__wrapped__", None)  # dlt wraps a function to bind its arguments
            return [_state(wrapped, depth), *(_state(one, depth - 1) for one in held)]
        case bool() | int() | float() | str() | bytes() | None:
            return value
        case type() | ModuleType():
            return None
        case _ if depth:
            parts = getattr(value, "__dict__", {}).values()
            return [_state(one, depth - 1) for one in parts if isinstance(one, REMEMBERING)]
    return None


def _enclosed(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # nothing has been assigned to the variable yet
            yield cell.cell_contents
