"""A server on an address, until a signal ends it: then it takes no more on, and finishes what it has."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

import uvicorn

from fastsedd.server.guard import Application


def is_loopback(host: str) -> bool:
    """True for an address that other machines cannot reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def run(app: Application, host: str, port: int, seconds: float, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    seconds : in which open requests are finished then; ready : called with the address once it is listened on
    Raises OSError where that cannot be.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=512) as listening:
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=int(seconds) + 1
        )
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{listening.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[listening])
