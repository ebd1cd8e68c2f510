"""The control calls below `/_sandbox`, with which a test controls the server itself. JSON, no token."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from sandbox.traffic import Traffic

Handler = Callable[[dict[str, Any]], Any]


def endpoint(path: str, handler: Handler, method: str = "POST") -> Route:
    """A route whose handler takes a JSON object and returns JSON; ValueError and TypeError become status 400."""

    async def serve(request: Request) -> JSONResponse:
        text = await request.body()
        try:
            arguments = json.loads(text) if text else {}
            if not isinstance(arguments, dict):
                raise ValueError("the body must be a JSON object")
            return JSONResponse(handler(arguments))
        except (ValueError, TypeError) as error:
            return JSONResponse({"error": str(error)}, 400)

    return Route(path, serve, methods=[method])


def control_routes(traffic: Traffic) -> list[Route]:
    """The control calls that concern the whole server."""

    def reset(_: dict[str, Any]) -> Any:
        traffic.reset()
        return {"reset": True}

    def settings(changes: dict[str, Any]) -> Any:
        traffic.configure(changes)
        return asdict(traffic.settings)

    def add_fault(arguments: dict[str, Any]) -> Any:
        options = dict(arguments)
        kind, match = options.pop("kind", None), options.pop("match", {})
        return asdict(traffic.add_fault(str(kind), options.pop("times", 1), match, options))

    def list_faults(_: dict[str, Any]) -> Any:
        return {"faults": [asdict(fault) for fault in traffic.faults]}

    def clear_faults(_: dict[str, Any]) -> Any:
        traffic.faults.clear()
        return list_faults({})

    def requests(_: dict[str, Any]) -> Any:
        calls = [call.log_entry() for call in traffic.calls]
        counts = {
            "total": len(calls),
            "by_path": dict(Counter(call.path for call in traffic.calls)),
            "by_status": dict(Counter(str(call.status) for call in traffic.calls)),
            "by_operation": dict(Counter(call.operation for call in traffic.calls if call.operation)),
            "cost": sum(call.cost or 0 for call in traffic.calls),
        }
        return {"requests": calls, "counts": counts}

    def forget_requests(_: dict[str, Any]) -> Any:
        traffic.calls.clear()
        return requests({})

    return [
        endpoint("/reset", reset),
        endpoint("/settings", lambda _: asdict(traffic.settings), "GET"),
        endpoint("/settings", settings),
        endpoint("/faults", list_faults, "GET"),
        endpoint("/faults", add_fault),
        endpoint("/faults", clear_faults, "DELETE"),
        endpoint("/requests", requests, "GET"),
        endpoint("/requests", forget_requests, "DELETE"),
    ]
