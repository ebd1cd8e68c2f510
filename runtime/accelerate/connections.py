"""Keeps the connections to Dagster's Postgres. Dagster opens one for each query."""

import os
from functools import cache, partial
from typing import Any

import sqlalchemy as db
from dagster_postgres.event_log import event_log
from dagster_postgres.run_storage import run_storage
from dagster_postgres.schedule_storage import schedule_storage
from dagster_postgres.utils import create_pg_engine


def install() -> None:
    event_log.create_pg_engine = _create_pg_engine  # type: ignore[attr-defined]
    run_storage.create_pg_engine = _create_pg_engine  # type: ignore[attr-defined]
    schedule_storage.create_pg_engine = _create_pg_engine  # type: ignore[attr-defined]


def _create_pg_engine(postgres_url: str, token_provider: Any = None, **options: Any) -> db.Engine:
    if token_provider or options.get("poolclass") is not db.NullPool:
        return create_pg_engine(postgres_url, token_provider, **options)
    return _engine(postgres_url)


@cache
def _engine(url: str) -> db.Engine:
    """One engine per database.

    A connection is tested before it is used again, as Postgres may have restarted. There are as many as threads need
    at the same time; up to five stay open. A fork leaves its parent's connections alone and opens its own.
    """
    engine = db.create_engine(
        url, isolation_level="AUTOCOMMIT", pool_pre_ping=True, pool_use_lifo=True, max_overflow=-1
    )
    os.register_at_fork(after_in_child=partial(engine.dispose, close=False))
    return engine
