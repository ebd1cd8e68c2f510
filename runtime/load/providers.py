"""Where dlt looks for its configuration, besides variables and files, and when."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dlt.common.configuration.container import Container
from dlt.common.configuration.providers import ConfigProvider
from dlt.common.configuration.providers.vault import VaultDocProvider
from dlt.common.configuration.specs import PluggableRunContext
from dlt.common.configuration.specs.base_configuration import is_secret_hint

VAULTS = ("PROVIDERS__ENABLE_AWS_SECRETS", "PROVIDERS__ENABLE_GOOGLE_SECRETS")


@contextmanager
def settings_of(pipeline_name: str, alias: str) -> Iterator[None]:
    """Within it, dlt also looks under `pipeline_name` for what it needs for the pipeline `alias`."""
    if alias == pipeline_name:
        yield
        return
    with asked_first(Alias(pipeline_name, alias, list(_providers()))):
        yield


@contextmanager
def asked_first(provider: ConfigProvider) -> Iterator[None]:
    """Within it, dlt asks this provider for each value before it looks at variables and files."""
    providers = _providers()
    providers.insert(0, provider)
    try:
        yield
    finally:
        providers.remove(provider)


@contextmanager
def without_vaults() -> Iterator[None]:
    """Within it, dlt may be set up: it asks a vault as soon as it has one, and fails if the vault does not answer."""
    hidden = {name: os.environ.pop(name) for name in VAULTS if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
        if hidden:
            Container()[PluggableRunContext].providers.add_extras()


@contextmanager
def vaults_at_import() -> Iterator[None]:
    """Within it, dlt asks a vault for nothing but a secret that a source demands.

    dlt asks for every setting: a vault that is away would take the whole location with it, and what it said at import
    would hold until the location restarts.
    """
    providers = _providers()
    before = list(providers)
    providers[:] = [AtImport(one) if isinstance(one, VaultDocProvider) else one for one in before]
    try:
        yield
    finally:
        providers[:] = before


def _providers() -> list[ConfigProvider]:
    return Container()[PluggableRunContext].providers.providers


class Alias(ConfigProvider):
    """Answers for one pipeline name with what the other providers have for another."""

    supports_secrets = True
    supports_sections = True

    def __init__(self, pipeline_name: str, alias: str, providers: list[ConfigProvider]) -> None:
        self.pipeline_name = pipeline_name
        self.alias = alias
        self.providers = providers

    @property
    def name(self) -> str:
        return f"settings of {self.pipeline_name}"

    def get_value(self, key: str, hint: type[Any], pipeline_name: str | None, *sections: str) -> tuple[Any, str]:
        found = None, f"{self.pipeline_name}.{'.'.join((*sections, key))}"
        if pipeline_name == self.alias:
            for provider in self.providers:
                found = provider.get_value(key, hint, self.pipeline_name, *sections)
                if found[0] is not None:
                    break
        return found


class AtImport(ConfigProvider):
    """A vault that answers for the secrets of sources alone."""

    supports_secrets = True
    supports_sections = True

    def __init__(self, vault: VaultDocProvider) -> None:
        self.vault = vault

    @property
    def name(self) -> str:
        return self.vault.name

    def get_value(self, key: str, hint: type[Any], pipeline_name: str | None, *sections: str) -> tuple[Any, str]:
        if "sources" in sections and is_secret_hint(hint):
            return self.vault.get_value(key, hint, pipeline_name or "", *sections)
        return None, key
