"""What is configured under a pipeline's name also holds for the pipelines of its named partitions."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dlt.common.configuration.container import Container
from dlt.common.configuration.providers import ConfigProvider
from dlt.common.configuration.specs import PluggableRunContext


@contextmanager
def settings_of(pipeline_name: str, alias: str) -> Iterator[None]:
    """Within it, dlt also looks under `pipeline_name` for what it needs for the pipeline `alias`."""
    providers = Container()[PluggableRunContext].providers.providers
    alias_provider = Alias(pipeline_name, alias, list(providers))
    if alias != pipeline_name:
        providers.insert(0, alias_provider)  # dlt asks one provider after the other, each first with the name
    try:
        yield
    finally:
        if alias_provider in providers:
            providers.remove(alias_provider)


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
