"""How dlt reads its configuration here: empty values and placeholders count as missing, `postgresql://` is psycopg2."""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from dlt.common.configuration.const import TYPE_EXAMPLES
from dlt.common.configuration.container import Container
from dlt.common.configuration.providers.toml import SettingsTomlProvider
from dlt.common.configuration.specs import PluggableRunContext
from sqlalchemy.dialects import registry

OF_DLT = re.compile(r"(^|__)(SOURCES|DESTINATION)__")
OF_A_SOURCE = re.compile(r"(^|__)SOURCES__")


def prepare() -> None:
    """Applies to everything that this process reads from now on. Called by `code_locations`, before any location.

    dlt would send an empty value or a placeholder to the vendor as the secret. Once they are gone, dlt names the
    variables that it looked for.
    """
    for name, value in list(os.environ.items()):
        if is_placeholder(value, name):
            del os.environ[name]
    for provider in Container()[PluggableRunContext].providers.providers:
        if isinstance(provider, SettingsTomlProvider):  # .dlt/config.toml and .dlt/secrets.toml
            for *sections, key in _placeholders(tomllib.loads(provider.to_toml())):
                provider.set_value(key, None, None, *sections)
    # SQLAlchemy 2.1 would take psycopg 3, which is not installed.
    registry.register("postgresql", "sqlalchemy.dialects.postgresql.psycopg2", "dialect")


def is_placeholder(value: str, variable: str) -> bool:
    """Whether nobody has filled in the variable yet: it is empty, `<configure me>` of `dlt init`, or `CHANGEME…`.

    `CHANGEME…` is a placeholder only for a source: the databases of the compose file work with such a password.
    """
    value = value.strip()
    return (
        value == TYPE_EXAMPLES["text"]
        or (not value and OF_DLT.search(variable) is not None)
        or (value.startswith("CHANGEME") and OF_A_SOURCE.search(variable) is not None)
    )


def _placeholders(table: Mapping[str, Any], *sections: str) -> Iterator[tuple[str, ...]]:
    """The paths of all placeholders in a TOML document."""
    for key, value in table.items():
        path = (*sections, key)
        if isinstance(value, Mapping):
            yield from _placeholders(value, *path)
        elif isinstance(value, str) and is_placeholder(value, "__".join(path).upper()):
            yield path
