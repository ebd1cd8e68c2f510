"""An HTTP server that takes alerts and heartbeats, as a chat or a monitor does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Receiver:
    """What arrived: the path of each GET, the body of each POST. Answers with `status`."""

    def __init__(self) -> None:
        self.status = 200
        self.calls: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.address = ""

    @property
    def titles(self) -> list[str]:
        return [body["title"] for body in self.bodies]

    @property
    def alert_url(self) -> str:
        return f"json://{self.address}/token-1234"

    def clear(self) -> None:
        self.calls.clear()
        self.bodies.clear()


@contextmanager
def running_receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            receiver.calls.append(self.path)
            self.answer()

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if receiver.status == 200:
                receiver.bodies.append(body)
            self.answer()

        def answer(self) -> None:
            self.send_response(receiver.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.address = f"127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
