"""The server: the fake APIs, the control calls, and `GET /health`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Mount, Route

from sandbox.control import control_routes
from sandbox.fake_api import FakeApi
from sandbox.github import FakeGitHub
from sandbox.hubspot import FakeHubSpot
from sandbox.stripe import FakeStripe
from sandbox.thinkific import FakeThinkific
from sandbox.traffic import Traffic

TOKEN = "sandbox-token"  # noqa: S105 - accepted by every fake API; opens nothing else


def archives_from_environment() -> list[Path]:
    """The files that SANDBOX_GITHUB_ARCHIVES names, separated by commas."""
    names = os.environ.get("SANDBOX_GITHUB_ARCHIVES", "").split(",")
    return [Path(name.strip()) for name in names if name.strip()]


def create_app(seed: int = 1, github_archives: Sequence[Path] = ()) -> Traffic:
    """The ASGI app. Raises ArchiveError if an archive cannot be served."""
    apis: list[FakeApi] = [
        FakeGitHub(TOKEN, seed, github_archives),
        FakeHubSpot(TOKEN, seed),
        FakeStripe(TOKEN, seed),
        FakeThinkific(TOKEN, seed),
    ]

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok", "apis": [api.name for api in apis]})

    routes: list[BaseRoute] = [Route("/health", health)]
    routes += [Mount(f"/{api.name}", api.serve) for api in apis]
    inner = Starlette(routes=routes)
    traffic = Traffic(inner, apis)
    inner.router.routes += [
        *(Mount(f"/_sandbox/{api.name}", routes=api.control) for api in apis),
        Mount("/_sandbox", routes=control_routes(traffic)),
    ]
    return traffic
