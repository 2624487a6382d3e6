"""What a FastAPI application uses: the hub with its lifespan, its connections and its routes."""

from __future__ import annotations

import asyncio
import importlib.metadata
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, NamedTuple, ParamSpec, TypeVar, overload

from fastapi import APIRouter
from starlette.websockets import WebSocket

from tidewire.backends import open_backend
from tidewire.channels import check_name, open_channel, personal
from tidewire.engine.control import Control
from tidewire.engine.node import Node
from tidewire.engine.revocations import Revocation
from tidewire.engine.statistics import Statistics
from tidewire.errors import FORCED, ConfigurationError, Disconnect
from tidewire.http_api.api_router import api_router
from tidewire.http_api.calls import Calls, Extension
from tidewire.http_api.nodes import Nodes
from tidewire.links.server_pings import warn_without_pings
from tidewire.messages import HistoryPage, HistoryRequest, IssuedToken, Member, Position, PublishRequest
from tidewire.options import ChannelOptions, Limits, SlowPolicy, read_limits
from tidewire.protocols.base import Protocol
from tidewire.protocols.meta import PublicationMeta, is_history
from tidewire.protocols.payload import encode_json, encode_payload
from tidewire.protocols.plain import PLAIN
from tidewire.rules.base import Authority
from tidewire.rules.book import Authenticate, RuleBook, rule_options
from tidewire.rules.channel_rules import ChannelRules
from tidewire.rules.rule_authority import RuleAuthority
from tidewire.sessions.accept import Acceptance
from tidewire.sessions.application import HubConnection
from tidewire.sessions.centrifuge.client_router import client_router
from tidewire.sessions.origins import Origins
from tidewire.sessions.served import ServedEndpoint, protocol_router
from tidewire.sessions.threads import ThreadCalls, check_loop, running_loop
from tidewire.support.lifespan import Lifespan
from tidewire.support.siblings import Siblings

__all__ = ("Hub",)
_Tags = Mapping[str, str] | None
F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
P = ParamSpec("P")


class _Open(NamedTuple):
    """What a hub has while it is open."""

    node: Node
    nodes: Nodes
    loop: asyncio.AbstractEventLoop
    threads: ThreadCalls


class Hub:
    """Channels, history, presence and connections for a FastAPI application.

    `url` names the store (memory://, sqlite:///chat.db). `channels` maps channel names or patterns ("room:*") to their
    options. `origins` are the browser origins that may connect beside the application's own: "https://app.example.org",
    "http://localhost:*", "https://*.example.org" or "*".
    Use it as `FastAPI(lifespan=hub.lifespan)`, or as `async with hub:` inside another lifespan. Raises
    ConfigurationError for what cannot work.
    """

    def __init__(
        self,
        url: str = "memory://",
        *,
        limits: Limits | Mapping[str, float] | None = None,
        channels: Mapping[str, ChannelOptions] | ChannelRules | None = None,
        default: ChannelOptions | None = None,
        origins: Iterable[str] | Origins = (),
    ) -> None:
        self.url = url
        self.limits = read_limits(limits)
        self.origins = origins if isinstance(origins, Origins) else Origins(origins)
        self._rules = channels if isinstance(channels, ChannelRules) else ChannelRules(channels, default)
        self._book = RuleBook(self._rules)
        #: Decides for clients that choose their channels themselves, by the rules of `channel` and `rpc`.
        self.authority = RuleAuthority(self._book, self._rules, self.limits)
        self._open: _Open | None = None
        open_backend(url, self.limits)  # a bad URL fails where it is written, not at the first request

    # Lifespan.

    def lifespan(self, app: object = None) -> Lifespan:
        """Open the hub for as long as the application runs."""
        return Lifespan(self)

    async def __aenter__(self) -> Hub:
        if self._open is not None:
            raise ConfigurationError("this hub is open already; enter it once, in the application's lifespan")
        warn_without_pings()
        broker, presence = open_backend(self.url, self.limits)
        workers = Siblings.of(asyncio.get_running_loop()).workers
        if workers > 1 and not broker.shared:
            raise ConfigurationError(
                f"{workers} workers cannot share {self.url!r}: each would have its own channels; "
                "write sqlite:///chat.db, or --workers 1"
            )
        node = Node(broker, presence, limits=self.limits, rules=self._rules, is_shown=is_history)
        await node.start()
        nodes = Nodes(node, version=importlib.metadata.version("tidewire"))
        try:
            await nodes.start()
        except BaseException:
            await node.aclose()
            raise
        loop = asyncio.get_running_loop()
        self._open = _Open(node, nodes, loop, ThreadCalls(loop))
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            await opened.nodes.aclose()
            await opened.node.aclose()

    @property
    def node(self) -> Node:
        """The engine; raises ConfigurationError while the hub is closed, and on another event loop than the hub's."""
        opened = self._opened
        check_loop(opened.loop, reads=True)
        return opened.node

    @property
    def _opened(self) -> _Open:
        if self._open is None:
            raise ConfigurationError(
                "this hub is not open; write FastAPI(lifespan=hub.lifespan), or `async with hub:` in your own lifespan "
                "(that of a mounted sub-application is never run: open the hub in the application that mounts it)"
            )
        return self._open

    # Connections.

    def connect(
        self,
        websocket: WebSocket,
        *,
        user: str = "",
        info: Any = None,
        protocol: Protocol[Any] = PLAIN,
        subprotocol: str | None = None,
        headers: Iterable[tuple[bytes, bytes]] | None = None,
        token: IssuedToken | None = None,
    ) -> HubConnection:
        """Take a WebSocket over: `async with hub.connect(websocket, user=…) as connection`.

        Accepts it if nobody has. Over a connection limit it is refused so that the client can read why: HTTP 503 with
        Retry-After in the handshake, or, for a browser, close code 1013. Inside the block, a client that goes away ends
        the iteration and is no error, and an outage of the store ends the connection with 1013: it may come back. Any
        other exception goes on, as in any endpoint; the client gets 1011, or what a handler of yours answers.
        A `token` that `revoke` has ended is refused with 403.
        """
        acceptance = Acceptance(
            self.node,
            websocket,
            user=check_name(user, "user"),
            info=b"" if info is None else encode_json(info),
            protocol=protocol,
            subprotocol=subprotocol,
            headers=headers,
            origins=self.origins,
            token=token,
        )
        return HubConnection(self.node, acceptance)

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
        that name no channel go there. `user` and `name` are those of `client_router`.
        """
        endpoint = ServedEndpoint(lambda: self.node, protocol, origins=self.origins, history=history)
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

    # Rules.

    def channel(
        self,
        pattern: str,
        *,
        history: int = 100,
        history_seconds: float = 86_400.0,
        recover: bool = True,
        presence: bool = False,
        join_leave: bool = False,
        latest: bool = False,
        delta: bool = False,
        tags_filter: bool = False,
        slow: SlowPolicy = SlowPolicy.DISCONNECT,
    ) -> Callable[[F], F]:
        """Decide with a function what a user may do in the channels of a pattern, and set their options.

        `@hub.channel("room:{room}")` over `async def room(room: int, user: str) -> bool | Permissions`: the function is
        given the parameters of the pattern, converted to their types, the `user`, and the value that the connection's
        dependency returned where a parameter has its type. True allows everything, False nothing; it may raise
        PermissionDenied. The options hold for all other uses of these channels. Raises ConfigurationError for a pattern
        that has a rule.
        """
        options = rule_options(
            history=history,
            history_seconds=history_seconds,
            recover=recover,
            presence=presence,
            join_leave=join_leave,
            latest=latest,
            delta=delta,
            tags_filter=tags_filter,
            slow=slow,
        )

        def add(function: F) -> F:
            self._book.add_channel(pattern, options, function)
            return function

        return add

    def rpc(self, name: str) -> Callable[[F], F]:
        """Answer a call of clients with a function: `@hub.rpc("add")` over `async def add(data: Numbers, user: str)`.

        A parameter of a pydantic or msgspec type (or named `data`) is the client's argument; the return value is sent
        as JSON. Raises ConfigurationError for a name that has a function.
        """

        def add(function: F) -> F:
            self._book.add_call(name, function)
            return function

        return add

    def authenticate(self, function: Authenticate) -> Authenticate:
        """Recognise tokens with a function: it returns a user's name or an `Identity`, None for an invalid token.

        Clients that present a token in the protocol, as the Centrifuge SDKs do, are identified by it, not by the
        dependency of the route. The function may raise TokenExpired: then the client fetches another token.
        """
        self._book.add_authentication(function)
        return function

    # Publications.

    @overload
    async def publish(
        self,
        channel: str,
        data: Any,
        *,
        key: str = "",
        tags: _Tags = None,
        skip_history: bool = False,
        connection: None = None,
    ) -> Position: ...

    @overload
    async def publish(
        self,
        channel: str,
        data: Any,
        *,
        key: str = "",
        tags: _Tags = None,
        skip_history: bool = False,
        connection: object,
    ) -> None: ...

    async def publish(
        self,
        channel: str,
        data: Any,
        *,
        key: str = "",
        tags: _Tags = None,
        skip_history: bool = False,
        connection: object | None = None,
    ) -> Position | None:
        """Publish str as text, bytes as binary, anything else as JSON; returns when the broker keeps it.

        The same `key` in the same channel within five minutes is published once. Clients of the Centrifuge protocol may
        choose by `tags`; nobody finds in history, or recovers, what has `skip_history`. With a `connection` (postgresql://
        only; asyncpg, psycopg or SQLAlchemy) it is published if and when that connection's transaction commits.
        Raises NotPublished (surely not kept) or PublishUnconfirmed (unknown; repeat it with the same key), CommandError
        for a channel name or data that cannot be used, ConfigurationError for a store that cannot do it.
        """
        name, (encoded, format_) = open_channel(channel, self.limits.channel_name), encode_payload(data)
        meta = PublicationMeta(None, dict(tags or {}), skip_history=skip_history).encode()
        if connection is not None:
            within = self.node.broker.within
            if within is None:
                raise ConfigurationError(
                    f"{self.url.partition(':')[0]}:// cannot publish in your transaction, only postgresql:// can; "
                    "publish after its commit, without connection="
                )
            await within(connection, PublishRequest(name, encoded, format_, key, meta))
            return None
        return await self.node.publish(name, encoded, format_, key=key, meta=meta)

    def publish_threadsafe(self, channel: str, data: Any, *, key: str = "") -> Future[Position]:
        """Publish from a thread of this process; the future raises as `publish` does."""
        return self._opened.threads.submit(lambda: self.publish(channel, data, key=key))

    def from_thread(self, verb: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a coroutine function from a thread or a plain `def`, and wait: `hub.from_thread(hub.publish, "a", 1)`.

        It may be any of the hub or of a connection. Raises as it does, and ConfigurationError in an event loop, which
        waiting would stop.
        """
        if running_loop() is not None:
            name = getattr(verb, "__name__", "…")
            raise ConfigurationError(f"from_thread waits, which stops an event loop; write `await hub.{name}(…)` here")
        return self._opened.threads.submit(lambda: verb(*args, **kwargs)).result()

    async def send_to_user(self, user: str, data: Any, *, key: str = "") -> Position:
        """Push to every connection of a user, on all nodes; kept in the user's own channel. Raises as `publish`."""
        return await self.node.publish(personal(user), *encode_payload(data), key=key)

    async def broadcast(self, data: Any) -> None:
        """Push to every connection on all nodes, whatever its channels; not kept for clients that are away."""
        await self.node.control(Control(everybody=True), *encode_payload(data))

    async def disconnect(self, *, user: str, reason: str = "", reconnect: bool = False) -> None:
        """End every connection of a user on all nodes."""
        code = 4000 if reconnect else FORCED.code
        name = check_name(user, "user")
        await self.node.control(Control(name, Disconnect(code, reason or FORCED.reason, reconnect)))

    async def revoke(self, *, user: str = "", issued_before: float | None = None, jti: str = "") -> None:
        """End tokens before they expire, on all nodes and for `limits.revocation_seconds`.

        Either one token by its id (`jti`), or all tokens of a user that were issued before a time in seconds since 1970
        (None: now). Their connections end with 1008, and new ones are refused; for this, give `connect` or the
        `Identity` the `token=IssuedToken(id, issued_at)`. Raises as `publish`.
        """
        if not user and not jti:
            raise ConfigurationError("revoke needs user=… or jti=…")
        before = 0.0 if jti else time.time() if issued_before is None else issued_before
        name = check_name(user, "user") if user else ""
        await self.node.revocations.revoke(Revocation(name, jti, before))

    # What is known.

    async def history(
        self, channel: str, *, since: Position | None = None, limit: int | None = None, reverse: bool = False
    ) -> HistoryPage:
        """Read a channel's history as its retention shows it; raises StoreUnavailable."""
        retention = self.node.rules.options(check_name(channel, "channel")).retention
        return await self.node.history.read(HistoryRequest(channel, retention, since, limit, reverse))

    async def inbox(self, user: str, *, since: Position | None = None) -> HistoryPage:
        """Read what was sent to a user by `send_to_user`; raises StoreUnavailable."""
        return await self.history(personal(user), since=since)

    async def remove_history(self, channel: str) -> None:
        """Remove what is stored of a channel; raises StoreUnavailable."""
        await self.node.remove_history(open_channel(channel, self.limits.channel_name))

    async def presence(self, channel: str) -> list[Member]:
        """Return who is present in a channel on all nodes, one entry a connection; raises StoreUnavailable."""
        return await self.node.presence.members(channel)

    async def users(self, channel: str) -> list[str]:
        """Return the users present in a channel on all nodes, each once, in the order of their arrival."""
        return list(dict.fromkeys(member.user for member in await self.presence(channel)))

    async def is_online(self, user: str) -> bool:
        """Return whether a user has a connection on any node; raises StoreUnavailable."""
        return await self.node.presence.count(personal(user), user) > 0

    @property
    def degraded(self) -> bool:
        """The store is away: publishing fails, clients stay."""
        return self.node.tasks.degraded

    def statistics(self) -> Statistics:
        """Return the figures of this node."""
        return self.node.statistics()
