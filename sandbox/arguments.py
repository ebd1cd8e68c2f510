"""Checks of the arguments of control calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def check_known(what: str, name: Any, known: Iterable[str]) -> None:
    """Raises ValueError for a name that is not one of the known ones."""
    if name not in (names := list(known)):
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(names)}")


def check_sizes(sizes: Mapping[str, Any], known: Iterable[str], most: int) -> None:
    """Raises ValueError for an unknown size, and for one that is not a whole number from 0 to `most`."""
    names = list(known)
    for name, value in sizes.items():
        check_known("size", name, names)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise ValueError(f"{name} must be a whole number from 0 to {most:,}, not {value!r}")
