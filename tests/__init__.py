"""Tests run accelerated, as in a code location, unless RUNTIME__ACCELERATE=false."""

from runtime import accelerate

accelerate.install()
