"""The search: filters, sorting, paging, and its limits."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any

from sandbox.hubspot.properties import DEFAULTS
from sandbox.hubspot.store import Properties, Store

MAX_GROUPS, MAX_FILTERS, MAX_FILTERS_IN_TOTAL = 5, 6, 18
MAX_LIMIT, CEILING, MAX_BODY = 200, 10_000, 3_000
OPERATORS = ("EQ", "NEQ", "LT", "LTE", "GT", "GTE", "BETWEEN", "IN", "NOT_IN", "HAS_PROPERTY", "NOT_HAS_PROPERTY")


class RefusedError(Exception):
    """A request that is rejected with this status and message."""

    def __init__(self, message: str, status: int = 400, category: str = "VALIDATION_ERROR") -> None:
        super().__init__(message)
        self.message, self.status, self.category = message, status, category


def search(store: Store, kind: str, request: dict[str, Any], size: int) -> dict[str, Any]:
    """The response to `/search`, from the index. `size` is the length of the request's body."""
    if size > MAX_BODY:
        raise RefusedError(f"The request body has {size} characters; at most {MAX_BODY} are allowed")
    groups, sorts = request.get("filterGroups") or [], request.get("sorts") or []
    limit, start = int(request.get("limit") or 10), int(request.get("after") or 0)
    filters = [len(group["filters"]) for group in groups]
    if len(groups) > MAX_GROUPS or max(filters, default=0) > MAX_FILTERS or sum(filters) > MAX_FILTERS_IN_TOTAL:
        raise RefusedError(f"At most {MAX_GROUPS} groups of {MAX_FILTERS} filters, {MAX_FILTERS_IN_TOTAL} in total")
    if len(sorts) > 1:
        raise RefusedError("Only one sort is allowed")
    if not 0 < limit <= MAX_LIMIT:
        raise RefusedError(f"limit must be from 1 to {MAX_LIMIT}, not {limit}")
    if start + limit > CEILING:
        raise RefusedError(f"Paging beyond {CEILING} results is not supported")
    types = {name: found["type"] for name, found in store.definitions[kind].items()}
    unknown = {part["propertyName"] for group in groups for part in group["filters"]} - set(types)
    unknown |= {sort["propertyName"] for sort in sorts} - set(types)
    if unknown:
        raise RefusedError(f"Unknown properties: {', '.join(sorted(unknown))}")
    found = [
        record
        for record in store.active(kind)
        if record.indexed is not None
        and (not groups or any(all(_fits(part, record.indexed, types) for part in g["filters"]) for g in groups))
    ]
    for sort in sorts:
        name = sort["propertyName"]
        found.sort(
            key=lambda record: _comparable((record.indexed or {}).get(name) or "", types[name]),
            reverse=sort.get("direction") == "DESCENDING",
        )
    names = list(request.get("properties") or DEFAULTS[kind])
    rows = [(record, record.indexed or {}) for record in found[start : start + limit]]
    answer: dict[str, Any] = {
        "total": len(found),
        "results": [
            {
                "id": record.id,
                "properties": select(properties, [*names, *_ALWAYS[kind]], store, kind),
                "createdAt": record.created_at,
                "updatedAt": record.updated_at,
                "archived": False,
            }
            for record, properties in rows
        ],
    }
    if start + limit < len(found):
        answer["paging"] = {"next": {"after": str(start + limit)}}
    return answer


def select(properties: Properties, names: list[str], store: Store, kind: str) -> dict[str, str | None]:
    """The named properties of an object: null for a property without a value, nothing for an unknown one."""
    return {name: properties.get(name) for name in names if name in store.definitions[kind]}


_ALWAYS = {kind: [name for name in names if name.endswith(("_object_id", "date"))] for kind, names in DEFAULTS.items()}


def _fits(part: dict[str, Any], properties: Properties, types: dict[str, str]) -> bool:
    name, operator = part["propertyName"], part.get("operator")
    if operator not in OPERATORS:
        raise RefusedError(f"{operator} is not one of {', '.join(OPERATORS)}")
    value = properties.get(name) or ""
    if operator in ("HAS_PROPERTY", "NOT_HAS_PROPERTY"):
        return bool(value) is (operator == "HAS_PROPERTY")
    kind = types[name]
    given = [_comparable(str(one), kind) for one in _given(part, operator)]
    here = _comparable(value, kind)
    if operator in ("NEQ", "NOT_IN"):
        return here not in given
    if value == "":
        return False
    match operator:
        case "EQ" | "IN":
            return here in given
        case "LT":
            return bool(here < given[0])
        case "LTE":
            return bool(here <= given[0])
        case "GT":
            return bool(here > given[0])
        case "GTE":
            return bool(here >= given[0])
        case _:
            return bool(given[0] <= here <= given[1])


def _given(part: dict[str, Any], operator: str) -> Iterator[str]:
    try:
        if operator in ("IN", "NOT_IN"):
            yield from part["values"]
        else:
            yield part["value"]
        if operator == "BETWEEN":
            yield part["highValue"]
    except KeyError as error:
        raise RefusedError(f"{operator} needs {error}") from error


@lru_cache(maxsize=100_000)
def _comparable(value: str, kind: str) -> Any:
    """A value that compares as its type does: numbers as floats, times in any format as milliseconds."""
    if kind == "number":
        return float(value) if value else float("-inf")
    if kind in ("date", "datetime"):
        if not value or value.lstrip("-").isdigit():
            return int(value or -1)
        moment = datetime.fromisoformat(value if "T" in value else f"{value}T00:00:00+00:00")
        return round(moment.timestamp() * 1000)
    return value.lower()
