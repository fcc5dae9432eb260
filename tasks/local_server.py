"""What chat, the endpoint and a study serve by: on this machine alone unless asked, and, where guarded, to no other page's script.

Knows nothing of what is served.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp

from storage.errors import InputError

BACKLOG = 2048
"""Connections that may wait to be taken."""

GRACE_S = 2
"""Seconds that open connections have to end in, once the server is stopped."""


def is_local(host: str) -> bool:
    """Whether nobody but this machine reaches what listens there."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def guard(app: FastAPI, host: str) -> None:
    """Requests must mean this server by name, so that no other name can be made to lead here, and what changes anything
    must not come from another site's page."""
    if is_local(host):
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", host])

    @app.middleware("http")
    async def same_origin(request: Request, follow: Callable[[Request], Awaitable[Response]]) -> Response:
        origin = request.headers.get("origin")
        if origin and request.method != "GET" and urlsplit(origin).netloc != request.headers.get("host"):
            return Response("not from another site's page", 403)
        return await follow(request)


def listen(
    app: ASGIApp,
    host: str,
    port: int,
    ready: Callable[[str], None],
    *,
    grace_s: int = GRACE_S,
    ipv4_too: bool = True,
    stopping: Callable[[], None] = lambda: None,
    **config: Any,
) -> None:
    """Serve until a signal ends it. ready: called with the address once it listens. InputError where it cannot.

    stopping: called in the server's loop once it is stopped, so that what streams without end can end.
    grace_s: seconds that open ones have to end in, once it is stopped.
    ipv4_too: whether the host "::" means IPv4 as well. config: more of uvicorn's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not ipv4_too)
        try:
            listening.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(
                f"{host}:{port}: cannot listen there ({reason}); give another --port or --host"
            ) from None
        listening.listen(BACKLOG)
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{listening.getsockname()[1]}")
        settings = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,  # a study's addresses are its participants' keys
            timeout_graceful_shutdown=grace_s,
            backlog=BACKLOG,
            **config,
        )
        _Server(settings, stopping).run([listening])


class _Server(uvicorn.Server):
    """Tells that it stops before it waits for what is open."""

    def __init__(self, config: uvicorn.Config, stopping: Callable[[], None]):
        super().__init__(config)
        self._stopping = stopping

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping()
        await super().shutdown(sockets)
