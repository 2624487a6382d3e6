"""A WebSocket protocol class for uvicorn's `ws=` option: ASGI for ordinary endpoints, and a `Link` for the hub.

    uvicorn app:app --ws tidewire.links.uvicorn:WebSocketProtocol

The link is `scope["extensions"]["tidewire.link"]`. Before this comes uvicorn's HTTP class, or our own (links/http.py),
which hands over the connection with its upgrade request; our server's connections begin with links/first_request.py.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from tidewire.limits import Limits
from tidewire.links.handshake import HeaderPairs
from tidewire.links.opening_handshake import OpeningHandshake, Start, WebSocketSettings
from tidewire.links.phases import PhasedProtocol

__all__ = ("WebSocketProtocol", "configured", "make_own", "settings_of")

_DEFAULTS = WebSocketSettings()


class WebSocketProtocol(PhasedProtocol):
    """The connection of a WebSocket, which begins with its opening handshake.

    uvicorn's `ws_max_size` counts where it is smaller than `limits.message_size`; its ping and deflate settings do not
    count: those of `configured` do.
    """

    __slots__ = ("_settings", "_start")

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        settings: WebSocketSettings = _DEFAULTS,
    ) -> None:
        super().__init__(server_state)
        self._start = Start(config, server_state, app_state, _loop or asyncio.get_running_loop())
        self._settings = settings

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._open(cast(asyncio.Transport, transport))

    def take_over(self, transport: asyncio.Transport, method: str, path: bytes, headers: HeaderPairs) -> None:
        """Go on with a connection whose upgrade request another class has read whole."""
        opening = self._open(transport)
        transport.set_protocol(self)
        opening.request_received(method, path, headers)

    def _open(self, transport: asyncio.Transport) -> OpeningHandshake:
        opening = OpeningHandshake(self, transport, self._start, self._settings)
        self.begin(opening)
        return opening


def configured(
    limits: Limits, *, deflate: bool = False, close_seconds: float = _DEFAULTS.close_seconds
) -> partial[WebSocketProtocol]:
    """Return a factory of protocols with these limits, to be given to uvicorn as `Config(ws=…)`."""
    settings = WebSocketSettings(limits=limits, deflate=deflate, close_seconds=close_seconds)
    return partial(WebSocketProtocol, settings=settings)


def settings_of(config: Config) -> WebSocketSettings | None:
    """Return the settings of WebSockets of a server; None where it was given another class for them than this one."""
    make: Any = config.ws_protocol_class
    if isinstance(make, partial):
        return make.keywords.get("settings", _DEFAULTS) if make.func is WebSocketProtocol else None
    return _DEFAULTS if make is WebSocketProtocol else None


def make_own(config: Config, server_state: ServerState, app_state: dict[str, Any]) -> WebSocketProtocol | None:
    """Make the protocol of one more WebSocket; None where the server was given another class than this one."""
    make: Any = config.ws_protocol_class
    made = make.func if isinstance(make, partial) else make
    if not (isinstance(made, type) and issubclass(made, WebSocketProtocol)):
        return None
    return cast(WebSocketProtocol, make(config, server_state, app_state))
