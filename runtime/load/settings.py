"""Settings of a code location: environment variables that it reads at import, and the options of a load."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any, Literal

from dagster import Config
from pydantic import Field


class LoadOptions(Config):
    """Options of a load, set in the launchpad, by a schedule or by a job. `runtime.load.guards` refuses some."""

    refresh: Literal["no", "drop_data", "drop_resources", "drop_sources"] = Field(
        default="no",
        description="dlt's refresh: first empty the tables that are loaded (drop_data), drop them (drop_resources), or "
        "drop all tables of the source (drop_sources), and forget their cursors. Readers find less meanwhile.",
    )
    max_items: int = Field(
        default=0,
        ge=0,
        description="A try-out: read about so many rows of each table. Cursors stay where they are, so the next load "
        "reads the rest. 0 reads all rows.",
    )

    @property
    def arguments(self) -> dict[str, Any]:
        """What to pass to `dlt.run`."""
        given = {"refresh": self.refresh if self.refresh != "no" else None, "max_items": self.max_items}
        return {name: value for name, value in given.items() if value}


class LoadConfig(LoadOptions):
    """The same, for a source that can read everything again without emptying its tables."""

    full_reload: bool = Field(
        default=False, description="Read everything again, not only what changed since the last load."
    )


def parse_list(
    variable: str,
    value: str,
    *,
    entry: str,
    expected: str,
    key: Callable[[str], str] = str.lower,
    may_be_empty: bool = False,
) -> Sequence[str]:
    """The entries of a comma-separated variable, in order.

    `entry` is the regular expression that an entry must match, `expected` describes it in the error message. Two
    entries with the same `key` count as the same.

    Raises:
        ValueError: the list is empty and must not be, an entry does not match, or an entry is listed twice.
    """
    entries = [part.strip() for part in value.split(",") if part.strip()]
    invalid = [name for name in entries if not re.fullmatch(entry, name)]
    repeated = [name for name, times in Counter(map(key, entries)).items() if times > 1]
    if not entries and not may_be_empty:
        problem = "The list is empty"
    elif invalid:
        problem = f"Not valid: {', '.join(invalid)}"
    elif repeated:
        problem = f"Listed twice: {', '.join(repeated)}"
    else:
        return entries
    raise ValueError(f"{variable}={value!r} must be a comma-separated list of {expected}. {problem}.")


def parse_date(variable: str, value: str) -> str:
    """The date in a variable, as `2026-01-31`. Raises ValueError if it is not one."""
    try:
        return date.fromisoformat(value).isoformat()
    except ValueError:
        raise ValueError(f"{variable}={value!r} is not a date. Write it as 2026-01-31.") from None
