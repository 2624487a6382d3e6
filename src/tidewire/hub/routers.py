"""The routes that an application includes: of protocols, of clients, and of the HTTP API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter

from tidewire.http_api.api_router import api_router
from tidewire.http_api.calls import Calls, Extension
from tidewire.hub.core import HubCore
from tidewire.protocols.base import Protocol
from tidewire.protocols.plain import PLAIN
from tidewire.rules.base import Authority
from tidewire.sessions.centrifuge.client_router import client_router
from tidewire.sessions.served import ServedEndpoint, protocol_router

__all__ = ("Routers",)


class Routers(HubCore):
    """The routers of a hub, for `app.include_router`; they may be made before it is open."""

    def protocol_router(
        self,
        path: str,
        protocol: Protocol[Any] = PLAIN,
        *,
        user: Callable[..., Any] | None = None,
        name: Callable[[Any], str] | None = None,
        history: int = 0,
    ) -> APIRouter:
        """Make a route that serves a whole protocol, for `app.include_router`: prefix and dependencies of both hold.

        The path's `channel` parameter, if it has one, is subscribed to from the start, and publications of the client
        that name no channel go there. `user` and `name` are those of `client_router`. The rules of the hub decide where
        there are some, as do the options of other channels.
        """
        endpoint = ServedEndpoint(
            lambda: self.node, protocol, authority=self.authority, origins=self.origins, history=history
        )
        return protocol_router(path, endpoint, user, name)

    def api_router(
        self,
        *,
        key: str = "",
        insecure: bool = False,
        prefix: str = "/api",
        error_mode: str = "",
        authority: Authority | None = None,
        extensions: Mapping[str, Extension] | None = None,
    ) -> APIRouter:
        """Make the routes of the HTTP API for `app.include_router`: `POST /api/publish` and so on, as `cent` calls it.

        A caller must send the `key`. `authority` says which channels there are and what they offer; `extensions` are
        the functions that `rpc` calls. Raises ConfigurationError without a key, unless `insecure`.
        """
        options = (authority or self.authority).options

        def calls() -> Calls:
            return Calls(self.node, self._opened.nodes, options, extensions=extensions)

        return api_router(calls, key=key, insecure=insecure, error_mode=error_mode, prefix=prefix)

    def client_router(
        self,
        *,
        user: Callable[..., Any] | None = None,
        name: Callable[[Any], str] | None = None,
        authority: Authority | None = None,
    ) -> APIRouter:
        """Make the routes for the SDKs of the Centrifuge protocol, for `app.include_router`.

        They are `/connection/websocket`, `http_stream`, `sse`, their `uni_` siblings for clients that only listen, and
        `/emulation`. `user` is a FastAPI dependency (of `HTTPConnection`, so that it fits requests and WebSockets) that
        returns who connects: a user's name, an `Identity`, None for a stranger; or anything else, whose `name` the
        function returns. What it opens with `yield` is closed before the client is served. `authority` decides instead
        of the hub's rules. `/connection/tidewire.js` is a client for pages without a bundler.
        """
        return client_router(
            lambda: self.node,
            authority or self.authority,
            origins=self.origins,
            user=user,
            name=name,
            json_depth=self.limits.json_depth,
        )
