"""Where dlt looks for its configuration, besides variables and files. Each holds for the time of a load."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dlt.common.configuration.container import Container
from dlt.common.configuration.providers import ConfigProvider
from dlt.common.configuration.specs import PluggableRunContext


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
