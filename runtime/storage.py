"""Dagster's Postgres storage, with pools that hold and connections that are kept. The host runs it: no dlt."""

import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Self

import sqlalchemy as db
from dagster._core.storage.event_log.schema import ConcurrencyLimitsTable, ConcurrencySlotsTable, PendingStepsTable
from dagster._serdes import ConfigurableClassData
from dagster._utils.concurrency import ConcurrencySlotStatus
from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage
from dagster_postgres.utils import get_token_provider_from_config, pg_url_from_config
from sqlalchemy.dialects.postgresql import insert

SLOT, STEP, LIMIT = ConcurrencySlotsTable.c, PendingStepsTable.c, ConcurrencyLimitsTable.c


class PostgresStorage(DagsterPostgresStorage):
    """Configured like `storage: postgres` in dagster.yaml, under `storage: custom: config`."""

    def __init__(self, postgres_url: str, should_autocreate_tables: bool = True, **options: Any) -> None:
        super().__init__(postgres_url, should_autocreate_tables, **options)
        token_provider = options.get("token_provider")
        self._event_log_storage = EventLogStorage(postgres_url, False, token_provider=token_provider)
        if not token_provider:
            for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
                storage._engine = _engine(postgres_url, os.getpid())

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        return cls(
            pg_url_from_config(config_value),
            config_value.get("should_autocreate_tables", True),
            inst_data=inst_data,
            token_provider=get_token_provider_from_config(config_value),
        )


@cache
def _engine(url: str, pid: int) -> db.Engine:
    """The connections of one process; a fork has its own. Dagster opens one for each query: a third of a run's cost.

    One is tried before it is used again, as Postgres may have been restarted; a server that is gone without a word is
    given up after 30 s. As many are open as threads need at once, and up to five are kept.
    """
    options = {"tcp_user_timeout": 30_000}
    return db.create_engine(
        url, isolation_level="AUTOCOMMIT", pool_pre_ping=True, max_overflow=-1, connect_args=options
    )


class EventLogStorage(PostgresEventLogStorage):
    """Dagster's, where what reads a row of a pool and then writes it does so under that row's lock.

    Dagster 1.13 selects FOR UPDATE on a connection in autocommit, so the lock is gone before the update: two runs get
    the same slot. And it goes on in a transaction that a failed INSERT has aborted.
    """

    def _claim_concurrency_slot(self, concurrency_key: str, run_id: str, step_key: str) -> ConcurrencySlotStatus:
        free = (
            db.select(SLOT.id)
            .where(SLOT.concurrency_key == concurrency_key, SLOT.step_key.is_(None), SLOT.deleted.is_(False))
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        claim = db.update(ConcurrencySlotsTable).where(SLOT.id == free.scalar_subquery())
        with self.index_transaction() as connection:
            claimed = connection.execute(claim.values(run_id=run_id, step_key=step_key)).rowcount
        return ConcurrencySlotStatus.CLAIMED if claimed else ConcurrencySlotStatus.BLOCKED

    def assign_pending_steps(self, concurrency_keys: Sequence[str]) -> None:
        """Lets one waiting step of each pool named (one for each time it is named) claim a slot."""
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
        """Gives a pool the default limit: a new one, or one whose default has changed in dagster.yaml."""
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
            if connection.execute(upsert).rowcount:  # none if somebody has just set the pool by hand
                new_slots = self._allocate_concurrency_slots(connection, concurrency_key, default)
        self.assign_pending_steps(new_slots)
        return True
