"""What only the webserver knows: which locations are loaded, and what they define."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import requests
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

TIMEOUT_SECONDS = 5.0
CHECKS_SECONDS = 300.0  # their names cost the webserver more than all the rest, and change with a deploy only
QUERY = """{
  workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError { __typename
    ... on RepositoryLocation { repositories {
      jobs { name }
      schedules { name state: scheduleState { status selectorId } }
      sensors { name state: sensorState { status selectorId } } } } } } } }
  assetNodes { assetKey { path } repository { location { name } } internalFreshnessPolicy { __typename } }
}"""
CHECKS = "{ assetNodes { assetKey { path } assetChecksOrError { ... on AssetChecks { checks { name } } } } }"


@dataclass
class Definitions:
    """What a location defines. That of one that cannot be loaded now is what it was."""

    jobs: set[str] = field(default_factory=set)
    assets: set[str] = field(default_factory=set)
    fresh: set[str] = field(default_factory=set)  # assets with a freshness policy
    automation: dict[str, tuple[str, str]] = field(default_factory=dict)  # selector → `schedule` or `sensor`, name


class Workspace:
    """Asks the webserver. Other parts leave out what no location defines any more."""

    def __init__(self, webserver: str) -> None:
        self.url = f"{webserver.rstrip('/')}/graphql"
        self._locations: dict[str, Definitions] | None = None
        self._checks: set[tuple[str, str]] = set()
        self._checks_of: frozenset[str] = frozenset()
        self._checks_read = float("-inf")

    @property
    def is_known(self) -> bool:
        """Whether the webserver has answered since the start."""
        return self._locations is not None

    @property
    def jobs(self) -> set[tuple[str, str]]:
        """Every job with its location."""
        return {(job, name) for name, location in (self._locations or {}).items() for job in location.jobs}

    @property
    def assets(self) -> set[str]:
        return set().union(*(location.assets for location in (self._locations or {}).values()))

    @property
    def fresh(self) -> set[str]:
        return set().union(*(location.fresh for location in (self._locations or {}).values()))

    @property
    def checks(self) -> set[tuple[str, str]]:
        """Asset and name."""
        return self._checks

    @property
    def automation(self) -> dict[str, tuple[str, str, str]]:
        """Selector → `schedule` or `sensor`, name, location."""
        return {
            selector: (*named, name)
            for name, location in (self._locations or {}).items()
            for selector, named in location.automation.items()
        }

    def read(self) -> Iterator[Metric]:
        data = self._ask(QUERY)
        entries = data["workspaceOrError"]["locationEntries"]
        self._remember(entries, data["assetNodes"])
        self._remember_checks()
        failed = GaugeMetricFamily(
            "dagster_code_location_load_error", "Whether a location could not be loaded: 1, or 0.", labels=["location"]
        )
        for entry in entries:
            failed.add_metric([entry["name"]], typename(entry) not in ("RepositoryLocation", None))
        yield failed
        for kind in ("schedule", "sensor"):
            status = GaugeMetricFamily(
                f"dagster_{kind}_status", f"1; whether a {kind} is on.", labels=[f"{kind}_name", "location", "status"]
            )
            for entry, found in automation(entries, kind):
                status.add_metric([found["name"], entry["name"], found["state"]["status"].lower()], 1)
            yield status

    def _ask(self, query: str) -> dict[str, Any]:
        response = requests.post(self.url, json={"query": query}, timeout=TIMEOUT_SECONDS)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        if answer.get("errors"):
            raise RuntimeError(answer["errors"][0]["message"])
        return dict(answer["data"])

    def _remember(self, entries: list[dict[str, Any]], nodes: list[dict[str, Any]]) -> None:
        before, self._locations = self._locations or {}, {}
        for entry in entries:
            name, loaded = entry["name"], typename(entry) == "RepositoryLocation"
            self._locations[name] = Definitions() if loaded else before.get(name, Definitions())
            self._locations[name].jobs.update(job["name"] for found in repositories(entry) for job in found["jobs"])
        for kind in ("schedule", "sensor"):
            for entry, found in automation(entries, kind):
                self._locations[entry["name"]].automation[found["state"]["selectorId"]] = kind, found["name"]
        for node in nodes:
            if location := self._locations.get(node["repository"]["location"]["name"]):
                location.assets.add(asset_name(node))
                if node["internalFreshnessPolicy"]:
                    location.fresh.add(asset_name(node))

    def _remember_checks(self) -> None:
        """Asks for the names of checks if the assets have changed, or it is a while ago. Those of a location that
        cannot be loaded now stay.
        """
        assets = frozenset(self.assets)
        if assets == self._checks_of and time.monotonic() - self._checks_read < CHECKS_SECONDS:
            return
        nodes = self._ask(CHECKS)["assetNodes"]
        found = {
            (asset_name(node), check["name"])
            for node in nodes
            for check in node["assetChecksOrError"].get("checks", ())
        }
        answered = {asset_name(node) for node in nodes}
        kept = {(asset, check) for asset, check in self._checks if asset in assets - answered}
        self._checks, self._checks_of, self._checks_read = found | kept, assets, time.monotonic()


def asset_name(node: dict[str, Any]) -> str:
    return "/".join(node["assetKey"]["path"])


def typename(entry: dict[str, Any]) -> str | None:
    """`RepositoryLocation`, `PythonError`, or None while the location is being loaded."""
    found = entry["locationOrLoadError"]
    return str(found["__typename"]) if found else None


def repositories(entry: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (entry["locationOrLoadError"] or {}).get("repositories", [])
    return found


def automation(entries: list[dict[str, Any]], kind: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every schedule or sensor, after the entry of its location."""
    for entry in entries:
        for repository in repositories(entry):
            for found in repository[f"{kind}s"]:
                yield entry, found
