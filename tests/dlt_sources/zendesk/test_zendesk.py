"""The documentation's example of a source, read from a small Zendesk on loopback."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from dlt_sources.errors import PermanentSourceError, TransientSourceError
from tests.dlt_sources.zendesk import zendesk
from tests.support.source_warehouse import SourceWarehouse

TOKEN = "canary-5b2e"
VARIABLE = "SOURCES__ZENDESK__ACCESS_TOKEN"
PAGE_SIZE = 2  # of any size requested, so that few tickets take several pages


class Zendesk(ThreadingHTTPServer):
    """An account whose exports list changes in the order in which Zendesk has noticed them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.changes: dict[str, list[dict[str, Any]]] = {"tickets": [], "users": []}
        self.requests: list[dict[str, list[str]]] = []
        self.authorization = f"Bearer {TOKEN}"
        self.body: bytes | None = None  # an answer to give in place of the export

    def update(self, id_: int, second: int, table: str = "tickets") -> None:
        self.changes[table].append({"id": id_, "updated_at": f"2026-01-01T00:00:{second:02}Z"})

    def export(self, table: str, query: dict[str, list[str]]) -> dict[str, Any]:
        """`GET /incremental/<table>/cursor.json`: changes after the cursor, or since the time."""
        assert set(query) in ({"cursor"}, {"start_time"}), query
        begin = int(query.get("cursor", ["0"])[0])
        rows = self.changes[table][begin : begin + PAGE_SIZE]
        end = begin + len(rows)
        cursor = str(end) if rows else None
        url = f"http://127.0.0.1:{self.server_port}/api/v2/incremental/{table}/cursor.json?cursor={cursor}"
        is_last = end == len(self.changes[table])
        return {table: rows, "after_cursor": cursor, "after_url": cursor and url, "end_of_stream": is_last}


class Handler(BaseHTTPRequestHandler):
    server: Zendesk

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        self.server.requests.append(query)
        status = 200 if self.headers["Authorization"] == self.server.authorization else 401
        path = re.fullmatch(r"/api/v2/incremental/(tickets|users)/cursor.json", url.path)
        status = status if path else 404
        answer = self.server.export(path[1], query) if path and status == 200 else {"error": "no access"}
        body = self.server.body or json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Stay silent."""


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Zendesk]:
    with Zendesk() as server:
        monkeypatch.setenv(VARIABLE, TOKEN)
        monkeypatch.setenv("SOURCES__ZENDESK__API_BASE_URL", f"http://127.0.0.1:{server.server_port}/api/v2")
        monkeypatch.setenv("RUNTIME__REQUEST_BACKOFF_FACTOR", "0.01")
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


def test_the_tickets_of_all_pages_are_loaded_with_their_types(account: Zendesk, warehouse: SourceWarehouse) -> None:
    for number in range(1, 6):
        account.update(number, second=number)
    assert warehouse.load(zendesk()) == {"tickets": 5}
    assert warehouse.rows("SELECT id FROM tickets ORDER BY id") == [(1,), (2,), (3,), (4,), (5,)]
    assert warehouse.columns("tickets") == {"id": "BIGINT", "updated_at": "TIMESTAMP WITH TIME ZONE"}
    assert account.requests == [{"start_time": ["0"]}, {"cursor": ["2"]}, {"cursor": ["4"]}]


def test_a_second_load_reads_only_changes_since_the_first(account: Zendesk, warehouse: SourceWarehouse) -> None:
    for number in range(1, 6):
        account.update(number, second=number)
    warehouse.load(zendesk())
    account.requests.clear()
    account.update(2, second=4)  # noticed after the newer ticket 5
    account.update(6, second=9)
    assert warehouse.load(zendesk()) == {"tickets": 2}
    assert account.requests == [{"cursor": ["5"]}]
    rows = "SELECT id, extract(second FROM updated_at) FROM tickets ORDER BY id"
    assert warehouse.rows(rows) == [(1, 1), (2, 4), (3, 3), (4, 4), (5, 5), (6, 9)]


def test_a_load_without_changes_keeps_the_cursor(account: Zendesk, warehouse: SourceWarehouse) -> None:
    account.update(1, second=1)
    warehouse.load(zendesk())
    account.requests.clear()
    assert warehouse.load(zendesk()) == {}
    assert warehouse.load(zendesk()) == {}
    assert account.requests == [{"cursor": ["1"]}, {"cursor": ["1"]}]


def test_of_a_ticket_on_two_pages_the_newer_version_is_kept(account: Zendesk, warehouse: SourceWarehouse) -> None:
    for number, second in ((1, 1), (2, 2), (3, 3), (1, 4), (2, 5)):
        account.update(number, second)
    warehouse.load(zendesk())
    rows = "SELECT id, extract(second FROM updated_at) FROM tickets ORDER BY id"
    assert warehouse.rows(rows) == [(1, 4), (2, 5), (3, 3)]


@pytest.mark.parametrize("token", [None, "", "CHANGEME", "<configure me>"])
def test_an_error_names_a_missing_token(
    account: Zendesk, warehouse: SourceWarehouse, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    monkeypatch.setenv("ACCESS_TOKEN", "somebody-else's")
    monkeypatch.delenv(VARIABLE)
    if token is not None:
        monkeypatch.setenv(VARIABLE, token)
    error = warehouse.load_error(zendesk())
    reason = f"still the placeholder {token}" if token else "missing, empty or a placeholder"
    assert str(error) == f"{VARIABLE} is {reason}: set it to read from Zendesk."
    assert isinstance(error, PermanentSourceError)
    assert account.requests == []


def test_a_wrong_token_fails_without_a_retry(
    account: Zendesk, warehouse: SourceWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "a-wrong-one")
    error = warehouse.load_error(zendesk())
    assert str(error).startswith("Zendesk rejects the credential (401 at http")
    assert str(error).endswith(f": check {VARIABLE}.")
    assert len(account.requests) == 1


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b'{"tickets": [', "Zendesk sent invalid JSON (13 bytes at http"),
        (b'{"error": "busy"}', "Zendesk sent JSON without `tickets` at http"),
    ],
)
def test_an_unexpected_body_fails_with_its_url(
    account: Zendesk, warehouse: SourceWarehouse, body: bytes, sentence: str
) -> None:
    account.body = body
    error = warehouse.load_error(zendesk())
    assert str(error).startswith(sentence)
    assert "/incremental/tickets/cursor.json?" in str(error)
    assert isinstance(error, TransientSourceError)
