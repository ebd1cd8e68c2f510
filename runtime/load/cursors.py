"""What the cursors of a source are, as far as that is known before it is read."""

import inspect
from collections.abc import Iterator
from datetime import date
from typing import Any, get_args
from weakref import WeakKeyDictionary

from dlt.extract.exceptions import DataItemRequiredForDynamicTableHints
from dlt.extract.incremental import Incremental, IncrementalResourceWrapper
from dlt.extract.resource import DltResource
from dlt.extract.source import DltSource

# The cursors that hints have given to functions, as they were before the first run of this process.
_hinted: WeakKeyDictionary[IncrementalResourceWrapper, Incremental[Any] | None] = WeakKeyDictionary()


def incrementals(source: DltSource) -> Iterator[tuple[DltResource, Incremental[Any]]]:
    """The cursors of the selected resources and of what these read from, if these are known before they read.

    Each is a new copy: dlt writes what a run reads into a cursor, and clones of a source share theirs.
    """
    for resource in source.resources.extracted:
        if found := _incremental(resource):
            yield resource, found


def prepare_cursors(source: DltSource, in_window: bool, write_disposition: Any = None) -> None:
    """Gives each resource of a run's own source a cursor of its own. `in_window`: the run has a time window.

    `write_disposition` is that of the run, if it has one of its own.

    A row that has changed within its cursor's last value replaces the one that is loaded. dlt leaves out rows whose key
    it has loaded with that value, which gains nothing where rows are merged by a key.
    """
    for resource, incremental in incrementals(source):
        is_merged = (_name(write_disposition) or disposition_of(resource)) == "merge"
        keys = columns_with(resource, "primary_key") if is_merged else []
        own = incremental.primary_key
        if keys and (own is None or [own] == keys or own == keys):
            incremental.primary_key = ()  # type: ignore[assignment]  # as dlt's documentation has it
        if in_window and not reads_window(incremental):
            incremental.allow_external_schedulers = False
        if incremental.on_cursor_value_missing != "raise":
            incremental.row_order = None  # dlt would take an Arrow page of nulls for one after the end (dlt#4284)
        resource.apply_hints(incremental=incremental)


def _incremental(resource: DltResource) -> Incremental[Any] | None:
    step = resource.incremental
    if not isinstance(step, IncrementalResourceWrapper):
        return step.copy() if step else None
    if step not in _hinted:
        _hinted[step] = step.incremental.copy() if step.incremental else None
    if hinted := _hinted[step]:
        return hinted.copy()
    function: Any = resource._pipe.gen
    parameter = IncrementalResourceWrapper.get_incremental_arg(inspect.signature(inspect.unwrap(function)))
    if parameter is None:
        return None
    given = (resource.explicit_args or {}).get(parameter.name) if resource.args_bound else None
    found = [one.copy() for one in (parameter.default, given) if isinstance(one, Incremental)]
    if not found:
        return None
    incremental = found[0] if len(found) == 1 else found[0].merge(found[1])
    if get_args(parameter.annotation) and not hasattr(incremental, "__orig_class__"):
        setattr(incremental, "__orig_class__", parameter.annotation)  # noqa: B010  # as dlt does: the type of its values
    return incremental


def reads_window(incremental: Incremental[Any]) -> bool:
    """Whether a cursor reads the run's time window in place of what is new.

    It does if its values are certainly times, and if it has no window of its own: no `end_value`, `lag` or
    `last_value_func`. `allow_external_schedulers` on the cursor decides for it, for example if seconds since 1970 are
    integers.
    """
    if incremental.allow_external_schedulers is not None:
        return bool(incremental.allow_external_schedulers)
    value_type = incremental.get_incremental_value_type()
    is_time = isinstance(value_type, type) and issubclass(value_type, date)  # datetime is a subclass
    return is_time and incremental.end_value is None and not incremental.lag and incremental.last_value_func is max


def columns_with(resource: DltResource, hint: str) -> list[str]:
    """The columns with a hint, for example `merge_key`. A hint that is a function of the rows counts as a column."""
    try:
        columns = resource.compute_table_schema()["columns"]
    except DataItemRequiredForDynamicTableHints:
        return ["?"]
    return [name for name, column in columns.items() if column.get(hint)]


def disposition_of(resource: DltResource) -> Any:
    """`append`, `merge`, `replace`, or a function of the rows."""
    return _name(resource.write_disposition)


def _name(disposition: Any) -> Any:
    return disposition.get("disposition") if isinstance(disposition, dict) else disposition
