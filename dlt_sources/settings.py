"""A source's settings, each read under its exact name: `SOURCES__<SOURCE>__<KEY>`, or dlt's TOML files and vaults.

dlt's injection would fall back to shorter names: any `API_KEY` in the environment would be sent to the vendor.
"""

from typing import Any

import dlt
from dlt.common.configuration.const import TYPE_EXAMPLES  # what `dlt init` writes: `<configure me>`

from dlt_sources.errors import PermanentSourceError


def variable(source: str, key: str) -> str:
    """The setting's environment variable."""
    return f"SOURCES__{source}__{key}".replace(".", "__").upper()


def read(source: str, key: str, purpose: str, given: str | None = None, secret: bool = False) -> str:
    """The setting, `given` or configured, without surrounding whitespace; empty if it is missing.

    A placeholder is an error. `purpose` completes its message: `set it to read from Thinkific`.
    """
    found: Any = given or (dlt.secrets if secret else dlt.config).get(f"sources.{source}.{key}")
    value = "" if found is None else str(found).strip()
    if placeholder := _placeholder(value):
        raise PermanentSourceError(f"{variable(source, key)} is still the placeholder {placeholder}: set it {purpose}.")
    return value


def require(source: str, key: str, purpose: str, given: str | None = None, secret: bool = False) -> str:
    """As `read`, but a missing setting is an error too."""
    value = read(source, key, purpose, given, secret)
    if not value:
        raise PermanentSourceError(f"{variable(source, key)} is missing, empty or a placeholder: set it {purpose}.")
    return value


def _placeholder(value: str) -> str | None:
    """The placeholder that a value is, without anything that may be a real key pasted into it."""
    if value.upper().startswith("CHANGEME"):
        return "CHANGEME"
    if value.startswith("<") and value.endswith(">"):
        return value if value == TYPE_EXAMPLES["text"] else "<…>"
    return None
