"""The middleware around the fake APIs: logs each request, delays it, and applies the queued faults."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import deque
from dataclasses import asdict
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sandbox.arguments import check_known
from sandbox.fake_api import Call, FakeApi, Fault, Settings

COMMON_FAULT_KINDS = ("status", "truncated_body", "connection_reset", "malformed_json", "slow")
LOGGED_CALLS = 100_000  # bounds the memory of a server that runs for weeks
MATCHES = ("path", "method", "operation", "contains")


class Traffic:
    """ASGI middleware around the fake APIs; holds the settings, the queue of faults and the log."""

    def __init__(self, app: ASGIApp, apis: list[FakeApi]) -> None:
        self.app = app
        self.apis = {api.name: api for api in apis}
        self.settings = Settings()
        self.faults: list[Fault] = []
        self.calls: deque[Call] = deque(maxlen=LOGGED_CALLS)
        self._served = 0
        self._queued = 0

    def reset(self) -> None:
        """Restore the initial data and settings; remove all faults and the log."""
        self.settings = Settings()
        self.faults.clear()
        self.calls.clear()
        self._served = self._queued = 0
        for api in self.apis.values():
            api.configure(self.settings)
            api.reset()

    def configure(self, changes: dict[str, Any]) -> None:
        """Change settings. Raises ValueError for an unknown setting or a negative number."""
        for name, value in changes.items():
            check_known("setting", name, asdict(self.settings))
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise ValueError(f"{name} must be a number of at least 0, not {value!r}")
        for name, value in changes.items():
            setattr(self.settings, name, value)
        for api in self.apis.values():
            api.configure(self.settings)

    def add_fault(self, kind: str, times: int | None, match: dict[str, str], options: dict[str, Any]) -> Fault:
        """Queue a fault. Raises ValueError for an unknown kind or match."""
        known = [*COMMON_FAULT_KINDS, *(kind for api in self.apis.values() for kind in api.fault_kinds)]
        check_known("fault", kind, known)
        for criterion in match:
            check_known("match", criterion, MATCHES)
        self._queued += 1
        fault = Fault(self._queued, kind, times, match, options)
        self.faults.append(fault)
        return fault

    def _take(self, call: Call, api: FakeApi) -> Fault | None:
        """The first queued fault that applies to the request; removed from the queue once it is used up."""
        for fault in self.faults:
            own = fault.kind in api.fault_kinds and api.accepts(fault, call)
            if fault.matches(call) and (fault.kind in COMMON_FAULT_KINDS or own):
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self.faults.remove(fault)
                call.fault = fault.kind
                return fault
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        api = self.apis.get(scope["path"].strip("/").partition("/")[0]) if scope["type"] == "http" else None
        if api is None:
            await self.app(scope, receive, send)
            return
        body = await _read(receive)
        query = scope["query_string"].decode("latin-1")
        self._served += 1
        call = Call(self._served, api.name, scope["method"], scope["path"], query, body=body)
        api.inspect(call)
        fault = self._take(call, api)
        self.calls.append(call)
        scope["sandbox.call"] = call
        delay = self.settings.latency_ms / 1000
        if fault and fault.kind == "slow":
            delay += float(fault.options.get("seconds", 1))
        if delay:
            await asyncio.sleep(delay)
        if fault and fault.kind == "connection_reset":
            await _drop(send, receive)
        else:
            await self._respond(scope, call, api, fault, receive, send)
        call.body, call.details = b"", None  # the log keeps neither

    async def _respond(
        self, scope: Scope, call: Call, api: FakeApi, fault: Fault | None, receive: Receive, send: Send
    ) -> None:
        replaced = self._replacement(fault, call, api) if fault else None
        start, body = await _collect(replaced or self.app, scope, call.body)
        own = fault is not None and fault.kind in api.fault_kinds
        if fault and own and replaced is None:
            body = api.alter(fault, body)
        elif fault and fault.kind == "malformed_json":
            body = b"{" + body[: max(len(body) - 2, 0)]
        start["headers"] = [pair for pair in start["headers"] if pair[0] != b"content-length"]
        start["headers"].append((b"content-length", str(len(body)).encode()))
        call.status = start["status"]
        await send(start)
        if fault and fault.kind == "truncated_body":
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            await _drop(send, receive, gently=True)
            return
        await send({"type": "http.response.body", "body": body})

    def _replacement(self, fault: Fault, call: Call, api: FakeApi) -> Response | None:
        if fault.kind in api.fault_kinds:
            return api.fault_response(fault, call)
        if fault.kind != "status":
            return None
        status = int(fault.options.get("status", 500))
        headers = {name: str(value) for name, value in fault.options.get("headers", {}).items()}
        if "retry_after" in fault.options:
            headers["retry-after"] = str(fault.options["retry_after"])
        body = json.dumps({"message": fault.options.get("message", f"The sandbox was told to answer {status}")})
        return Response(body, status, headers, media_type="application/json")


async def _read(receive: Receive) -> bytes:
    chunks = []
    while True:
        message = await receive()
        chunks.append(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return b"".join(chunks)


async def _collect(app: ASGIApp, scope: Scope, body: bytes) -> tuple[dict[str, Any], bytes]:
    """Run the app and return the start and the body of its response."""
    start: dict[str, Any] = {}
    chunks: list[bytes] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message, headers=list(message["headers"]))
        else:
            chunks.append(message.get("body", b""))

    await app(scope, receive, send)
    return start, b"".join(chunks)


async def _drop(send: Send, receive: Receive, *, gently: bool = False) -> None:
    """Close the TCP connection: with a reset or, gently, after what was sent. ASGI cannot do this, so this uses the
    transport of uvicorn's request cycle, to which the bound method `send` belongs."""
    transport = send.__self__.transport  # type: ignore[attr-defined]
    if gently:
        transport.close()
    else:
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    while (await receive())["type"] != "http.disconnect":
        pass
