"""Bounds how many HTTP requests of one network all workers serve at once: a slow body costs a descriptor, too."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tidewire.support.counters import count_limit
from tidewire.support.networks import is_loopback, network_of
from tidewire.support.siblings import Siblings

__all__ = ("RequestLimit",)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class RequestLimit:
    """An ASGI middleware that refuses requests beyond `limit` of one network with 503; loopback is exempt."""

    def __init__(self, app: Application, limit: int) -> None:
        self._app = app
        self._limit = limit

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve a request, or refuse it; connections of other types pass."""
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        address = scope["client"][0] if scope.get("client") else ""
        if is_loopback(address):
            return self._app(scope, receive, send)
        return self._serve(network_of(address), scope, receive, send)

    async def _serve(self, network: str, scope: Scope, receive: Receive, send: Send) -> None:
        key, counts = f"requests {network}", Siblings.of(asyncio.get_running_loop()).counts
        if not counts.add(key, self._limit):
            count_limit("connections_per_address")
            await _refuse(send, self._limit)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            counts.remove(key)


async def _refuse(send: Send, limit: int) -> None:
    body = f"Too many requests at once (the limit connections_per_address is {limit})\n".encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"retry-after", b"%d" % random.randint(2, 10)),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
