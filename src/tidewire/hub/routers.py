"""The routes that an application includes: of protocols, of clients, and of the HTTP API."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request
from starlette.applications import Starlette
from starlette.routing import Router

from tidewire.asyncapi.description import Description, describe
from tidewire.asyncapi.document import document
from tidewire.asyncapi.servers import security_of, servers_of
from tidewire.errors import ConfigurationError
from tidewire.http_api.admin_router import admin_router
from tidewire.http_api.api_router import api_router
from tidewire.http_api.asyncapi_router import asyncapi_router
from tidewire.http_api.calls import Calls, Extension
from tidewire.http_api.fault_calls import FaultCalls
from tidewire.http_api.playground_router import playground_router
from tidewire.hub.lifecycle import HubLifecycle
from tidewire.observe.faults import Faults
from tidewire.observe.guards import guard
from tidewire.observe.hanging_store import Hang
from tidewire.observe.metrics_router import metrics_router
from tidewire.protocols.base import Protocol
from tidewire.protocols.plain import PLAIN
from tidewire.rules.base import Authority
from tidewire.sessions.arguments import check_is
from tidewire.sessions.centrifuge.client_router import client_router
from tidewire.sessions.origins import Origins
from tidewire.sessions.served import ServedEndpoint, protocol_router
from tidewire.support.development import is_development
from tidewire.support.meter import Meter
from tidewire.support.shown_value import shown

__all__ = ("Routers",)

logger = logging.getLogger("tidewire")

_AN_AUTHORITY = "an object of a subclass of tidewire.Authority"


class Routers(HubLifecycle):
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
        check_is(protocol, Protocol, "protocol", "tidewire.RECOVERABLE, PlainProtocol() or your own, made with ()")
        endpoint = ServedEndpoint(
            lambda: self.node, protocol, authority=self.authority, origins=self.origins, history=history
        )
        return protocol_router(_checked(path), endpoint, user, name, self._book.overrides.see)

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

        A caller must send the `key`. `authority` knows the channels and their options; `extensions` are the functions
        that `rpc` calls. Raises ConfigurationError without a key, unless `insecure`.
        """
        check_is(authority, Authority, "authority", _AN_AUTHORITY)
        check_is(extensions, Mapping, "extensions", "{'name': function}")
        for extension in (extensions or {}).values():
            check_is(extension, Callable, "a function of extensions", "{'name': function}")
        check_is(insecure, bool, "insecure", "True or False: the text 'false' would be true")
        prefix = _prefix(prefix)
        self._judge = authority or self._judge
        options = (authority or self.authority).options

        def calls() -> Calls:
            return Calls(self.node, self._opened.nodes, options, extensions=extensions, revocations=self.revocations)

        return api_router(calls, key=key, insecure=insecure, error_mode=error_mode, prefix=prefix)

    def metrics_router(
        self, *, key: str = "", user: Callable[..., Any] | None = None, path: str = "/metrics"
    ) -> APIRouter:
        """Make the route of metrics for `app.include_router`: Prometheus' text, or OpenMetrics.

        One scrape of any worker answers for all workers of the machine. A reader must send the `key`, or pass the
        FastAPI dependency `user` (which raises for others); without either it must come from this machine and not
        through a proxy. Commands and calls of the store are timed from the next opening of the hub on. Raises
        ConfigurationError without `tidewire[metrics]`.
        """
        self._meter = self._meter or Meter()
        closed = "metrics are for this machine: use metrics_router(key=…) or metrics_router(user=…)"
        allowed = guard(user=user, key=key, origins=self.origins, closed=closed)
        return metrics_router(lambda: self._opened.nodes.reports, allowed=allowed, path=_checked(path))

    def admin_router(
        self,
        *,
        user: Callable[..., Any] | None = None,
        prefix: str = "/admin",
        open_page: bool = False,
        pages: Iterable[tuple[str, str]] = (),
    ) -> APIRouter:
        """Make the admin page for `app.include_router`: nodes, channels, connections, refusals, and actions.

        `user` is a FastAPI dependency that returns a value for administrators, and raises for others. Without it the
        page is for this machine alone, and not through a proxy. Its calls are those of the HTTP API, under
        `{prefix}/api`; a page of another site may not make them. With `open_page` anybody may load the page itself,
        which holds no data, and asks for the key that its calls are to send as X-API-Key. `pages` has the names and
        addresses of other pages that it links to.
        """
        prefix, pages = _prefix(prefix), _pages(pages)
        check_is(open_page, bool, "open_page", "True or False")
        closed = "the admin page is for this machine: use admin_router(user=may_administer)"
        allowed = guard(user=user, origins=Origins(), closed=closed)

        def calls() -> Calls:
            return Calls(self.node, self._opened.nodes, self._judge.options)

        page = None if open_page else allowed
        return admin_router(
            calls, lambda: self._opened.nodes, self.asyncapi, allowed=allowed, page=page, prefix=prefix, pages=pages
        )

    def playground_router(
        self,
        *,
        user: Callable[..., Any] | None = None,
        prefix: str = "/playground",
        pages: Iterable[tuple[str, str]] = (),
    ) -> APIRouter:
        """Make the playground for `app.include_router`: two clients on any channel, and faults to see them come back.

        It exists only under development, where `fastapi dev` or you set FASTAPI_ENV=development; otherwise the router
        is empty, so that the line can stay in your code. The page is for this machine, not through a proxy, unless the
        FastAPI dependency `user` lets others pass. Its clients connect as the users that are typed in, and the rules of
        the hub decide. The calls of the HTTP API, and `cut`, `freeze`, `kill` and `hang`, are under `{prefix}/api`.
        """
        prefix, pages = _prefix(prefix), _pages(pages)
        check_is(user, Callable, "user", "a dependency, as user=may_play")
        if not is_development():
            logger.info("no playground: this is not under development (FASTAPI_ENV=development, or fastapi dev)")
            return APIRouter()
        if self._open is not None:
            raise ConfigurationError("this hub is open already; make its playground before, beside its other routers")
        hang = self._hang = self._hang or Hang(self.limits.publish_seconds)
        closed = "the playground is for this machine: use playground_router(user=may_play)"
        allowed = guard(user=user, origins=Origins(), closed=closed)

        def calls() -> FaultCalls:
            return FaultCalls(self.node, self._opened.nodes, self._judge.options, Faults(self.node, hang))

        return playground_router(
            lambda: self.node,
            calls,
            lambda: self._judge,
            allowed=allowed,
            prefix=prefix,
            pages=pages,
            suggested=self._suggested,
        )

    def _suggested(self) -> list[tuple[str, Any]]:
        """Return channels to begin with, one of each rule, and an example of their messages (None: any)."""
        described = self.asyncapi()
        messages, found = described.get("components", {}).get("messages", {}), []
        for channel in sorted(described.get("channels", {}).values(), key=_is_forgotten):
            if channel["address"] is not None and "servers" not in channel:
                first = messages[next(iter(channel["messages"]))]
                example = first.get("examples", [{}])[0].get("payload")
                found.append((re.sub(r"\{[^}]*\}|\*", "demo", channel["address"]), example))
        return found

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
        returns the user that connects: a name, an `Identity`, None for a stranger; or anything else, whose `name` the
        function returns. It is closed, if it has a `yield`, before the client is served. `authority` decides instead
        of the hub's rules. `/connection/tidewire.js` is a client for pages without a bundler.
        """
        check_is(authority, Authority, "authority", _AN_AUTHORITY)
        check_is(name, Callable, "name", "a function that returns the name of a user")
        if user is not None:
            self._users.append(user)
        self._judge = authority or self._judge
        return client_router(
            lambda: self.node,
            authority or self.authority,
            origins=self.origins,
            user=user,
            name=name,
            see=self._book.overrides.see,
            json_depth=self.limits.json_depth,
        )

    def asyncapi(
        self, app: FastAPI | None = None, *, base_url: str = "http://localhost:8000", title: str = "", version: str = ""
    ) -> dict[str, Any]:
        """Return the AsyncAPI document (3.0) of the channels and calls that have rules, as values of JSON.

        Title, version, and the paths of its servers are those of an application, if one is given.
        """
        self._book.complete()
        check_is(app, Starlette | Router, "app", "your FastAPI application")
        check_is(title, str, "title", "text")
        check_is(version, str, "version", "text, as '1.2.0'")
        described = self._described or describe(self._book)
        security = security_of(self._users, takes_tokens=described.takes_tokens)
        return document(
            described,
            title=title or getattr(app, "title", "") or "tidewire",
            version=version or getattr(app, "version", "") or "0.1.0",
            summary=getattr(app, "description", ""),
            servers=servers_of(base_url, app, security),
            security=security,
        )

    def asyncapi_router(
        self,
        *,
        path: str = "/asyncapi",
        described: Description | None = None,
        pages: Iterable[tuple[str, str]] = (),
    ) -> APIRouter:
        """Make the routes `/asyncapi.json` and `/asyncapi`, a page that shows it, for `app.include_router`.

        They show all channels and types to everybody that may load them: give the router dependencies.
        `described` takes the place of the hub's rules. `pages` has the names and addresses of pages that it links to.
        """
        path, pages = _prefix(path, "path"), _pages(pages)
        if not path:
            raise ConfigurationError("path='' is none; write it from the slash on, as '/asyncapi'")
        check_is(described, Description, "described", "what describe of tidewire.asyncapi.description returns")
        self._described = described

        def make(request: Request) -> dict[str, Any]:
            try:
                return self.asyncapi(request.app, base_url=str(request.base_url))
            except ConfigurationError as error:
                raise HTTPException(400, f"the Host header names no server: {error}") from None

        return asyncapi_router(make, path=path, pages=pages)


def _checked(path: str, what: str = "path") -> str:
    if not isinstance(path, str) or (path and path[0] != "/"):
        raise ConfigurationError(f"{what}={shown(path)} is none; write it from the slash on, as '/ws/{{channel}}'")
    return path


def _prefix(prefix: str, what: str = "prefix") -> str:
    return _checked(prefix, what).rstrip("/")


def _pages(pages: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    try:
        return [(name + "", address + "") for name, address in pages]
    except (TypeError, ValueError):
        raise ConfigurationError(f"pages={shown(pages)} are none; write [('Chat', '/chat')]") from None


def _is_forgotten(channel: Mapping[str, Any]) -> bool:
    """Return whether a client cannot recover the publications of a channel that it missed."""
    kept = channel.get("x-tidewire", {})
    return not (kept.get("history") and kept.get("recovery"))
