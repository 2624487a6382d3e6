"""A socket between the page and the real server that misbehaves on purpose."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from playwright.sync_api import WebSocketRoute

from browser.people import Person

__all__ = ("Between",)


class Between:
    """Stands between a page and the server: counts what is sent, holds back what is to be lost, closes at will."""

    def __init__(self, person: Person) -> None:
        self.sent: list[dict[str, Any]] = []
        self.deaf = False
        self.refusing = False
        self.lost = ""
        self.instead: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda message: None
        self._sockets: list[WebSocketRoute] = []
        person.page.route_web_socket("**/ws/auth?*", self._opened)

    def _opened(self, socket: WebSocketRoute) -> None:
        if self.refusing:
            socket.close(code=1013, reason="Too many connections")
            return
        self._sockets.append(socket)
        server = socket.connect_to_server()

        def outward(data: str | bytes) -> None:
            message = json.loads(data)
            self.sent.append(message)
            answer = self.instead(message)
            if answer is not None:
                socket.send(json.dumps(answer))
            elif not self.deaf:
                server.send(data)

        def inward(data: str | bytes) -> None:
            if not self.deaf and not (self.lost and f'"{self.lost}"' in str(data)):
                socket.send(data)

        socket.on_message(outward)
        server.on_message(inward)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return what the page has sent of one type."""
        return [message for message in self.sent if message["type"] == kind]

    def close(self, code: int, reason: str = "") -> None:
        """Close the newest socket towards the page."""
        self._sockets[-1].close(code=code, reason=reason)
