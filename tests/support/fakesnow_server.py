"""fakesnow as a server that the Snowflake connector 5 can log in to: `python fakesnow_server.py PORT`.

Runs in the emulator's own environment. Remove it when fakesnow's login response has these fields itself.
"""

import json
import sys

import uvicorn
from fakesnow.server import app
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response


async def complete_login(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Snowflake's login response has a master token and a session id, which the connector requires since 5.0."""
    response = await call_next(request)
    if request.url.path != "/session/v1/login-request" or response.status_code != 200:
        return response
    body = json.loads(b"".join([chunk async for chunk in response.body_iterator]))  # type: ignore[attr-defined]
    body["data"] |= {"masterToken": body["data"]["token"], "sessionId": 1}
    return JSONResponse(body)


if __name__ == "__main__":
    app.add_middleware(BaseHTTPMiddleware, dispatch=complete_login)
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]))
