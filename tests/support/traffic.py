"""Runs as a deployment has them, written into Dagster's storage with times in the past, and what the catalogue says."""

import random
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from logging import INFO
from typing import Any
from uuid import UUID

import dagster as dg
from dagster import AssetCheckKey, AssetKey, EventLogEntry
from dagster import DagsterEventType as Type
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned
from dagster._core.events import AssetMaterializationPlannedData, AssetObservationData, DagsterEvent
from dagster._core.events import StepMaterializationData as Materialized
from dagster._core.execution.plan.objects import StepFailureData, StepSuccessData
from dagster_postgres import PostgresEventLogStorage
from dagster_shared.error import SerializableErrorInfo

REPOSITORIES = dg.StaticPartitionsDefinition([f"sandbox/{name}" for name in ("engine", "handbook", "website")])
DAYS = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-04-01")
ASSETS: Mapping[AssetKey, dg.PartitionsDefinition[Any] | None] = {
    AssetKey(["github", "issues"]): REPOSITORIES,
    AssetKey(["shop", "orders"]): DAYS,
    AssetKey(["marts", "summary"]): None,
}
STATUSES = (Type.RUN_START, Type.RUN_SUCCESS, Type.RUN_FAILURE)
MESSAGES = 20  # lines in the log of a run


class Traffic:
    """Writes runs. The same seed writes the same runs."""

    def __init__(self, instance: dg.DagsterInstance, seed: int = 0) -> None:
        assert isinstance(instance.event_log_storage, PostgresEventLogStorage)
        self.instance, self.storage, self.random = instance, instance.event_log_storage, random.Random(seed)

    def day(self, start: datetime, runs: int) -> list[str]:
        """The runs of a day, spread over it: of ten, one fails. Returns their ids."""
        times = [start + timedelta(days=1) * (number / runs) for number in range(runs)]
        return [self.run(time, fails=self.random.random() < 0.1) for time in times]

    def run(
        self,
        time: datetime,
        key: AssetKey | None = None,
        partition: str | None = None,
        *,
        fails: bool = False,
        finishes: bool = True,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """A run of a minute that materializes an asset's partition and checks it. Returns its id."""
        key = key or self.random.choice(list(ASSETS))
        if partition is None and (partitions_def := ASSETS[key]):
            partition = self._partition(partitions_def, time)
        run_id = str(UUID(int=self.random.getrandbits(128), version=4))
        tags = {"dagster/partition": partition, **(tags or {})} if partition else dict(tags or {})
        self.instance.run_storage.add_historical_run(
            dg.DagsterRun("__ASSET_JOB", run_id, tags=tags, asset_selection=frozenset([key])), time.replace(tzinfo=None)
        )
        events = self._events(key, partition, fails, finishes)
        entries = [
            EventLogEntry(None, INFO, text, run_id, (time + timedelta(seconds=second)).timestamp(), step, "job", event)  # type: ignore[no-untyped-call]
            for second, (text, step, event) in enumerate(events)
        ]
        logged = [e for e in entries if not e.dagster_event or "ASSET_" not in e.dagster_event.event_type_value]
        with self.storage.index_connection() as connection:  # one statement for all of them
            connection.execute(self.storage.prepare_insert_event_batch(logged))
        for entry in entries:
            if entry not in logged:
                self.storage.store_event(entry)
            if entry.dagster_event and entry.dagster_event.event_type in STATUSES:
                at = datetime.fromtimestamp(entry.timestamp, time.tzinfo)
                self.instance.run_storage.handle_run_event(run_id, entry.dagster_event, at)
        return run_id

    def _partition(self, partitions_def: dg.PartitionsDefinition[Any], time: datetime) -> str:
        if partitions_def is DAYS:
            return (time - timedelta(days=self.random.choice((0, 0, 1, 9)))).date().isoformat()
        return str(self.random.choice(partitions_def.get_partition_keys()))

    def _events(
        self, key: AssetKey, partition: str | None, fails: bool, finishes: bool
    ) -> Iterator[tuple[str, str | None, DagsterEvent | None]]:
        step = "__".join(key.path)

        def event(kind: Type, data: Any = None, in_step: bool = True) -> tuple[str, str | None, DagsterEvent]:
            step_key = step if in_step else None
            made = DagsterEvent(kind.value, "job", step_key=step_key, event_specific_data=data, message=kind.value)
            return "", step_key, made

        yield event(Type.ASSET_MATERIALIZATION_PLANNED, AssetMaterializationPlannedData(key, partition))
        yield event(
            Type.ASSET_CHECK_EVALUATION_PLANNED, AssetCheckEvaluationPlanned(asset_key=key, check_name="unique")
        )
        for kind in (Type.RUN_ENQUEUED, Type.RUN_DEQUEUED, Type.RUN_STARTING, Type.RUN_START):
            yield event(kind, in_step=False)
        yield event(Type.LOGS_CAPTURED)
        yield event(Type.STEP_START)
        for number in range(MESSAGES):
            yield f"{step} has loaded {number * 500:,} rows of {partition}, {self.random.random()}", step, None
        if not finishes:
            return
        if fails:
            error = SerializableErrorInfo("dlt.ConfigFieldMissing: no token", [], "ConfigFieldMissing")
            yield event(Type.STEP_FAILURE, StepFailureData(error, None))  # type: ignore[no-untyped-call]
            yield event(Type.RUN_FAILURE, in_step=False)
            return
        metadata = {"rows_loaded": self.random.randrange(1000), "bytes_loaded": self.random.randrange(10**6)}
        version = {"dagster/data_version": str(self.random.random())}
        loaded = dg.AssetMaterialization(key, partition=partition, metadata=metadata, tags=version)
        yield event(Type.ASSET_MATERIALIZATION, Materialized(loaded, []))
        yield event(Type.ASSET_OBSERVATION, AssetObservationData(dg.AssetObservation(key, partition=partition)))
        passed = self.random.random() < 0.9
        yield event(Type.ASSET_CHECK_EVALUATION, dg.AssetCheckEvaluation(key, "unique", passed))
        yield event(Type.STEP_SUCCESS, StepSuccessData(1000.0))  # type: ignore[no-untyped-call]
        yield event(Type.RUN_SUCCESS, in_step=False)


def catalogue(instance: dg.DagsterInstance) -> dict[str, Any]:
    """What the catalogue shows of each asset: last events by partition, status of partitions, checks, freshness."""
    storage, found = instance.event_log_storage, dict[str, Any]()
    for key, partitions_def in ASSETS.items():
        name, check = key.to_user_string(), AssetCheckKey(key, "unique")
        record = next(iter(instance.get_asset_records([key])), None)
        storage.wipe_asset_cached_status(key)
        found[name] = {
            "last": (record.asset_entry.last_materialization_record, record.asset_entry.last_run_id)
            if record
            else None,
            "exists": instance.has_asset_key(key),
            "materialized": storage.get_materialized_partitions(key),
            "attempts": storage.get_latest_asset_partition_materialization_attempts_without_materializations(key),
            "planned": storage.get_latest_planned_materialization_info(key),
            "check": storage.get_asset_check_summary_records([check])[check],
            "checks": storage.get_asset_check_partition_info([check]),
            "last run": record and instance.get_run_by_id(record.asset_entry.last_run_id or ""),
            **{
                f"last {kind.value}": storage.get_latest_storage_id_by_partition(key, kind)
                for kind in (Type.ASSET_MATERIALIZATION, Type.ASSET_OBSERVATION, Type.ASSET_MATERIALIZATION_PLANNED)
            },
            "versions": storage.get_latest_tags_by_partition(key, Type.ASSET_MATERIALIZATION, ["dagster/data_version"]),
        }
        if partitions_def:
            keys = partitions_def.get_partition_keys()
            found[name]["status"] = instance.get_status_by_partition(key, keys, partitions_def)
    return found


def history(instance: dg.DagsterInstance) -> dict[str, Sequence[Any]]:
    """All materializations, observations and check results of each asset, as its page lists them."""
    storage = instance.event_log_storage
    return {
        key.to_user_string(): [
            *instance.fetch_materializations(key, limit=10_000).records,
            *instance.fetch_observations(key, limit=10_000).records,
            *storage.get_asset_check_execution_history(AssetCheckKey(key, "unique"), limit=10_000),
        ]
        for key in ASSETS
    }
