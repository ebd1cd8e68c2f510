"""`make deploy` replaces one location, and puts the old image back if the new one does not load."""

from pathlib import Path

import pytest

from tests.support.stack import Clone


@pytest.fixture(scope="module", autouse=True)
def well(started: tuple[Clone, str]) -> None:
    """Whatever the tests before have left."""
    started[0].up()


@pytest.fixture
def github(running: Clone) -> Path:
    return running.root / "code_locations" / "engineering" / "github.py"


def deploy(stack: Clone) -> tuple[int, str]:
    done = stack.script("deploy", "engineering")
    return done.returncode, done.stdout


def test_a_change_replaces_one_container_and_no_other(running: Clone, github: Path) -> None:
    before = running.container_ids()
    github.write_text(github.read_text().replace('cron_schedule="7 */6', 'cron_schedule="5 */6'))

    assert deploy(running) == (0, "engineering is deployed.\n")
    assert {name for name, container in running.container_ids().items() if before[name] != container} == {"engineering"}
    schedules = running.graphql("""{ repositoriesOrError { ... on RepositoryConnection { nodes { location { name }
        schedules { cronSchedule } } } } }""")["repositoriesOrError"]["nodes"]
    [found] = [node["schedules"] for node in schedules if node["location"]["name"] == "engineering"]
    assert {"cronSchedule": "5 */6 * * *"} in found


@pytest.mark.parametrize("broken", ["definitions", "github"])
def test_what_does_not_load_is_not_deployed(running: Clone, github: Path, broken: str) -> None:
    """A module alone would leave the location without its assets; the table of contents the whole location."""
    module = github.with_stem(broken)
    code = module.read_text()
    module.write_text(f"raise ValueError('what I broke')\n{code}")
    image = running.image("engineering")
    status, said = deploy(running)
    module.write_text(code)

    assert status == 1
    assert "engineering was not deployed: " in said
    assert "what I broke" in said
    assert "The image from before runs again." in said
    assert running.image("engineering") == image
    assert running.locations()["engineering"] == "loaded"
    assert ["github", "issues"] in running.assets()


def test_what_does_not_build_changes_nothing(running: Clone) -> None:
    before = running.container_ids()
    lists = running.root / "code_locations" / "engineering" / "github.py"
    code = lists.read_text()
    lists.write_text("this is no Python\n")
    done = running.script("deploy", "engineering")
    lists.write_text(code)

    assert done.returncode == 1
    assert "could not be built" in done.stderr
    assert running.container_ids() == before


def test_a_name_that_is_no_location_is_refused(running: Clone) -> None:
    done = running.script("deploy", "engineerin")

    assert done.returncode == 1
    assert "analytics, engineering, learning" in done.stderr
