"""What only the webserver knows: which locations are loaded, and what they define."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import requests
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

TIMEOUT_SECONDS = 5.0
QUERY = """{
  workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError { __typename
    ... on RepositoryLocation { repositories {
      jobs { name }
      schedules { name state: scheduleState { status ticks(limit: 1) { status timestamp } } }
      sensors { name state: sensorState { status ticks(limit: 1) { status timestamp } } } } } } } } }
  assetNodes { assetKey { path } repository { location { name } } internalFreshnessPolicy { __typename }
    assetChecksOrError { ... on AssetChecks { checks { name } } } }
}"""


@dataclass
class Definitions:
    """What a location defines. That of one that cannot be loaded now is what it was."""

    jobs: set[str] = field(default_factory=set)
    assets: set[str] = field(default_factory=set)
    fresh: set[str] = field(default_factory=set)  # assets with a freshness policy
    checks: set[tuple[str, str]] = field(default_factory=set)


class Workspace:
    """Asks the webserver. Other parts leave out what no location defines any more."""

    def __init__(self, webserver: str) -> None:
        self.url = f"{webserver.rstrip('/')}/graphql"
        self._locations: dict[str, Definitions] | None = None

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
        return set().union(*(location.checks for location in (self._locations or {}).values()))

    def read(self) -> Iterator[Metric]:
        response = requests.post(self.url, json={"query": QUERY}, timeout=TIMEOUT_SECONDS)
        response.raise_for_status()
        answer = response.json()
        if answer.get("errors"):
            raise RuntimeError(answer["errors"][0]["message"])
        data = answer["data"]
        entries = data["workspaceOrError"]["locationEntries"]
        self._remember(entries, data["assetNodes"])
        failed = GaugeMetricFamily(
            "dagster_code_location_load_error", "Whether a location could not be loaded: 1, or 0.", labels=["location"]
        )
        for entry in entries:
            failed.add_metric([entry["name"]], typename(entry) not in ("RepositoryLocation", None))
        yield failed
        yield from automation(entries, "schedule")
        yield from automation(entries, "sensor")

    def _remember(self, entries: list[dict[str, Any]], nodes: list[dict[str, Any]]) -> None:
        before, self._locations = self._locations or {}, {}
        for entry in entries:
            name, loaded = entry["name"], typename(entry) == "RepositoryLocation"
            self._locations[name] = Definitions() if loaded else before.get(name, Definitions())
            self._locations[name].jobs.update(job["name"] for found in repositories(entry) for job in found["jobs"])
        for node in nodes:
            if not (location := self._locations.get(node["repository"]["location"]["name"])):
                continue
            asset = "/".join(node["assetKey"]["path"])
            location.assets.add(asset)
            if node["internalFreshnessPolicy"]:
                location.fresh.add(asset)
            location.checks.update((asset, check["name"]) for check in node["assetChecksOrError"].get("checks", ()))


def typename(entry: dict[str, Any]) -> str | None:
    """`RepositoryLocation`, `PythonError`, or None while the location is being loaded."""
    found = entry["locationOrLoadError"]
    return str(found["__typename"]) if found else None


def repositories(entry: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (entry["locationOrLoadError"] or {}).get("repositories", [])
    return found


def automation(entries: list[dict[str, Any]], kind: str) -> Iterator[Metric]:
    """Schedules or sensors: on or off, and how and when the last tick went."""
    labels = [f"{kind}_name", "location"]
    status = GaugeMetricFamily(f"dagster_{kind}_status", f"1; whether a {kind} is on.", labels=[*labels, "status"])
    outcome = GaugeMetricFamily(
        f"dagster_{kind}_last_tick_status", f"1; how the last tick of a {kind} ended.", labels=[*labels, "status"]
    )
    time = GaugeMetricFamily(
        f"dagster_{kind}_last_tick_timestamp_seconds", f"When a {kind} ticked last.", labels=labels
    )
    for entry in entries:
        for found in (one for repository in repositories(entry) for one in repository[f"{kind}s"]):
            name = [found["name"], entry["name"]]
            status.add_metric([*name, found["state"]["status"].lower()], 1)
            for tick in found["state"]["ticks"]:
                outcome.add_metric([*name, tick["status"].lower()], 1)
                time.add_metric(name, float(tick["timestamp"]))
    yield from (status, outcome, time)
