"""Secrets reach only the services that need them: these tests search everything that a run leaves for planted ones."""

import json
import re
import subprocess

import pytest

from tests.support.stack import LOCATIONS, Stack, wait_for

TOKEN, WRONG_TOKEN, WRONG_PASSWORD = "sandbox-token", "canary-token-5d1c9e", "canary-password-8a40b7"
INSTANCE, WAREHOUSE, SOURCE = "DAGSTER_POSTGRES_PASSWORD", "DESTINATION__POSTGRES__CREDENTIALS__PASSWORD", "TOKEN"
SHOP, READER = "SHOP_PASSWORD", "SHOP_READER_PASSWORD"
MAY_KNOW = {
    "postgres": {INSTANCE},
    "migrate": {INSTANCE},
    "webserver": {INSTANCE},
    "daemon": {INSTANCE},
    "warehouse": {WAREHOUSE},
    "sandbox": set(),
    "shop": {SHOP, READER},
    "analytics": {INSTANCE, WAREHOUSE},
    "engineering": {INSTANCE, WAREHOUSE, SOURCE},
    "learning": {INSTANCE, WAREHOUSE, SOURCE},
    "operations": {INSTANCE, WAREHOUSE, READER},
    "platform": {INSTANCE, WAREHOUSE},
    "revenue": {INSTANCE, WAREHOUSE, SOURCE},
}
# Everything that a process wrote: files and traces of failed loads, captured logs, temporary files.
FILES = """
import gzip, os, pathlib, sys
for folder in sys.argv[1:]:
    for path in pathlib.Path(folder).rglob('*'):
        if not path.is_file() or not os.access(path, os.R_OK):
            continue
        data = path.read_bytes()
        print(path, (gzip.decompress(data) if data[:2] == b'\\x1f\\x8b' else data).decode('latin-1'))
"""

DUMPS = "for dump in /backups/*/*.dump; do pg_restore --file - $dump || exit; done"


@pytest.fixture(scope="module")
def secrets(changed_stack: Stack) -> dict[str, set[str]]:
    """Every value that each secret has in these tests. The random passwords of `.env` are canaries too."""
    passwords = dict(re.findall(r"^(\w+PASSWORD)=(.+)$", changed_stack.env_file.read_text(), re.MULTILINE))
    return {
        INSTANCE: {passwords[INSTANCE]},
        WAREHOUSE: {passwords[WAREHOUSE], WRONG_PASSWORD},
        SOURCE: {TOKEN, WRONG_TOKEN},
        SHOP: {passwords[SHOP]},
        READER: {passwords[READER]},
    }


@pytest.fixture(scope="module")
def runs(changed_stack: Stack, secrets: dict[str, set[str]]) -> list[str]:
    """Loads that succeed, are refused, get the token back in an error, and cannot sign in to the warehouse."""
    stack, ids = changed_stack, []

    def load(expected: str, reason: str = "") -> None:
        wait_for(lambda: stack.locations()["engineering"] == "loaded", 60, "engineering to load")
        run = stack.materialize([["github", "issues"]], "sandbox/handbook")
        ids.append(run["runId"])
        log = json.dumps(stack.events(run["runId"]))
        assert run["status"] == expected, log[-3000:]
        assert reason in log

    load("SUCCESS")
    # Six times: the source gives up after five attempts, and the run retries.
    stack.sandbox("/faults", kind="status", status=500, message=f"no luck with {TOKEN}", times=6)
    load("SUCCESS", "no luck with ***")
    stack.sandbox("/faults", kind="status", status=403, message=f"no entry for {TOKEN}")
    load("FAILURE", "no entry for ***")
    stack.apply(SOURCES__GITHUB__ACCESS_TOKEN=WRONG_TOKEN)
    load("FAILURE", "GitHub rejects the credential")
    figures = [["dagster", "runs"], ["dagster", "materializations"], ["reports", "deployment"]]
    for keys in (figures, [["platform", "backup"]]):
        run = stack.materialize(keys, None, "platform")
        assert run["status"] == "SUCCESS", stack.failures(run["runId"])
    stack.apply(SOURCES__GITHUB__ACCESS_TOKEN=TOKEN, DESTINATION__POSTGRES__CREDENTIALS__PASSWORD=WRONG_PASSWORD)
    load("FAILURE", "password authentication failed")
    return ids


@pytest.fixture(scope="module")
def surfaces(changed_stack: Stack, runs: list[str]) -> dict[str, str]:
    """Everything that is kept of those runs, as text."""
    stack = changed_stack
    folders = ["/var/dlt", "/dagster/storage", "/tmp", "/app/data"]
    return {
        "the event log in the UI": json.dumps([stack.events(run) for run in runs]),
        "what runs printed": "".join(stack.captured_logs(run) for run in runs),
        "Dagster's database": stack.compose("exec", "-T", "postgres", "pg_dump", "-U", "dagster", "dagster").stdout,
        "the warehouse": stack.compose("exec", "-T", "warehouse", "pg_dump", "-U", "loader", "warehouse").stdout,
        "files": stack.compose("exec", "-T", "engineering", "python", "-c", FILES, *folders).stdout,
        "backups": stack.compose("exec", "-T", "platform", "sh", "-c", DUMPS).stdout,
        "container logs": stack.compose("logs", "--no-color").stdout,
    }


def test_nothing_that_is_kept_contains_a_secret(surfaces: dict[str, str], secrets: dict[str, set[str]]) -> None:
    found = [
        (surface, secret)
        for surface, text in surfaces.items()
        for secret, values in secrets.items()
        if any(value in text for value in values)
    ]
    assert found == []


def test_the_search_finds_text_that_is_there(surfaces: dict[str, str]) -> None:
    """The messages of the failures are where the secrets would be."""
    for surface in ("the event log in the UI", "what runs printed", "Dagster's database", "files"):
        assert "GitHub rejects the credential" in surfaces[surface], surface
        assert "password authentication failed" in surfaces[surface], surface
    assert "GitHub rejects the credential" in surfaces["backups"]
    for surface in ("the warehouse", "backups"):
        assert "handbook" in surfaces[surface]
        assert "raw_dagster" in surfaces[surface]  # the figures
    assert "deployment.html" in surfaces["files"]


@pytest.mark.parametrize("service", MAY_KNOW)
def test_a_container_has_the_secrets_it_needs_and_no_other(
    changed_stack: Stack, runs: list[str], secrets: dict[str, set[str]], service: str
) -> None:
    stack = changed_stack
    [container] = stack.compose("ps", "--all", "--quiet", service).stdout.split()
    inspected = subprocess.run(["docker", "inspect", container], capture_output=True, text=True, check=True).stdout
    processes = ""
    if service != "migrate":  # it has ended
        processes = stack.compose("exec", "-T", service, "sh", "-c", "cat /proc/[0-9]*/environ", check=False).stdout
    known = {
        secret
        for secret, values in secrets.items()
        if any(value in text for value in values for text in (inspected, processes))
    }
    assert known == MAY_KNOW[service]


@pytest.mark.parametrize("location", [name for name in LOCATIONS if name != "engineering"])
def test_a_location_finds_no_file_with_a_secret_of_another_one(
    changed_stack: Stack, runs: list[str], secrets: dict[str, set[str]], location: str
) -> None:
    others = {value for name in secrets if name not in MAY_KNOW[location] for value in secrets[name]}
    folders = ["/app/data", "/backups", "/dagster", "/files", "/run", "/tmp", "/var"]
    files = changed_stack.compose("exec", "-T", location, "python", "-c", FILES, *folders).stdout

    assert "engineering" in files  # the records of its runs
    assert [value for value in others | {WRONG_TOKEN} if value in files] == []
