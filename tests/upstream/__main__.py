"""`make test-upstream`: the suites of Dagster and dlt, once with the libraries alone and once with ours in their place.

The suites come with the libraries' source packages of `uv.lock`, those of dlt from its repository: its packages have no
tests. Fails if a test has another outcome with ours, unless `differences.txt` names it with a reason. A test that fails
with the libraries alone, for want of Docker or of a cloud, says nothing about ours.

`make test-upstream SUITE=storage` runs one suite.
"""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tomllib
import urllib.request
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".upstream"
PLUGIN = Path(__file__).with_name("upstream_plugin.py")  # dlt's tests are a package called `tests`, as ours are
DIFFERENCES = Path(__file__).with_name("differences.txt")
DLT_REPOSITORY = os.environ.get("DLT_REPOSITORY", "https://github.com/dlt-hub/dlt")


@dataclass(frozen=True)
class Suite:
    """Tests of a library: its package, the files, and pytest's choice among them."""

    package: str
    files: tuple[str, ...]
    choice: str = ""


SUITES = {
    "storage": Suite("dagster-postgres", ("dagster_postgres_tests",), "not compat"),
    "daemon": Suite(
        "dagster",
        (
            "dagster_tests/daemon_tests/test_concurrency_daemon.py",
            "dagster_tests/daemon_tests/test_queued_run_coordinator_daemon.py",
            "dagster_tests/daemon_tests/test_monitoring_daemon.py",
            "dagster_tests/daemon_tests/test_backfill_failure_recovery.py",
        ),
    ),
    "launcher": Suite("dagster", ("dagster_tests/launcher_tests",)),
    "grpc": Suite("dagster", ("dagster_tests/general_tests/grpc_tests",)),
    "normalize": Suite("dlt", ("tests/normalize",)),
    "pipeline": Suite("dlt", ("tests/pipeline",)),
    "load": Suite("dlt", ("tests/load/pipeline/test_pipelines.py", "tests/load/pipeline/test_merge_disposition.py")),
}


def main(names: list[str]) -> int:
    expected = differences()
    wrong = 0
    for name in names or SUITES:
        suite = SUITES[name]
        folder = unpack(suite.package)
        stock, ours = (outcomes(suite, folder, with_ours) for with_ours in (False, True))
        passed = sum(outcome == "passed" for outcome in stock.values())
        print(f"{name}: {len(stock)} tests, {passed} pass with {suite.package} alone")
        for test in sorted(test for test, outcome in stock.items() if outcome != ours.get(test, "missing")):
            reason = expected.pop(f"{name}::{test}", None)
            wrong += not reason
            print(f"  {test}: {stock[test]}, with ours {ours.get(test, 'missing')}. {reason or 'NOT EXPECTED'}")
        for test in [key for key, why in expected.items() if key.startswith(f"{name}::") and "sometimes" not in why]:
            wrong += 1
            print(f"  {test} is in {DIFFERENCES.name}, but has the same outcome now")
        wrong += not passed
    return 1 if wrong else 0


def differences() -> dict[str, str]:
    """Test → why its outcome is another with ours."""
    lines = [line for line in DIFFERENCES.read_text().splitlines() if line and not line.startswith("#")]
    return {test.strip(): reason.strip() for test, _, reason in (line.partition(" # ") for line in lines)}


def unpack(package: str) -> Path:
    """The folder with a library's tests, in the version of the lock."""
    [locked] = [one for one in tomllib.loads((ROOT / "uv.lock").read_text())["package"] if one["name"] == package]
    folder = FOLDER / f"{package}-{locked['version']}"
    if folder.exists():
        return folder
    if package == "dlt":
        command = [
            "git",
            "clone",
            "--quiet",
            "--depth",
            "1",
            "--branch",
            locked["version"],
            DLT_REPOSITORY,
            str(folder),
        ]
        subprocess.run(command, check=True)
        (folder / "dlt").rename(folder / "not-installed")  # the tests are to import the package of the lock
        return folder
    with urllib.request.urlopen(locked["sdist"]["url"], timeout=60) as response:
        content = response.read()
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != locked["sdist"]["hash"]:
        raise SystemExit(f"The source package of {package} is not the one of uv.lock.")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        root = archive.getnames()[0].split("/")[0]
        tests = [one for one in archive.getmembers() if one.name.split("/")[1:2] and "tests" in one.name.split("/")[1]]
        archive.extractall(FOLDER / "new", tests, filter="data")
    (FOLDER / "new" / root).rename(folder)
    return folder


def outcomes(suite: Suite, folder: Path, with_ours: bool) -> dict[str, str]:
    """Test → passed, failed or skipped."""
    report = FOLDER / "report.xml"
    report.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "upstream_plugin",
        "-p",
        "no:cacheprovider",
        "-q",
        "--continue-on-collection-errors",
    ]
    command += ["--rootdir", str(folder), "--confcutdir", str(folder), "-c", os.devnull, f"--junit-xml={report}"]
    command += ["--timeout", "180", *(["-k", suite.choice] if suite.choice else [])]
    paths = [folder, *([unpack("dagster")] if suite.package == "dagster-postgres" else []), ROOT, PLUGIN.parent]
    environment = os.environ | {"PYTHONPATH": ":".join(map(str, paths)), "WITH_OURS": "1" if with_ours else ""}
    log = FOLDER / f"{'ours' if with_ours else 'stock'}.log"
    with log.open("w") as file:
        subprocess.run(
            [*command, *suite.files], cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False
        )
    if not report.exists():
        raise SystemExit(f"pytest did not run:\n{log.read_text()[-3000:]}")
    return dict(map(_outcome, ElementTree.parse(report).iter("testcase")))


def _outcome(case: ElementTree.Element) -> tuple[str, str]:
    found: Mapping[str, str] = {"failure": "failed", "error": "failed", "skipped": "skipped"}
    outcome = next((found[one.tag] for one in case if one.tag in found), "passed")
    return f"{case.get('classname')}.{case.get('name')}", outcome


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
