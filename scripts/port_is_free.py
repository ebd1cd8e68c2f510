"""Says what to do when the port of the UI is taken."""

import socket
import sys


def port_is_free(port: int) -> bool:
    """Whether nothing listens on 127.0.0.1:`port`."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def demand(port: int) -> None:
    """Ends the process with a sentence if the port is taken."""
    if not port_is_free(port):
        sys.exit(f"Port {port} on 127.0.0.1 is taken. Stop what listens there, or set WEBSERVER_PORT in .env.")


def any_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
