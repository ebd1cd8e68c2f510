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
    """An account with tickets, `updated_at` by id."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.tickets: dict[int, str] = {}
        self.requests: list[dict[str, list[str]]] = []
        self.body: bytes | None = None  # an answer to give in place of the tickets

    def update(self, id_: int, second: int) -> None:
        self.tickets[id_] = f"2026-01-01T00:00:{second:02}Z"

    def export(self, query: dict[str, list[str]]) -> dict[str, Any]:
        """`GET /search/export`: tickets updated since the time in the query, after the cursor."""
        since = re.fullmatch(r"updated>=(.+)", query["query"][0])
        assert since, query
        found = [{"id": id_, "updated_at": at} for id_, at in sorted(self.tickets.items()) if at >= since[1]]
        begin = int(query.get("page[after]", ["0"])[0])
        end = begin + PAGE_SIZE
        return {"results": found[begin:end], "meta": {"has_more": end < len(found), "after_cursor": str(end)}}


class Handler(BaseHTTPRequestHandler):
    server: Zendesk

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        self.server.requests.append(query)
        status = 200 if self.headers["Authorization"] == f"Bearer {TOKEN}" else 401
        status = status if url.path == "/api/v2/search/export" else 404
        answer = self.server.export(query) if status == 200 else {"error": "no access"}
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
    assert [request.get("page[after]") for request in account.requests] == [None, ["2"], ["4"]]


def test_a_second_load_reads_only_changes_since_the_newest_ticket(account: Zendesk, warehouse: SourceWarehouse) -> None:
    for number in range(1, 6):
        account.update(number, second=number)
    warehouse.load(zendesk())
    account.requests.clear()
    account.update(2, second=5)  # in the second of the newest ticket
    account.update(6, second=9)
    assert warehouse.load(zendesk()) == {"tickets": 3}  # 5, the newest before, is read again
    assert {request["query"][0] for request in account.requests} == {"updated>=2026-01-01T00:00:05Z"}
    rows = "SELECT id, extract(second FROM updated_at) FROM tickets ORDER BY id"
    assert warehouse.rows(rows) == [(1, 1), (2, 5), (3, 3), (4, 4), (5, 5), (6, 9)]
    assert warehouse.load(zendesk()) == {"tickets": 1}


@pytest.mark.parametrize("token", [None, "", "CHANGEME", "<configure me>"])
def test_an_error_names_a_missing_token(
    account: Zendesk, warehouse: SourceWarehouse, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    monkeypatch.setenv("ACCESS_TOKEN", "somebody-else's")
    monkeypatch.delenv(VARIABLE)
    if token is not None:
        monkeypatch.setenv(VARIABLE, token)
    error = warehouse.load_error(zendesk())
    reason = f"still the placeholder {token}" if token else "missing or empty"
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
        (b'{"results": [', "Zendesk sent invalid JSON (13 bytes at http"),
        (b'{"error": "busy"}', "Zendesk sent JSON without `results` at http"),
    ],
)
def test_an_unexpected_body_fails_with_its_url(
    account: Zendesk, warehouse: SourceWarehouse, body: bytes, sentence: str
) -> None:
    account.body = body
    error = warehouse.load_error(zendesk())
    assert str(error).startswith(sentence)
    assert "/search/export?" in str(error)
    assert isinstance(error, TransientSourceError)
