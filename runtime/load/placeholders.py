"""Settings that nobody has made: empty values and placeholders count as missing."""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from dlt.common.configuration.const import TYPE_EXAMPLES
from dlt.common.configuration.container import Container
from dlt.common.configuration.providers.toml import SettingsTomlProvider
from dlt.common.configuration.specs import PluggableRunContext

from runtime.load.providers import without_vaults

DLT_VARIABLE = re.compile(r"(^|__)(SOURCES|DESTINATION)__")
SOURCE_VARIABLE = re.compile(r"(^|__)SOURCES__")


def drop_placeholders() -> None:
    """Removes them from this process's environment and from dlt's TOML files. Called before any location is imported.

    dlt would send an empty value or a placeholder to the vendor as the secret. Once they are gone, dlt names the
    variables that it looked for.
    """
    for name, value in list(os.environ.items()):
        if is_placeholder(value, name):
            del os.environ[name]
    with without_vaults():
        providers = Container()[PluggableRunContext].providers.providers
    for provider in providers:
        if isinstance(provider, SettingsTomlProvider):  # .dlt/config.toml and .dlt/secrets.toml
            for *sections, key in _placeholders(tomllib.loads(provider.to_toml())):
                provider.set_value(key, None, None, *sections)


def is_placeholder(value: str, variable: str) -> bool:
    """Whether nobody has filled in the variable yet: it is empty, `<configure me>` of `dlt init`, or `CHANGEME…`.

    `CHANGEME…` is a placeholder only for a source: the databases of the compose file work with such a password.
    """
    value = value.strip()
    return (
        value == TYPE_EXAMPLES["text"]
        or (not value and DLT_VARIABLE.search(variable) is not None)
        or (value.startswith("CHANGEME") and SOURCE_VARIABLE.search(variable) is not None)
    )


def _placeholders(table: Mapping[str, Any], *sections: str) -> Iterator[tuple[str, ...]]:
    """The paths of all placeholders in a TOML document."""
    for key, value in table.items():
        path = (*sections, key)
        if isinstance(value, Mapping):
            yield from _placeholders(value, *path)
        elif isinstance(value, str) and is_placeholder(value, "__".join(path).upper()):
            yield path
