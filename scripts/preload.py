"""Imports the locations in the process that the demo's workers are forked from. A worker reports what cannot load."""

from contextlib import suppress
from importlib import import_module

from scripts import locations

for name in locations.of_demo():
    with suppress(Exception):  # would end the process, and the worker's message be lost
        import_module(locations.module(name))
