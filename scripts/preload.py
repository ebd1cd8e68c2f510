"""Imports the locations in the process that the demo's workers are forked from. A worker reports what cannot load."""

from contextlib import suppress
from importlib import import_module

from scripts.local import demo_locations, module

for name in demo_locations():
    with suppress(Exception):  # would end the process, and the worker's message be lost
        import_module(module(name))
