"""These tests are about the fast layer, so they need it."""

import pytest

from runtime import accelerate


@pytest.fixture(autouse=True)
def accelerated() -> None:
    if not accelerate.install():
        pytest.skip("RUNTIME__ACCELERATE=false")
