"""What the cursors of a source are, as far as that is known before it is read."""

import inspect
from collections.abc import Iterator
from datetime import date
from typing import Any, get_args

from dlt.extract.exceptions import DataItemRequiredForDynamicTableHints
from dlt.extract.incremental import Incremental, IncrementalResourceWrapper
from dlt.extract.resource import DltResource
from dlt.extract.source import DltSource


def incrementals(source: DltSource) -> Iterator[tuple[DltResource, Incremental[Any]]]:
    """The cursors of the selected resources and of what these read from, if these are known before they read."""
    for resource in source.resources.extracted:
        if found := _incremental(resource):
            yield resource, found


def _incremental(resource: DltResource) -> Incremental[Any] | None:
    step = resource.incremental
    if not isinstance(step, IncrementalResourceWrapper):
        return step
    function: Any = resource._pipe.gen
    parameter = IncrementalResourceWrapper.get_incremental_arg(inspect.signature(inspect.unwrap(function)))
    if step.incremental or parameter is None:
        return step.incremental
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


def keep_updates_at_the_cursor(source: DltSource) -> None:
    """Lets a row that has changed within its cursor's last value replace the one that is loaded.

    dlt leaves out rows whose key it has loaded with that value. Where rows are merged by a key, nothing is gained.
    """
    for resource, incremental in incrementals(source):
        keys = columns_with(resource, "primary_key") if disposition_of(resource) == "merge" else []
        own = incremental.primary_key
        if keys and (own is None or [own] == keys or own == keys):
            without = incremental.copy()
            without.primary_key = ()  # type: ignore[assignment]  # as dlt's documentation has it
            resource.apply_hints(incremental=without)


def columns_with(resource: DltResource, hint: str) -> list[str]:
    """The columns with a hint, for example `merge_key`. A hint that is a function of the rows counts as a column."""
    try:
        columns = resource.compute_table_schema()["columns"]
    except DataItemRequiredForDynamicTableHints:
        return ["?"]
    return [name for name, column in columns.items() if column.get(hint)]


def disposition_of(resource: DltResource) -> Any:
    """`append`, `merge`, `replace`, or a function of the rows."""
    disposition: Any = resource.write_disposition
    return disposition.get("disposition") if isinstance(disposition, dict) else disposition
