"""A secret that nobody has set fails the run that needs it, never the import of a whole location."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dlt
from dagster import Failure
from dlt.common.configuration.container import Container
from dlt.common.configuration.providers.provider import ConfigProvider
from dlt.common.configuration.specs import PluggableRunContext
from dlt.common.configuration.specs.base_configuration import extract_inner_hint, is_secret_hint
from dlt.common.typing import is_optional_type
from dlt.extract.source import DltSource


class MissingSecrets(ConfigProvider):
    """The last place where dlt looks for a source's secret. Stands in for it at import, and remembers its name.

    Many sources demand their secret when they are called, all of dlt's verified ones do, and a wiring file calls them
    to know their resources. A run imports the location in a process of its own, so it has the true secret or knows
    by `demand` that there is none: the stand-in reaches no vendor.
    """

    name = "Missing Secrets"
    supports_secrets = True
    supports_sections = True
    is_empty = False

    def __init__(self) -> None:
        self.keys: dict[str, set[str]] = {}  # by section of the source

    def get_value(self, key: str, hint: Any, pipeline_name: str | None, *sections: str) -> tuple[str | None, str]:
        """A stand-in for a required secret string of a source, once dlt has found it nowhere else."""
        required = is_secret_hint(hint) and extract_inner_hint(hint) is str and not is_optional_type(hint)
        if pipeline_name or not required or sections[:1] != ("sources",) or len(sections) < 2:
            return None, key
        self.keys.setdefault(sections[1], set()).add(key)
        return f"missing: {_variable(sections[1], key)}", key

    @contextmanager
    def demand(self, source: DltSource) -> Iterator[None]:
        """Fails if `source` was built without a secret. Within it, what is missing besides is dlt's own error."""
        section = source.section
        wanted = sorted(key for key in self.keys.get(section, ()) if not dlt.secrets.get(f"sources.{section}.{key}"))
        if wanted:
            names = ", ".join(_variable(section, key) for key in wanted)
            raise Failure(f"{names} is missing or empty: set it to load {source.name}.", allow_retries=False)
        self.is_empty = True  # dlt asks no provider that is empty
        try:
            yield
        finally:
            self.is_empty = False


missing_secrets = MissingSecrets()


def tolerate_missing_secrets() -> None:
    """For all that this process imports from now on. Called by `code_locations`, before any location."""
    for name, value in list(os.environ.items()):
        if not value and name.startswith(("SOURCES__", "DESTINATION__")):
            del os.environ[name]  # `NAME=` in .env means the same as no line: dlt would take "" for the secret
    providers = Container()[PluggableRunContext].providers
    if missing_secrets.name not in providers:
        providers.add_provider(missing_secrets)


def _variable(section: str, key: str) -> str:
    return f"SOURCES__{section}__{key}".upper()
