"""A lock in Postgres that one process holds at a time, on whatever machine it runs."""

import hashlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import psycopg2

BEAT_SECONDS = 1.0
# The server notices a holder whose machine is gone after 10 + 3 * 5 s, the holder a server that is gone after 8 s: it
# stops before the lock can be another's.
SERVERS_KEEPALIVES = """
SELECT pg_backend_pid(), set_config('tcp_keepalives_idle', '10', false),
       set_config('tcp_keepalives_interval', '5', false), set_config('tcp_keepalives_count', '3', false)
"""
KEEPALIVES: Mapping[str, int] = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 3,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 7000,
}
# A key of one number is stored in two halves. `objsubid` is 1 for such a key.
HOLDER = """
SELECT activity.application_name, coalesce(host(activity.client_addr), 'the same machine'), activity.pid,
       date_trunc('second', activity.backend_start)
FROM pg_locks JOIN pg_stat_activity AS activity USING (pid)
WHERE locktype = 'advisory' AND granted AND objsubid = 1
  AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (classid::bigint << 32 | objid::bigint) = %s
"""

logger = logging.getLogger(__name__)


class AdvisoryLock:
    """A session-level advisory lock on a connection of its own, which a thread uses once a second.

    The lock is gone when its process or machine dies, or when Postgres restarts. Then `lost` is set and `on_lost` is
    called in that thread: somebody else may hold the lock from then on. The connection has to be one to Postgres
    itself: behind PgBouncer in transaction mode a lock stays with a connection of the pool, so a pooler is refused.
    """

    def __init__(self, url: str, name: str, on_lost: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self.key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
        self.lost = threading.Event()
        self._url, self._on_lost = url, on_lost
        self._released = threading.Event()
        self._connection: Any = None
        self._beats: threading.Thread | None = None

    def acquire(self) -> bool:
        """Takes the lock if nobody holds it."""
        assert self._connection is None, "a lock is taken once"
        connection = self._connect()
        try:
            [[taken]] = self._query(connection, "SELECT pg_try_advisory_lock(%s)", self.key)
        except BaseException:
            connection.close()
            raise
        if not taken:
            connection.close()
            return False
        self._connection = connection
        self._beats = threading.Thread(target=self._beat, name=f"lock {self.name}", daemon=True)
        self._beats.start()
        return True

    def release(self) -> None:
        """Frees the lock. Nothing happens if it was lost, or was never taken."""
        self._released.set()
        if self._beats and self._beats is not threading.current_thread():
            self._beats.join()
        if self._connection:
            self._connection.close()
            self._connection = None

    def holder(self) -> str | None:
        """Who holds the lock, as Postgres sees it; None if nobody does."""
        connection = self._connect()
        try:
            rows = self._query(connection, HOLDER, self.key)
        finally:
            connection.close()
        if not rows:
            return None
        application, address, pid, since = rows[0]
        return (
            f"{application or 'a process without a name'} at {address}, connected since {since} (pid {pid} in Postgres)"
        )

    def _connect(self) -> Any:
        name = f"{self.name} on {socket.gethostname()}, pid {os.getpid()}"
        connection = psycopg2.connect(self._url, application_name=name[:63], **KEEPALIVES)
        connection.autocommit = True
        [[pid, *_]] = self._query(connection, SERVERS_KEEPALIVES)
        if pid != connection.info.backend_pid:  # a pooler invents the number that it tells its clients
            connection.close()
            raise RuntimeError(
                f"The lock {self.name!r} needs a connection to Postgres itself, without a pooler such as PgBouncer."
            )
        return connection

    def _query(self, connection: Any, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return list(cursor.fetchall())

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            try:
                self._query(self._connection, "SELECT 1")
            except psycopg2.Error as error:
                logger.error("The lock %r is lost: %s", self.name, str(error).strip().splitlines()[0])
                self.lost.set()
                self._on_lost()
                return


def acquire_within(lock: AdvisoryLock, seconds: float, log: Callable[[str], None], poll: float = 1.0) -> str | None:
    """Takes the lock, or returns who still holds it after that time."""
    deadline, told = time.monotonic() + seconds, False
    while not lock.acquire():
        holder = lock.holder() or "a process that has just ended"
        if time.monotonic() >= deadline:
            return holder
        if not told:
            log(f"Waiting up to {seconds:.0f} s for the lock {lock.name!r}, which is held by {holder}.")
            told = True
        with suppress(InterruptedError):
            time.sleep(poll)
    return None
