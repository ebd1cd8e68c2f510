"""Dagster's Postgres storage with exact pool limits."""

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as db
from dagster import Field, StringSource
from dagster._core.storage.event_log.schema import ConcurrencyLimitsTable, ConcurrencySlotsTable, PendingStepsTable
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from dagster._utils.concurrency import ConcurrencyClaimStatus, ConcurrencySlotStatus
from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage
from dagster_postgres.utils import get_token_provider_from_config, pg_url_from_config
from sqlalchemy.dialects.postgresql import insert

SLOT, STEP, LIMIT = ConcurrencySlotsTable.c, PendingStepsTable.c, ConcurrencyLimitsTable.c
ASSIGNED_FOR = timedelta(seconds=2)  # Dagster's steps poll every second
# The home of `make dev`.
SQLITE = Path(__file__).resolve().parents[2] / "data" / "dagster"


class PostgresStorage(DagsterPostgresStorage):
    """Configured like `storage: postgres` in dagster.yaml, under `storage: custom: config`.

    It is SQLite for somebody who runs `dagster dev`, `dg list defs` or the like in the project's folder: Dagster reads
    dagster.yaml there, but none of its variables is set.
    """

    def __init__(self, postgres_url: str, should_autocreate_tables: bool = True, **options: Any) -> None:
        super().__init__(postgres_url, should_autocreate_tables, **options)
        self._event_log_storage = EventLogStorage(postgres_url, False, token_provider=options.get("token_provider"))

    @classmethod
    def config_type(cls) -> Any:
        if not _in_project_folder():
            return super().config_type()
        # `postgres_db` as it stands in dagster.yaml: its variables must not be looked up.
        return {
            "postgres_db": Field(dict, is_required=False),
            "postgres_url": Field(StringSource, is_required=False),
            "should_autocreate_tables": Field(bool, is_required=False, default_value=True),
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Any:
        if _in_project_folder() and "postgres_url" not in config_value:
            return DagsterSqliteStorage.from_local(str(SQLITE), inst_data)
        return cls(
            pg_url_from_config(config_value),
            config_value.get("should_autocreate_tables", True),
            inst_data=inst_data,
            token_provider=get_token_provider_from_config(config_value),
        )


def _in_project_folder() -> bool:
    """Every container, `make dev` and every other deployment of Dagster set DAGSTER_HOME."""
    return not os.environ.get("DAGSTER_HOME") and "DAGSTER_POSTGRES_HOST" not in os.environ


class EventLogStorage(PostgresEventLogStorage):
    """Dagster's event log, but reads and updates of a pool's rows happen in one statement.

    Dagster 1.13 selects a slot FOR UPDATE on a connection in autocommit, so the lock is gone before the update: two
    runs can get the same slot. It also continues in a transaction that a failed INSERT has aborted.
    """

    def claim_concurrency_slot(
        self, concurrency_key: str, run_id: str, step_key: str, priority: int | None = None
    ) -> ConcurrencyClaimStatus:
        """Claims a slot for a step, or lets it wait. Waiting steps call this again and again.

        In Dagster, only the step that frees a slot assigns it to a waiting step, once. If its process dies in between,
        or the next step registers at that moment, the slot stays free for ever. Here each poll assigns a slot that
        nobody is about to take.
        """
        status = super().claim_concurrency_slot(concurrency_key, run_id, step_key, priority)
        if status.is_claimed or status.is_assigned or not self._has_slot_to_assign(concurrency_key):
            return status
        self.assign_pending_steps([concurrency_key])
        return super().claim_concurrency_slot(concurrency_key, run_id, step_key, priority)

    def _has_slot_to_assign(self, concurrency_key: str) -> bool:
        """Whether more slots are free than steps were just assigned one. Such a step takes it with its next poll."""
        same_step = (SLOT.run_id == STEP.run_id, SLOT.step_key == STEP.step_key)
        about_to_take = (
            STEP.concurrency_key == concurrency_key,
            STEP.assigned_timestamp > db.func.now() - ASSIGNED_FOR,
            ~db.exists().where(SLOT.concurrency_key == STEP.concurrency_key, *same_step),
        )
        counts = [
            db.select(db.func.count()).select_from(table).where(*which).scalar_subquery()
            for table, which in ((ConcurrencySlotsTable, _is_free(concurrency_key)), (PendingStepsTable, about_to_take))
        ]
        with self.index_connection() as connection:
            return bool(connection.scalar(db.select(counts[0] > counts[1])))

    def _claim_concurrency_slot(self, concurrency_key: str, run_id: str, step_key: str) -> ConcurrencySlotStatus:
        free = db.select(SLOT.id).where(*_is_free(concurrency_key)).limit(1).with_for_update(skip_locked=True)
        claim = db.update(ConcurrencySlotsTable).where(SLOT.id == free.scalar_subquery())
        with self.index_transaction() as connection:
            claimed = connection.execute(claim.values(run_id=run_id, step_key=step_key)).rowcount
        return ConcurrencySlotStatus.CLAIMED if claimed else ConcurrencySlotStatus.BLOCKED

    def assign_pending_steps(self, concurrency_keys: Sequence[str]) -> None:
        """Assigns a slot to the first waiting step of each pool, once for each time that the pool is listed."""
        for key in concurrency_keys:
            first = (
                db.select(STEP.id)
                .where(STEP.concurrency_key == key, STEP.assigned_timestamp.is_(None))
                .order_by(STEP.priority.desc(), STEP.create_timestamp)
                .limit(1)
                .with_for_update(skip_locked=True)
            )
            assign = db.update(PendingStepsTable).where(STEP.id == first.scalar_subquery())
            with self.index_transaction() as connection:
                connection.execute(assign.values(assigned_timestamp=db.func.now()))

    def initialize_concurrency_limit_to_default(self, concurrency_key: str) -> bool:
        """Sets the default limit of a new pool, or of one whose default changed in dagster.yaml."""
        default = self._instance.global_op_concurrency_default_limit
        if default is None:
            return super().initialize_concurrency_limit_to_default(concurrency_key)
        values = {"concurrency_key": concurrency_key, "limit": default, "using_default_limit": True}
        upsert = insert(ConcurrencyLimitsTable).values(values)
        upsert = upsert.on_conflict_do_update(
            index_elements=[LIMIT.concurrency_key], set_={"limit": default}, where=LIMIT.using_default_limit
        )
        new_slots: list[str] = []
        with self.index_transaction() as connection:
            if connection.execute(upsert).rowcount:  # none if somebody has just set the limit by hand
                new_slots = self._allocate_concurrency_slots(connection, concurrency_key, default)
        self.assign_pending_steps(new_slots)
        return True


def _is_free(concurrency_key: str) -> Sequence[db.ColumnElement[bool]]:
    return SLOT.concurrency_key == concurrency_key, SLOT.step_key.is_(None), SLOT.deleted.is_(False)
