"""What is wrong in the deployment: found in Dagster's records, and gathered until it is well again."""

import hashlib
import json
import math
import re
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any
from urllib.parse import quote

import dagster as dg
import requests
from dagster import DagsterEventType as Kind
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus

from runtime.load.advice import without_secrets

FOLLOWED = (Kind.RUN_FAILURE, Kind.RUN_SUCCESS, Kind.ASSET_CHECK_EVALUATION, Kind.FRESHNESS_STATE_CHANGE)
BATCH = 100  # events of a kind that are read at once
LOOK_SECONDS = 10.0  # after which the rest of the events waits for the next look
SETTLED_SECONDS = 5.0  # an event may become visible after one with a higher number; a failed run gets its tags later
UNLOADED_SECONDS = 180.0  # a location or the webserver may be away as long as a deploy takes
ANSWER_SECONDS = 10.0
REPEAT_SECONDS = 3600.0
FORGOTTEN_SECONDS = 30 * 24 * 3600.0
MOST_PROBLEMS = 200  # that are open at the same time. Of more, the oldest are forgotten: their recovery is not reported
MOST_PARTITIONS = 100  # of a problem. With more, it is never well again: it is not known which ones those are
MOST_RETRYING = 1000
MOST_BACKFILLS = 50
FAILED_TICKS = {"SENSOR": 3, "SCHEDULE": 1}  # in a row. A sensor's next tick is soon, a schedule's may be tomorrow
LONGEST_SENTENCE = 500
ASSET, JOB = "asset ", "job "  # the subjects of runs
LOCATIONS = """{ workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError { __typename
    ... on PythonError { message causes { message } } } } } } }"""
WEBSERVER = "The webserver"
MORE = "…"


@dataclass
class Problem:
    """Something that is wrong. The same subjects with the same sentence are the same problem."""

    name: str  # as in "engineering: github/issues"
    what: str  # as in "failed"
    sentence: str
    link: str
    subjects: list[str]  # what has to succeed until it is well again; nothing: it is not gathered
    partitions: list[str] = field(default_factory=lambda: [""])
    launched_by: str = ""
    since: float = 0.0
    last: float = 0.0
    count: int = 1
    unreported: int = 1
    reported: float = 0.0

    @property
    def key(self) -> str:
        """Numbers differ between two sentences that say the same."""
        same = json.dumps([self.what, self.subjects, re.sub(r"\d+", "0", self.sentence)])
        return hashlib.sha256(same.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Well:
    """What succeeded, in which partition."""

    subjects: Collection[str]
    partition: str = ""
    link: str = ""


@dataclass
class Message:
    """What is to be sent, and the receivers that have not got it yet."""

    title: str
    body: str
    type: str  # as Apprise calls it
    to: list[str] = field(default_factory=list)
    sent: bool = False


@dataclass
class State:
    """What is kept between two looks, as JSON: bounded, whatever happens."""

    cursor: int
    backfills: list[str]  # whose failure is known
    retrying: list[str] = field(default_factory=list)  # failed runs that Dagster is about to start again
    ticks: dict[str, int] = field(default_factory=dict)  # the last failed tick that was counted
    away: dict[str, float] = field(default_factory=dict)  # since when a location or the webserver is not there
    problems: dict[str, Problem] = field(default_factory=dict)
    outbox: list[Message] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "State":
        read: dict[str, Any] = json.loads(text)
        problems = {key: Problem(**problem) for key, problem in read.pop("problems").items()}
        return cls(**read | {"problems": problems, "outbox": [Message(**message) for message in read["outbox"]]})

    @classmethod
    def at_first(cls, instance: dg.DagsterInstance) -> "State":
        """What failed before the first look is not reported."""
        known = [backfill.backfill_id for backfill in failed_backfills(instance)]
        state = cls(instance.event_log_storage.get_maximum_record_id() or 0, known)
        list(Look(instance, state, "").ticks())
        return state


class Look:
    """One look at Dagster's records: finds what is new, and gathers it in the state."""

    def __init__(self, instance: dg.DagsterInstance, state: State, url: str, webserver: str = "") -> None:
        self.instance, self.state, self.url, self.webserver = instance, state, url, webserver
        self.now = time.time()

    def gather(self) -> None:
        """Adds what has happened since the last look, and puts the messages that are due into the outbox."""
        deadline = time.monotonic() + LOOK_SECONDS
        self._add(self._retries())
        while (events := self._next_events()) and time.monotonic() < deadline:
            self._add(self._of_events(events))
            self.state.cursor = max(events)
        self._add(self._backfills())
        self._add(self.ticks())
        self._add(self._locations())
        self._report()

    def _add(self, findings: Iterator[Problem | Well]) -> None:
        for finding in findings:
            if isinstance(finding, Well):
                self._recover(finding)
            elif known := self.state.problems.get(finding.key):
                known.count, known.unreported, known.last = known.count + 1, known.unreported + 1, self.now
                known.link, known.launched_by, known.sentence = finding.link, finding.launched_by, finding.sentence
                if not {MORE, *finding.partitions} & set(known.partitions):
                    known.partitions += finding.partitions if len(known.partitions) < MOST_PARTITIONS else [MORE]
            else:
                finding.since = finding.last = self.now
                self.state.problems[finding.key] = finding

    def _recover(self, well: Well) -> None:
        for key, problem in list(self.state.problems.items()):
            if (
                problem.subjects
                and set(problem.subjects) <= set(well.subjects)
                and well.partition in problem.partitions
            ):
                problem.partitions.remove(well.partition)
                if not problem.partitions:
                    self.state.outbox.append(self._recovery(self.state.problems.pop(key), well.link))

    # --- what is new in the event log ---

    def _next_events(self) -> Mapping[int, dg.EventLogEntry]:
        """The next events in their order, at most `BATCH` of each kind. Bounded: an index has kind and number."""
        storage = self.instance.event_log_storage
        read = [storage.get_logs_for_all_runs_by_log_id(self.state.cursor, kind, BATCH) for kind in FOLLOWED]
        end = min((max(found) for found in read if len(found) == BATCH), default=math.inf)
        events = sorted((number, event) for found in read for number, event in found.items() if number <= end)
        return dict(takewhile(lambda pair: pair[1].timestamp < self.now - SETTLED_SECONDS, events))

    def _of_events(self, events: Mapping[int, dg.EventLogEntry]) -> Iterator[Problem | Well]:
        runs = self._runs({event.run_id for event in events.values() if event.run_id})
        for entry in events.values():
            event = entry.get_dagster_event()
            run = runs.get(entry.run_id)
            if event.event_type == Kind.FRESHNESS_STATE_CHANGE:
                yield self._freshness(event.event_specific_data)
            elif event.event_type == Kind.ASSET_CHECK_EVALUATION:
                yield self._check(event.asset_check_evaluation_data, run)
            elif run and event.event_type == Kind.RUN_SUCCESS:
                if self._has_failed_runs():
                    yield Well(self._subjects(run), partition_of(run), self._run_link(run))
            elif run and will_retry(run):
                self.state.retrying = [*self.state.retrying, run.run_id][-MOST_RETRYING:]
            elif run:
                yield self._run_failure(run, event)

    def _runs(self, run_ids: Collection[str]) -> dict[str, dg.DagsterRun]:
        found = self.instance.get_runs(dg.RunsFilter(run_ids=list(run_ids))) if run_ids else []
        return {run.run_id: run for run in found}

    def _retries(self) -> Iterator[Problem]:
        """Failures of runs that were to be started again. The last attempt reports its own failure."""
        runs = self._runs(self.state.retrying)
        self.state.retrying = [run_id for run_id, run in runs.items() if run.is_complete_and_waiting_to_retry]
        for run in runs.values():
            if not will_retry(run):  # it could not be started again
                records = self.instance.get_records_for_run(run.run_id, of_type=Kind.RUN_FAILURE, limit=1).records
                for record in records:
                    yield self._run_failure(run, record.event_log_entry.get_dagster_event())

    def _run_failure(self, run: dg.DagsterRun, event: dg.DagsterEvent) -> Problem:
        data = event.event_specific_data
        step = getattr(data, "first_step_failure_event", None)
        subjects = self._subjects(run, step.step_key if step else None)
        assets = [subject.removeprefix(ASSET) for subject in subjects if subject.startswith(ASSET)]
        return Problem(
            name=with_location(run, some(assets) if assets else run.job_name),
            what="failed",
            sentence=sentence_of(step.event_specific_data if step else data, event.message or ""),
            link=self._run_link(run),
            subjects=subjects,
            partitions=[partition_of(run)],
            launched_by=launched_by(run.tags),
        )

    def _subjects(self, run: dg.DagsterRun, step: str | None = None) -> list[str]:
        """The assets that a run, or one step of it, was to materialize. Its job, if none."""
        planned = self.instance.get_records_for_run(
            run.run_id, of_type=Kind.ASSET_MATERIALIZATION_PLANNED, limit=BATCH
        ).records
        events = [record.event_log_entry.get_dagster_event() for record in planned]
        found = {event.asset_key for event in events if event.asset_key and step in (None, event.step_key)}
        return sorted(f"{ASSET}{key.to_user_string()}" for key in found) or [
            f"{JOB}{run.job_name} of {location_of(run)}"
        ]

    def _has_failed_runs(self) -> bool:
        """Whether the success of a run can end a problem. Otherwise its assets need not be looked up."""
        subjects = (subject for problem in self.state.problems.values() for subject in problem.subjects)
        return any(subject.startswith((ASSET, JOB)) for subject in subjects)

    def _check(self, evaluation: dg.AssetCheckEvaluation, run: dg.DagsterRun | None) -> Problem | Well:
        asset, partition = evaluation.asset_key.to_user_string(), evaluation.partition or ""
        subject = f"check {evaluation.check_name} of {asset}"
        if evaluation.passed or evaluation.severity != dg.AssetCheckSeverity.ERROR:
            return Well([subject], partition)
        link = self._asset_link(evaluation.asset_key, "checks", f"&checkDetail={quote(evaluation.check_name)}")
        return Problem(
            name=with_location(run, asset),
            what=f"fails its check {evaluation.check_name}",
            sentence=cleaned(evaluation.description or "The check has no description of what it found."),
            link=self._run_link(run) if run else link,
            subjects=[subject],
            partitions=[partition],
            launched_by=launched_by(run.tags) if run else "",
        )

    def _freshness(self, change: Any) -> Problem | Well:
        asset = change.key.to_user_string()
        if change.new_state.value != "FAIL":
            return Well([f"freshness of {asset}"], link=self._asset_link(change.key))
        last = self.instance.get_latest_materialization_event(change.key)
        run = self.instance.get_run_by_id(last.run_id) if last and last.run_id else None
        return Problem(
            name=with_location(run, asset),
            what="is not fresh",
            sentence=f"It was last loaded at {moment(last.timestamp)}." if last else "It has never been loaded.",
            link=self._asset_link(change.key),
            subjects=[f"freshness of {asset}"],
        )

    # --- what is in other tables ---

    def _backfills(self) -> Iterator[Problem]:
        known, failed = set(self.state.backfills), failed_backfills(self.instance)
        self.state.backfills = [backfill.backfill_id for backfill in failed]
        for backfill in failed:
            if backfill.backfill_id not in known:
                ours = {"dagster/backfill": backfill.backfill_id}
                runs = dg.RunsFilter(tags=ours, statuses=[dg.DagsterRunStatus.FAILURE])
                count = self.instance.get_runs_count(runs)
                sentence = f"{count} of its runs failed." if count else "A run of it was cancelled."
                assets = [key.to_user_string() for key in backfill.asset_selection or ()]
                yield Problem(
                    name=f"Backfill {backfill.backfill_id} of {some(assets) if assets else backfill.job_name}",
                    what="failed",
                    sentence=sentence_of(backfill, sentence),
                    link=f"{self.url}/runs/b/{backfill.backfill_id}",
                    subjects=[],
                    launched_by=launched_by(backfill.tags),
                )

    def ticks(self) -> Iterator[Problem | Well]:
        """Sensors and schedules. One short query each, because a query for all would read all of their ticks."""
        before, self.state.ticks = self.state.ticks, {}
        for automation in self.instance.all_instigator_state():
            needed = FAILED_TICKS.get(automation.instigator_type.value, math.inf)
            kind = automation.instigator_type.value.lower()
            location = automation.origin.repository_origin.code_location_origin.location_name
            subject, on = f"{kind} {automation.instigator_name} of {location}", automation.is_running
            ticks = self.instance.get_ticks(
                automation.instigator_origin_id, automation.selector_id, limit=FAILED_TICKS["SENSOR"] + 1
            )
            ended = [tick for tick in ticks if tick.status.value != "STARTED"]
            failed = list(takewhile(lambda tick: tick.status.value == "FAILURE", ended))
            link = f"{self.url}/locations/__repository__@{location}/{kind}s/{automation.instigator_name}"
            if not on or (ended and not failed):
                yield Well([subject], link=link)
            elif len(failed) >= needed:
                self.state.ticks[subject] = failed[0].tick_id
                if before.get(subject) != failed[0].tick_id:
                    yield Problem(
                        name=f"{location}: {kind} {automation.instigator_name}",
                        what="keeps failing" if needed > 1 else "failed",
                        sentence=sentence_of(failed[0].tick_data, "The tick has no error."),
                        link=link,
                        subjects=[subject],
                    )

    # --- what the webserver knows ---

    def _locations(self) -> Iterator[Problem | Well]:
        """Code locations that the webserver cannot load, and the webserver itself."""
        before, self.state.away = self.state.away, {}
        for name, error in location_errors(self.webserver).items() if self.webserver else ():
            what = "does not answer" if name == WEBSERVER else "does not load"
            if not error:
                yield Well([f"{name} {what}"], link=f"{self.url}/locations")
                continue
            since = self.state.away[name] = before.get(name, self.now)
            reported = any(problem.subjects == [f"{name} {what}"] for problem in self.state.problems.values())
            if not reported and self.now - since >= UNLOADED_SECONDS:
                yield Problem(name, what, error, f"{self.url}/locations", [f"{name} {what}"])

    # --- messages ---

    def _report(self) -> None:
        for key, problem in list(self.state.problems.items()):
            if not problem.reported or (problem.unreported and self.now - problem.reported >= REPEAT_SECONDS):
                self.state.outbox.append(self._alert(problem))
                problem.reported, problem.unreported = self.now, 0
            if not problem.subjects or self.now - problem.last > FORGOTTEN_SECONDS:
                del self.state.problems[key]
        oldest = sorted(self.state.problems, key=lambda key: self.state.problems[key].last)
        for key in oldest[: max(0, len(oldest) - MOST_PROBLEMS)]:
            del self.state.problems[key]

    def _alert(self, problem: Problem) -> Message:
        again = f" {problem.unreported} more times" if problem.reported else ""
        again = again.replace(" 1 more times", " once more")
        lines = [problem.sentence, f"Since {moment(problem.since)}, {problem.count} times in all." if again else ""]
        lines += [f"Launched by {problem.launched_by}" if problem.launched_by else "", problem.link]
        title = f"{problem.name}{in_partitions(problem.partitions)} {problem.what}{again}"
        return Message(title, "\n".join(filter(None, lines)), "warning" if again else "failure")

    def _recovery(self, problem: Problem, link: str) -> Message:
        times = f", {problem.count} times" if problem.count > 1 else ""
        what = problem.what[0].upper() + problem.what[1:]
        lines = [f"{what} since {moment(problem.since)}{times}: {problem.sentence}", link or problem.link]
        failed = "" if problem.reported else f" {problem.what}, and"
        return Message(f"{problem.name}{failed} is well again", "\n".join(lines), "success")

    def _run_link(self, run: dg.DagsterRun) -> str:
        return f"{self.url}/runs/{run.run_id}"

    def _asset_link(self, key: dg.AssetKey, view: str = "overview", more: str = "") -> str:
        return f"{self.url}/assets/{'/'.join(quote(part, safe='') for part in key.path)}?view={view}{more}"


def location_errors(webserver: str) -> dict[str, str]:
    """Each location by its name, and the webserver: what keeps it from being loaded, or nothing."""
    try:
        answer = requests.post(f"{webserver}/graphql", json={"query": LOCATIONS}, timeout=ANSWER_SECONDS)
        answer.raise_for_status()
        entries = answer.json()["data"]["workspaceOrError"]["locationEntries"]
    except (requests.RequestException, KeyError, TypeError) as error:
        return {WEBSERVER: cleaned(f"{type(error).__name__} at {webserver}")}
    found = {f"Location {entry['name']}": entry["locationOrLoadError"] or {} for entry in entries}
    errors = {name: [error, *error.get("causes", ())][-1].get("message", "") for name, error in found.items()}
    return {WEBSERVER: "", **{name: cleaned(message) for name, message in errors.items()}}


def failed_backfills(instance: dg.DagsterInstance) -> Any:
    statuses = [BulkActionStatus.FAILED, BulkActionStatus.COMPLETED_FAILED]
    return instance.get_backfills(filters=BulkActionsFilter(statuses=statuses), limit=MOST_BACKFILLS)


def will_retry(run: dg.DagsterRun) -> bool:
    return run.tags.get("dagster/will_retry") == "true"


def sentence_of(failure: Any, otherwise: str) -> str:
    """The first line of the root cause. What the code itself called a failure says more than its cause."""
    if described := getattr(getattr(failure, "user_failure_data", None), "description", None):
        return cleaned(described)
    error = getattr(failure, "error", None)
    while error and error.cause:
        error = error.cause
    return cleaned(error.message if error else otherwise)


def cleaned(text: str) -> str:
    """Its first line, without secrets. Those of other locations are unknown here: their resource has removed them."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    line = without_secrets(line.removeprefix("dagster._core.definitions.events."))
    return line if len(line) <= LONGEST_SENTENCE else f"{line[:LONGEST_SENTENCE]}…"


def launched_by(tags: Mapping[str, str]) -> str:
    names = {"schedule": "dagster/schedule_name", "sensor": "dagster/sensor_name", "backfill": "dagster/backfill"}
    found = [f"{kind} {tags[tag]}" for kind, tag in names.items() if tag in tags]
    return ", ".join(([tags["user"]] if "user" in tags else []) + found) or "hand"


def location_of(run: dg.DagsterRun) -> str:
    return run.remote_job_origin.location_name if run.remote_job_origin else ""


def with_location(run: dg.DagsterRun | None, name: str) -> str:
    return ": ".join(filter(None, [location_of(run) if run else "", name]))


def partition_of(run: dg.DagsterRun) -> str:
    first, last = (run.tags.get(f"dagster/asset_partition_range_{end}", "") for end in ("start", "end"))
    return run.tags.get("dagster/partition", "") or (f"{first}...{last}" if first else "")


def in_partitions(partitions: list[str]) -> str:
    named = [partition for partition in partitions if partition]
    return f" [{some(named)}]" if named else ""


def some(names: list[str]) -> str:
    """The first three names, and how many there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def moment(timestamp: float) -> str:
    return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d %H:%M} UTC"
