"""The compose stack, started from nothing in a project of its own; and one of a clone, started by `make up`."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stack import PROJECT, Clone, Stack, clone, wait_for


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    arguments = [Path(argument.partition("::")[0]) for argument in config.invocation_params.args]
    asked_for = any("stack" in path.parts for path in arguments)
    for item in items:
        if "stack" in item.path.parts:
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(600))
            if not asked_for:
                item.add_marker(pytest.mark.skip(reason="builds and starts the stack in Docker: make test-stack"))


@pytest.fixture(scope="module")
def changed_stack(stack: Stack) -> Iterator[Stack]:
    """The stack for tests that change its settings, which are restored afterwards."""
    before = stack.env_file.read_text()
    yield stack
    stack.env_file.write_text(before)
    stack.apply()
    wait_for(lambda: stack.locations()["engineering"] == "loaded", 60, "engineering to load as before")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack with the settings of .env.example, started from nothing; `down` must leave no container."""
    assert shutil.which("docker"), "make test-stack needs Docker with Compose"
    files = os.environ.get("STACK_COMPOSE_FILE", "docker-compose.yml")  # `make test-docker-runs`
    stack = Stack(tmp_path_factory.mktemp("stack"), COMPOSE_FILE=files)
    stack.down()
    stack.up()
    yield stack
    stack.down()
    assert stack.containers() == []


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Clone, str]]:
    """A clone after its first `make up`, and what that printed."""
    root = clone(tmp_path_factory.mktemp("clones") / "first")
    project = f"{PROJECT}-clone"
    stack = Clone(root, project, root, COMPOSE_PROJECT_NAME=project)
    stack.down()
    try:
        result = stack.make_up()
        assert result.returncode == 0, result.stderr + result.stdout
        yield stack, result.stdout
    finally:
        stack.down()
    assert stack.containers() == []


@pytest.fixture
def running(started: tuple[Clone, str]) -> Iterator[Clone]:
    """The clone. Its settings are as before when a test ends."""
    stack, _ = started
    before = stack.env_file.read_text()
    yield stack
    stack.env_file.write_text(before)
