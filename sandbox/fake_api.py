"""What every fake API has in common, and the requests, faults and settings that it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send


@dataclass
class Settings:
    """What can be set while the server runs. `graphql_points` and `rest_requests` are GitHub's primary limits, per
    `window_seconds`; `…_per_minute` are its secondary limits. Other APIs' settings begin with the API's name."""

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
    """One request as the log shows it. The fake API adds what it knows about the request. `status` is None while the
    request is being served, and if the connection was dropped."""

    number: int
    api: str
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
    details: Any = field(default=None, repr=False)  # the fake API's own, for answering the request

    def log_entry(self) -> dict[str, Any]:
        skipped = ("body", "details")
        return {name: value for name, value in vars(self).items() if name not in skipped}


@dataclass
class Fault:
    """An error to simulate for the next `times` matching requests (None: until it is removed)."""

    number: int
    kind: str
    times: int | None = 1
    match: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def matches(self, call: Call) -> bool:
        wanted = self.match
        return (
            wanted.get("path", "") in call.path
            and wanted.get("method", call.method) == call.method
            and wanted.get("operation", call.operation) == call.operation
            and wanted.get("contains", "").encode() in call.body
        )


def url_of_api(request: Request) -> str:
    """The URL at which the client reached the API."""
    return f"{request.url.scheme}://{request.url.netloc}{request.scope['root_path']}"


class FakeApi(ABC):
    """A fake API, served below `/<name>`. The control calls in `control` are served below `/_sandbox/<name>`."""

    name: str
    fault_kinds: Sequence[str]  # in addition to those that every API has
    control: list[Route]

    @abstractmethod
    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The API as an ASGI app."""

    @abstractmethod
    def configure(self, settings: Settings) -> None:
        """Apply changed settings; every limit starts again."""

    @abstractmethod
    def reset(self) -> None:
        """Restore the initial data."""

    @abstractmethod
    def fault_response(self, fault: Fault, call: Call) -> Response | None:
        """The response for a fault of this API's own kinds; None if the fault changes the real response instead."""

    def inspect(self, call: Call) -> None:  # noqa: B027 - most have nothing to add
        """Add what the API knows about a request, before a fault is chosen."""

    def accepts(self, fault: Fault, call: Call) -> bool:
        """Whether a fault of this API's own kinds can apply to the request."""
        return True

    def alter(self, fault: Fault, body: bytes) -> bytes:
        """The real response's body, changed by a fault of this API's own kinds."""
        return body
