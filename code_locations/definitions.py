"""All locations in one, for `dg` and `dagster dev` in the project's folder. Each container has one location."""

from importlib import import_module
from pkgutil import iter_modules

from dagster import Definitions

import code_locations

names = [name for _, name, is_package in iter_modules(code_locations.__path__) if is_package]
defs = Definitions.merge(*(import_module(f"code_locations.{name}.definitions").defs for name in names))
