"""The server: one mount per vendor, the control endpoints, and `GET /health`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Mount, Route

from sandbox.control import control_routes
from sandbox.github import GitHub
from sandbox.hubspot import HubSpot
from sandbox.stripe import Stripe
from sandbox.thinkific import Thinkific
from sandbox.traffic import Traffic, Vendor

TOKEN = "sandbox-token"  # noqa: S105 - right for every vendor; it opens nothing else


def archives_from_environment() -> list[Path]:
    """The files that SANDBOX_GITHUB_ARCHIVES names, separated by commas."""
    names = os.environ.get("SANDBOX_GITHUB_ARCHIVES", "").split(",")
    return [Path(name.strip()) for name in names if name.strip()]


def create_app(seed: int = 1, github_archives: Sequence[Path] = ()) -> Traffic:
    """The ASGI app. Raises ArchiveError if an archive cannot be served."""
    vendors: list[Vendor] = [
        GitHub(TOKEN, seed, github_archives),
        HubSpot(TOKEN, seed),
        Stripe(TOKEN, seed),
        Thinkific(TOKEN, seed),
    ]

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok", "vendors": [vendor.name for vendor in vendors]})

    routes: list[BaseRoute] = [Route("/health", health)]
    routes += [Mount(f"/{vendor.name}", vendor.app) for vendor in vendors]
    inner = Starlette(routes=routes)
    traffic = Traffic(inner, vendors)
    inner.router.routes += [
        *(Mount(f"/_sandbox/{vendor.name}", routes=vendor.control) for vendor in vendors),
        Mount("/_sandbox", routes=control_routes(traffic)),
    ]
    return traffic
