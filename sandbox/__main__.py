"""`python -m sandbox`: serve until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import uvicorn

from sandbox import files
from sandbox.app import archives_from_environment, create_app
from sandbox.github import ArchiveError


class Server(uvicorn.Server):
    """Says in one line where it listens, once it does; with port 0 the line is how one learns the port."""

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        for server in self.servers:
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                sys.stdout.write(f"The sandbox listens on http://{host}:{port}\n")
                sys.stdout.flush()


def main() -> None:
    """Parse the arguments and serve; ends with a sentence if an archive cannot be served."""
    parser = argparse.ArgumentParser(prog="python -m sandbox", description="Stand-ins for the SaaS APIs.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free one (default: 8000)")
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other data (default: 1)")
    parser.add_argument("--files", type=Path, help="a folder to put the demo files into")
    parser.add_argument("--log-level", default="warning")
    arguments = parser.parse_args()
    if arguments.files:
        files.make(arguments.files)
    try:
        app = create_app(arguments.seed, archives_from_environment())
    except ArchiveError as error:
        sys.exit(str(error))
    config = uvicorn.Config(
        app,
        host=arguments.host,
        port=arguments.port,
        log_level=arguments.log_level,
        loop="asyncio",
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=60,
    )
    Server(config).run()


if __name__ == "__main__":
    main()
