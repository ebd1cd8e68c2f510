"""`python -m sandbox`: serves until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import uvicorn

from sandbox import files
from sandbox.app import archives_from_environment, create_app
from sandbox.github import ArchiveError


class Server(uvicorn.Server):
    """Prints its address once it listens. With port 0 this is how one learns the port."""

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        for server in self.servers:
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                sys.stdout.write(f"The sandbox listens on http://{host}:{port}\n")
                sys.stdout.flush()


def main() -> None:
    """Parse the arguments and serve. Exits with the error message if an archive cannot be served."""
    parser = argparse.ArgumentParser(prog="python -m sandbox", description="Fake SaaS APIs.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 picks a free port (default: 8000)")
    parser.add_argument("--seed", type=int, default=1, help="decides the generated data (default: 1)")
    parser.add_argument("--files", type=Path, help="folder in which to create the demo files")
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
