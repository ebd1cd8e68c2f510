"""The way of every request to a vendor: it is logged, delayed, and meets the faults that were queued."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

GENERIC_KINDS = ("status", "truncated_body", "connection_reset", "malformed_json", "slow")
REMEMBERED = 100_000  # requests in the log; a server that runs for weeks must not grow
MATCHES = ("path", "method", "operation", "contains")


@dataclass
class Settings:
    """What can be set while the server runs. `graphql_points` and `rest_requests` hold for `window_seconds`,
    `…_per_minute` are the secondary limits. Settings of another vendor begin with its name."""

    latency_ms: float = 0
    graphql_points: int = 5_000
    graphql_points_per_minute: int = 2_000
    rest_requests: int = 5_000
    rest_requests_per_minute: int = 900
    window_seconds: float = 3_600
    thinkific_requests: int = 120
    thinkific_window_seconds: float = 60
    stripe_requests_per_second: int = 100
    hubspot_requests: int = 190
    hubspot_window_seconds: float = 10
    hubspot_searches_per_second: int = 5


@dataclass
class Call:
    """One request as the log shows it. A vendor fills in what it knows; `status` is None while it is under
    way and when the connection was dropped."""

    number: int
    vendor: str
    method: str
    path: str
    query: str
    operation: str | None = None
    cost: int | None = None
    nodes: int | None = None
    page: int | None = None
    fault: str | None = None
    status: int | None = None
    body: bytes = field(default=b"", repr=False)
    details: Any = field(default=None, repr=False)  # the vendor's own, for answering the call

    def shown(self) -> dict[str, Any]:
        """The call without its body."""
        skipped = ("body", "details")
        return {name: value for name, value in vars(self).items() if name not in skipped}


@dataclass
class Fault:
    """Something to go wrong `times` times (None: until removed) with calls that match."""

    number: int
    kind: str
    times: int | None = 1
    match: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def fits(self, call: Call) -> bool:
        """Whether the call is one that this fault is for."""
        wanted = self.match
        return (
            wanted.get("path", "") in call.path
            and wanted.get("method", call.method) == call.method
            and wanted.get("operation", call.operation) == call.operation
            and wanted.get("contains", "").encode() in call.body
        )


class Vendor(Protocol):
    """A stand-in for one API, mounted below `/<name>`."""

    name: str
    app: ASGIApp
    control: list[Route]  # its own control calls, below `/_sandbox/<name>`
    kinds: Sequence[str]

    def describe(self, call: Call) -> None:
        """Fill in what the call asks for, before any fault is chosen."""

    def meets(self, fault: Fault, call: Call) -> bool:
        """Whether a fault of the vendor's own kinds applies to the call."""

    def answer(self, fault: Fault, call: Call) -> Response | None:
        """The answer that a fault of the vendor's own kinds puts in the place of the true one, if it does."""

    def alter(self, fault: Fault, body: bytes) -> bytes:
        """The true answer's body, changed by a fault of the vendor's own kinds."""

    def reset(self) -> None:
        """Data and limits as at the start."""

    def configure(self, settings: Settings) -> None:
        """Take over changed settings."""


class Traffic:
    """ASGI middleware around the vendors; holds the settings, the queue of faults and the log."""

    def __init__(self, app: ASGIApp, vendors: list[Vendor]) -> None:
        self.app = app
        self.vendors = {vendor.name: vendor for vendor in vendors}
        self.settings = Settings()
        self.faults: list[Fault] = []
        self.calls: deque[Call] = deque(maxlen=REMEMBERED)
        self._served = 0
        self._queued = 0

    def reset(self) -> None:
        """No faults, no log, the default settings, and the vendors as at the start."""
        self.settings = Settings()
        self.faults.clear()
        self.calls.clear()
        self._served = self._queued = 0
        for vendor in self.vendors.values():
            vendor.configure(self.settings)
            vendor.reset()

    def configure(self, changes: dict[str, Any]) -> None:
        """Change some settings. Raises ValueError for an unknown one or a negative number."""
        for name, value in changes.items():
            if name not in asdict(self.settings):
                raise ValueError(f"there is no setting {name!r}; known: {', '.join(asdict(self.settings))}")
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise ValueError(f"{name} has to be a number from 0 on, not {value!r}")
        for name, value in changes.items():
            setattr(self.settings, name, value)
        for vendor in self.vendors.values():
            vendor.configure(self.settings)

    def add_fault(self, kind: str, times: int | None, match: dict[str, str], options: dict[str, Any]) -> Fault:
        """Queue a fault. Raises ValueError for an unknown kind or match."""
        known = [*GENERIC_KINDS, *(kind for vendor in self.vendors.values() for kind in vendor.kinds)]
        if kind not in known:
            raise ValueError(f"there is no fault {kind!r}; known: {', '.join(known)}")
        if unknown := set(match) - set(MATCHES):
            raise ValueError(f"a fault cannot match on {', '.join(sorted(unknown))}; known: {', '.join(MATCHES)}")
        self._queued += 1
        fault = Fault(self._queued, kind, times, match, options)
        self.faults.append(fault)
        return fault

    def _take(self, call: Call, vendor: Vendor) -> Fault | None:
        for fault in self.faults:
            own = fault.kind in vendor.kinds and vendor.meets(fault, call)
            if fault.fits(call) and (fault.kind in GENERIC_KINDS or own):
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self.faults.remove(fault)
                call.fault = fault.kind
                return fault
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        vendor = self.vendors.get(scope["path"].strip("/").partition("/")[0]) if scope["type"] == "http" else None
        if vendor is None:
            await self.app(scope, receive, send)
            return
        body = await _read(receive)
        query = scope["query_string"].decode("latin-1")
        self._served += 1
        call = Call(self._served, vendor.name, scope["method"], scope["path"], query, body=body)
        vendor.describe(call)
        fault = self._take(call, vendor)
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
            await self._answer(scope, call, vendor, fault, receive, send)
        call.body, call.details = b"", None  # the log keeps neither

    async def _answer(
        self, scope: Scope, call: Call, vendor: Vendor, fault: Fault | None, receive: Receive, send: Send
    ) -> None:
        replaced = self._replacement(fault, call, vendor) if fault else None
        start, body = await _collect(replaced or self.app, scope, call.body)
        own = fault is not None and fault.kind in vendor.kinds
        if fault and own and replaced is None:
            body = vendor.alter(fault, body)
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

    def _replacement(self, fault: Fault, call: Call, vendor: Vendor) -> Response | None:
        if fault.kind in vendor.kinds:
            return vendor.answer(fault, call)
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
    """Run the app and keep what it sends."""
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
    """End the TCP connection, by a reset or, gently, after what was sent. ASGI has no word for that, so this
    takes the transport of uvicorn's request cycle, which the bound `send` belongs to."""
    transport = send.__self__.transport  # type: ignore[attr-defined]
    if gently:
        transport.close()
    else:
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    while (await receive())["type"] != "http.disconnect":
        pass
