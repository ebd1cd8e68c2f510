"""`make preview` starts a second stack beside the first, on the sandbox; `make preview-down` leaves nothing of it."""

import json
import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.stack import LOCATIONS, Clone, wait_for

pytestmark = pytest.mark.timeout(1200)
LABEL = "com.docker.compose.project"


@pytest.fixture
def preview(running: Clone) -> Iterator[Clone]:
    """The clone whose main stack runs, with a secret of its own. No preview is left."""
    running.set("SOURCES__GITHUB__ACCESS_TOKEN", "a-real-secret")
    yield running
    running.script("preview", "down", "pr-12")


def left(project: str) -> dict[str, list[str]]:
    """What Docker has with the label of a project."""
    return {
        kind: subprocess.check_output(
            ["docker", kind, "ls", "--quiet", "--filter", f"label={LABEL}={project}"], text=True
        ).split()
        for kind in ("container", "network", "volume", "image")
    }


def test_a_preview_beside_the_main_stack_and_nothing_left(preview: Clone) -> None:
    main, volumes = preview.container_ids(), left(preview.project)["volume"]
    done = preview.script("preview", "up", "pr-12")

    assert done.returncode == 0, done.stderr + done.stdout
    [port] = re.findall(r"^pr-12 is at http://127\.0\.0\.1:(\d+)$", done.stdout, re.MULTILINE)
    project = f"{preview.root.name}-preview-pr-12"
    environments = subprocess.check_output(
        ["docker", "inspect", "--format", "{{json .Config.Env}}", *left(project)["container"]], text=True
    )
    assert "a-real-secret" not in environments
    assert "CHANGEME" not in environments
    assert not set(left(project)["volume"]) & set(volumes)
    other = beside(preview, project, int(port))
    wait_for(lambda: other.locations() == dict.fromkeys(LOCATIONS, "loaded"), 60, "every location to load")
    assert other.materialize([["github", "issues"]], "sandbox/handbook")["status"] == "SUCCESS"

    again = preview.script("preview", "up", "pr-12")
    assert again.stdout == f"pr-12 is at http://127.0.0.1:{port}\n", again.stderr
    assert ["github", "issues"] in other.materialized()

    gone = preview.script("preview", "down", "pr-12")
    assert gone.stdout == "pr-12 is deleted, with its volumes and images.\n"
    assert left(project) == {"container": [], "network": [], "volume": [], "image": []}
    assert preview.script("preview", "down", "pr-12").stdout == "There is no preview pr-12.\n"
    assert preview.container_ids() == main
    assert left(preview.project)["volume"] == volumes


def beside(stack: Clone, project: str, port: int) -> Clone:
    """The preview, driven as any other stack."""
    other = Clone.__new__(Clone)
    other.project, other.root, other.port, other.env_file = project, stack.root, port, stack.root / ".env.example"
    return other


@pytest.mark.parametrize("name", ["", "PR-12", "pr/12", "-pr", "x" * 31, "pr 12"])
def test_a_name_that_cannot_be_one_is_refused(preview: Clone, name: str) -> None:
    done = preview.script("preview", "up", name)

    assert done.returncode == 1
    assert f"NAME={name} is no name of a preview" in done.stderr


def test_another_folder_does_not_take_over_a_preview(preview: Clone) -> None:
    """Nor deletes it."""
    project = f"{preview.root.name}-preview-taken"
    labels = ["--label", f"{LABEL}={project}", "--label", f"{LABEL}.working_dir=/usr"]
    container = subprocess.check_output(["docker", "create", *labels, "postgres:17"], text=True).strip()
    try:
        for action in ("up", "down"):
            done = preview.script("preview", action, "taken")
            assert done.stderr == "/usr has a preview of this name. Choose another NAME, or delete that one there.\n"
        state = json.loads(subprocess.check_output(["docker", "inspect", container], text=True))
        assert state[0]["State"]["Status"] == "created"
    finally:
        subprocess.run(["docker", "rm", container], check=True, capture_output=True)
