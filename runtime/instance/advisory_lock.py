"""A lock in Postgres that one process holds at a time, on whatever machine it runs."""

import hashlib
import logging
import os
import select
import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ

BEAT_SECONDS = 1.0
# The holder of a server that is gone notices after 8 s with these, and the server a holder whose machine is gone after
# 25 s with its own: the holder has stopped before the lock can be another's.
KEEPALIVES: Mapping[str, int] = {
    "keepalives": 1,
    "keepalives_idle": 3,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 7000,
}
CONNECT_SECONDS = 10.0
# A holder without an answer for so long has lost the lock, whatever the network says: a pooler may be in between.
ANSWER_SECONDS = 15.0
# After a start of Postgres, only who held a lock before may take it for so long. All others have given up by then.
SETTLED_SECONDS = 20.0
SESSION: Mapping[str, str] = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "25000",  # keepalives do not count while an answer is under way
    "client_connection_check_interval": "5000",  # else a waiting process that is gone gets the lock first
    "statement_timeout": "0",  # of the user or the database: waiting is a statement
    "lock_timeout": "0",
    "idle_session_timeout": "0",
}
# Servers before Postgres 14 lack some of the settings.
SET = """
SELECT count(set_config(name, value, false)) FROM unnest(%s, %s) AS wanted(name, value)
WHERE current_setting(name, true) IS NOT NULL
"""
SERVER = """
SELECT pg_backend_pid(), pg_postmaster_start_time(), extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())
"""
# A key of one number is stored in two halves. `objsubid` is 1 for such a key.
HOLDER = """
SELECT activity.application_name, coalesce(host(activity.client_addr), 'the same machine'), activity.pid,
       date_trunc('second', activity.backend_start)
FROM pg_locks JOIN pg_stat_activity AS activity USING (pid)
WHERE locktype = 'advisory' AND granted AND objsubid = 1
  AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (classid::bigint << 32 | objid::bigint) = %s AND activity.pid <> pg_backend_pid()
"""

Wait = Callable[[str, str], None]

logger = logging.getLogger(__name__)


class LockLost(Exception):
    """Somebody else may hold the lock from now on."""


class AdvisoryLock:
    """A session-level advisory lock on a connection of its own, which a thread uses once a second.

    With `shared`, the lock of that name is held beside others that share it, and taken first. The lock is gone when
    its process or machine dies, or when Postgres restarts. Then `lost` is set and `on_lost` is called in that thread:
    somebody else may hold the lock from then on. With `retakes`, a lock survives a restart of Postgres: it is taken
    again unless that takes too long, and other locks that retake wait meanwhile. After a failover to a standby, which
    is no restart, the lock is lost, and free.

    Behind PgBouncer, the connection has to be of a pool in session mode. Otherwise the lock would stay with a
    connection of the pool: that is refused. PgBouncer frees the lock of a machine that is gone as soon as its own
    `tcp_keepalive` settings notice; by default, that takes hours.
    """

    def __init__(
        self,
        url: str,
        name: str,
        on_lost: Callable[[], None] = lambda: None,
        *,
        shared: str | None = None,
        holder: str | None = None,
        retakes: bool = False,
    ) -> None:
        self.name = name
        self.key = key_of(name)
        self.lost = threading.Event()
        self._names = {"_shared": shared, "": name} if shared else {"": name}
        self._holder = holder or f"{name} on {socket.gethostname()}, pid {os.getpid()}"
        self._url = url.replace("postgresql+psycopg2:", "postgresql:", 1)  # as libpq wants it
        self._on_lost, self._retakes = on_lost, retakes
        self._mutex = threading.Lock()  # around each use of the connection
        self._released = threading.Event()
        self._woken, self._wake = -1, -1  # the ends of a pipe
        self._connection: Any = None
        self._server: tuple[Any, ...] = ()
        self._answered = 0.0
        self._beats: threading.Thread | None = None

    def acquire(self, wait: Wait | None = None) -> bool:
        """Takes the lock if nobody holds it. With `wait`, waits until it is free.

        `wait` is called once, with the name that is waited for and whom its holder says it is; '' if that is gone.
        """
        assert self._connection is None, "a lock is taken once"
        connection, server = self._connect()
        try:
            while wait and self._retakes and (left := SETTLED_SECONDS - float(server[2])) > 0:
                wait(self.name, f"{left:.0f} s, because Dagster's Postgres has just started")
                time.sleep(left + 0.01)
                [server] = _query(connection, SERVER)
            sent = time.monotonic()
            for mode, name in self._names.items():
                [[taken]] = _query(connection, f"SELECT pg_try_advisory_lock{mode}(%s)", key_of(name))
                if not taken and wait is None:
                    connection.close()
                    return False
                if not taken and wait:
                    holders = _query(connection, HOLDER, key_of(name))
                    wait(name, holders[0][0] if holders else "")
                    _query(connection, f"SELECT pg_advisory_lock{mode}(%s)", key_of(name), seconds=None)
                    sent = time.monotonic()
        except BaseException:
            connection.close()
            raise
        self._connection, self._server, self._answered = connection, server, sent
        self._woken, self._wake = os.pipe()
        self._beats = threading.Thread(target=self._beat, name=f"lock {self.name}", daemon=True)
        self._beats.start()
        HELD.add(self)
        return True

    def release(self) -> None:
        """Frees the lock. Nothing happens if it was lost, or was never taken."""
        self._released.set()
        if self._beats and self._beats is not threading.current_thread():
            os.write(self._wake, b".")
            self._beats.join()
            self._beats = None
            os.close(self._woken)
            os.close(self._wake)
        with self._mutex:
            if self._connection:
                with suppress(psycopg2.Error):  # the end of a connection frees it a moment later
                    _query(self._connection, "SELECT pg_advisory_unlock_all()", seconds=BEAT_SECONDS)
            self._close()

    def confirm(self) -> None:
        """Returns once Postgres has confirmed that the lock is held. Otherwise calls `on_lost` and raises LockLost."""
        with self._mutex:
            if self._connection:
                self._check()
            if self.lost.is_set() or not self._connection:
                raise LockLost(f"The lock {self.name!r} is lost.")

    def holder(self) -> str | None:
        """Who holds the lock, as Postgres sees it; None if nobody does."""
        connection, _ = self._connect()
        try:
            rows = _query(connection, HOLDER, self.key)
        finally:
            connection.close()
        if not rows:
            return None
        application, address, pid, since = rows[0]
        return (
            f"{application or 'a process without a name'} at {address}, connected since {since} (pid {pid} in Postgres)"
        )

    def _connect(self, seconds: float = CONNECT_SECONDS) -> tuple[Any, tuple[Any, ...]]:
        """A connection with a session of its own, and what its server says of itself."""
        deadline = time.monotonic() + seconds
        connection = self._open(seconds)
        try:
            [server] = _query(connection, SERVER, seconds=deadline - time.monotonic())
            # A pooler invents the number that it tells its clients.
            if server[0] != connection.info.backend_pid and not self._keeps_session(connection, server[0]):
                raise RuntimeError(
                    f"The lock {self.name!r} needs a session of its own in Postgres, but PgBouncer or another pooler "
                    "shares it. Connect to Postgres itself, or to a pool with pool_mode = session."
                )
            _query(connection, SET, list(SESSION), list(SESSION.values()), seconds=deadline - time.monotonic())
        except BaseException:
            connection.close()
            raise
        return connection, server

    def _open(self, seconds: float = CONNECT_SECONDS) -> Any:
        connection = psycopg2.connect(self._url, application_name=self._holder[:63], async_=1, **KEEPALIVES)
        try:
            _answer(connection, seconds)
        except BaseException:
            connection.close()
            raise
        return connection

    def _keeps_session(self, connection: Any, pid: int) -> bool:
        """Whether the pooler leaves a connection to Postgres to this client while another client has one."""
        for _ in range(5):
            other = self._open()
            try:
                _query(other, "BEGIN")
                pids = [_query(one, "SELECT pg_backend_pid()")[0][0] for one in (other, connection)]
            finally:
                other.close()
            if pids[0] == pid or pids[1] != pid:
                return False
        return True

    def _beat(self) -> None:
        """The thread: asks once a second, and at once if the connection has something to say, such as its end."""
        poll = None
        while True:
            if poll:
                poll.poll(BEAT_SECONDS * 1000)
            with self._mutex:
                if poll and self._connection and not self._released.is_set():
                    self._check()
                if not self._connection or self._released.is_set():
                    return
                poll = select.poll()
                for file in (self._connection.fileno(), self._woken):
                    poll.register(file, select.POLLIN)

    def _check(self) -> None:
        """Asks for an answer on the connection. Without one, takes the lock again, or says that it is lost."""
        sent = time.monotonic()
        try:
            left = max(self._answered + ANSWER_SECONDS - sent, 2 * BEAT_SECONDS)  # this thread may be late itself
            [[pid]] = _query(self._connection, "SELECT pg_backend_pid()", seconds=left)
            if pid != self._server[0]:
                raise psycopg2.OperationalError("another connection of a pool has answered")
            self._answered = sent
        except psycopg2.Error as error:
            reason = str(error).strip().partition("\n")[0]
            if self._retakes and self._retake():
                logger.warning("Postgres has restarted. The lock %r is taken again.", self.name)
            elif not self._released.is_set():
                logger.error("The lock %r is lost: %s", self.name, reason)
                self.lost.set()
                self._close()
                self._on_lost()

    def _retake(self) -> bool:
        """Takes the lock again if Postgres has just restarted, because nobody else may have held it since."""
        deadline = self._answered + ANSWER_SECONDS
        while not self._released.is_set() and (sent := time.monotonic()) < deadline:
            try:
                connection, server = self._connect(deadline - sent)
            except (psycopg2.Error, RuntimeError):
                time.sleep(0.2)
                continue
            with suppress(psycopg2.Error):
                restarted = server[1] != self._server[1] and server[2] < SETTLED_SECONDS
                if restarted and self._take_all(connection, deadline):
                    self._connection.close()
                    self._connection, self._server, self._answered = connection, server, sent
                    return True
            connection.close()
            return False
        return False

    def _take_all(self, connection: Any, deadline: float) -> bool:
        for mode, name in self._names.items():
            left = deadline - time.monotonic()
            [[taken]] = _query(connection, f"SELECT pg_try_advisory_lock{mode}(%s)", key_of(name), seconds=left)
            if not taken:
                return False
        return True

    def _close(self) -> None:
        HELD.discard(self)
        if self._connection:
            self._connection.close()
            self._connection = None


# A child that was forked has the connection, too, and would keep the lock after the death of its parent.
HELD = weakref.WeakSet[AdvisoryLock]()


def _close_in_child() -> None:
    for lock in HELD:
        with suppress(OSError, psycopg2.Error):
            os.close(lock._connection.fileno())


os.register_at_fork(after_in_child=_close_in_child)


def key_of(name: str) -> int:
    """The key of a lock in Postgres."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)


def _query(
    connection: Any, statement: str, *parameters: Any, seconds: float | None = ANSWER_SECONDS
) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        _answer(connection, seconds)
        return list(cursor.fetchall()) if cursor.description else []


def _answer(connection: Any, seconds: float | None) -> None:
    """Waits for the connection's answer. A signal may interrupt it. Raises OperationalError if it takes too long."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while (state := connection.poll()) != POLL_OK:
        left = BEAT_SECONDS if deadline is None else deadline - time.monotonic()
        if left <= 0:
            raise psycopg2.OperationalError(f"Postgres has not answered for {seconds:.0f} s")
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN if state == POLL_READ else select.POLLOUT)
        poll.poll(min(left, BEAT_SECONDS) * 1000)


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
