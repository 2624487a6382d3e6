"""One client of the Centrifuge protocol, from its connect to its end: commands in their order, replies, expiry."""

from __future__ import annotations

import logging
import secrets
import time
from enum import Enum
from importlib.metadata import version
from typing import cast

import msgspec

from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.engine.subscribing import ended
from tidewire.errors import (
    TOO_MANY,
    CommandError,
    Disconnect,
    LimitExceeded,
    PermissionDenied,
    Rejected,
    StoreUnavailable,
    TokenExpired,
)
from tidewire.messages import Position
from tidewire.protocols.centrifuge import codes
from tidewire.protocols.centrifuge import messages as m
from tidewire.protocols.centrifuge.codes import Malformed, MalformedFrame, Unsubscription, error_of
from tidewire.protocols.centrifuge.encoding import CentrifugeProtocol
from tidewire.protocols.centrifuge.messages import Command, Push, Reply, raw
from tidewire.rules.base import Authority, Caller, ConnectAttempt, Grant, Identity
from tidewire.sessions.centrifuge.commands import METHODS, answer
from tidewire.sessions.centrifuge.directory import Sessions
from tidewire.sessions.centrifuge.heartbeat import Heartbeat
from tidewire.sessions.centrifuge.subscriptions import Followed, Following, Ready, end_of, ttl_of
from tidewire.sessions.queue import Lane

__all__ = ("Session",)

logger = logging.getLogger("tidewire")

_VERSION = f"tidewire {version('tidewire')}"


class _State(Enum):
    NEW = 0
    CONNECTED = 1
    FAILED = 2


class Session(Lane):
    """One client. `secret` names it to whoever may act for it; the connection's
    id does not. Without `pings` the client is not asked whether it is there: its link does that.
    """

    __slots__ = (
        "_authority",
        "_emulated",
        "_ends",
        "_given",
        "_granted",
        "_heartbeat",
        "_pings",
        "_state",
        "caller",
        "following",
        "identity",
        "protocol",
        "secret",
    )

    def __init__(
        self,
        node: Node,
        authority: Authority,
        connection: Connection,
        *,
        identity: Identity | None,
        emulated: bool = False,
        pings: bool = True,
    ) -> None:
        super().__init__(node, connection)
        self.protocol = cast(CentrifugeProtocol, connection.protocol)
        self.secret = secrets.token_urlsafe(24)
        self._be(connection.id, identity or Identity())
        self.following = Following(node, connection, self.protocol)
        self._authority = authority
        self._given = identity
        self._emulated = emulated
        self._pings = pings
        self._state = _State.NEW
        #: The channels that the client was given when it connected.
        self._granted: frozenset[str] = frozenset()
        self._heartbeat = Heartbeat(connection, node.limits, self)
        connection.serve(self._readable, self._closed)
        if connection.is_closed:
            self._heartbeat.stop()
        elif connection.has_messages:
            self._readable()

    @property
    def user(self) -> str:
        """Whom the session belongs to; "": nobody known."""
        return self.identity.user

    @property
    def authority(self) -> Authority:
        """Who decides for this client."""
        return self._authority

    # What the client says.

    async def _take(self, message: str | bytes) -> None:
        """Handle the commands of one frame; they count as messages of their own for the rate."""
        if self.protocol.one_way and self._state is not _State.NEW:
            return  # who only listens has nothing more to say
        commands = self.protocol.decode(message)
        self.connection.charge(len(commands) - 1)
        for command in commands:
            await self._wait_drained()
            if self.connection.is_closed or (self._state is _State.FAILED and len(commands) > 1):
                return
            await self._handle(command)

    async def _handle(self, command: Command) -> None:
        found = next(((name, request) for name in METHODS if (request := getattr(command, name)) is not None), None)
        is_connect = command.connect is not None and command.id > 0
        if self._state is not _State.CONNECTED and not is_connect:
            failed = self._state is _State.FAILED
            raise MalformedFrame(Malformed.CONNECT_FAILED if failed else Malformed.NOT_CONNECTED)
        if command.id == 0 and found is None:
            self._heartbeat.pong()
        elif command.id == 0 and command.send is None:
            raise MalformedFrame(Malformed.NO_ID)
        elif found is None:
            raise MalformedFrame(Malformed.NO_METHOD)
        elif is_connect:
            await self._connect(command.id, cast(m.ConnectRequest, command.connect))
        else:
            await answer(self, command.id, *found)

    def write(self, reply: Reply) -> None:
        """Write a reply behind everything that is pending for the client."""
        self.node.send(self.connection, self.protocol.encode_reply(reply))

    def push(self, push: Push) -> None:
        """Push something that belongs to no publication."""
        self.node.send(self.connection, self.protocol.encode_push(push))

    # Connect and refresh.

    def _be(self, connection: str, identity: Identity) -> None:
        """Be somebody from now on."""
        self.identity = identity
        self.caller = Caller(connection, identity)
        self._ends = end_of(identity.expires_at)

    async def _connect(self, command: int, request: m.ConnectRequest) -> None:
        if self._state is not _State.NEW:
            failed = self._state is _State.FAILED
            raise MalformedFrame(Malformed.CONNECT_FAILED if failed else Malformed.CONNECTED_TWICE)
        attempt = ConnectAttempt(request.token, bytes(request.data), request.name, request.version, request.headers)
        try:
            identity = await self._authority.connect(attempt, self._given)
            if identity.expires_at is not None and identity.expires_at <= time.time():
                self._fail(command, codes.EXPIRED)
                return
            await self._identify(identity)
            prepared = await self._prepare_granted(request)
        except (CommandError, StoreUnavailable) as error:
            self._fail(command, error_of(error))
            return
        if self.connection.is_closed:  # it has left while it was judged, and nobody would take it out of what follows
            raise ended(self.connection)
        self._state = _State.CONNECTED
        Sessions.of(self.node).add(self)
        result = self._connect_result({ready.followed.channel: ready.result for ready in prepared})
        if self.protocol.one_way:
            self.push(Push(connect=result))
        else:
            self.write(Reply(command, connect=result))
        self._heartbeat.begin(self.protocol.ping if self._pings else None, is_answered=not self.protocol.one_way)
        for ready in prepared:
            await self.following.go_live(ready, (), self.identity)
        self._heartbeat.schedule()

    def _fail(self, command: int, error: codes.WireError) -> None:
        """Answer a connect that failed: nothing but another connection can mend it."""
        self._state = _State.FAILED
        if self.protocol.one_way:
            self.connection.end(codes.disconnect_for(error))
        else:
            self.write(Reply(command, error=m.Error(*error)))

    async def _identify(self, identity: Identity) -> None:
        connection = self.connection
        self._be(connection.id, identity)
        if identity.user == connection.user:
            return
        if connection.user:
            raise Rejected(codes.INVALID_TOKEN)
        try:
            await self.node.identify(connection, identity.user, identity.info)
        except LimitExceeded:
            raise Rejected(TOO_MANY) from None

    async def _prepare_granted(self, request: m.ConnectRequest) -> list[Ready]:
        """Prepare what the client follows without asking, and what a client that cannot ask later wants now."""
        grants = dict(self.identity.subscriptions)
        self._granted = frozenset(grants)
        if self.protocol.one_way:
            for channel, wish in request.subs.items():
                if channel not in grants:
                    try:
                        grants[channel] = await self._authority.subscribe(self.caller, channel, "", b"")
                    except PermissionDenied:
                        # where it comes back: this one it was given by another's will, which may have ended
                        if not wish.recover or len(request.subs) == 1:
                            raise
        prepared: list[Ready] = []
        try:
            for channel, grant in grants.items():
                wish = request.subs.get(channel) or m.SubscribeRequest(channel)
                wish = m.SubscribeRequest(channel, recover=wish.recover, epoch=wish.epoch, offset=wish.offset)
                prepared.append(await self.following.prepare(channel, grant, wish, self.identity, is_server_side=True))
        except BaseException:
            for ready in prepared:
                self.following.abandon(ready)
            raise
        return prepared

    def _connect_result(self, subs: dict[str, m.SubscribeResult]) -> m.ConnectResult:
        identity, seconds = self.identity, self.node.limits.ping_seconds
        named = self._emulated or self.protocol.one_way
        pings = self._pings and seconds > 0
        return m.ConnectResult(
            client=self.connection.id,
            version=_VERSION,
            expires=identity.expires_at is not None,
            ttl=ttl_of(identity.expires_at),
            data=raw(identity.data),
            subs=subs,
            ping=max(1, round(seconds)) if pings else 0,
            pong=pings and not self.protocol.one_way,
            session=self.secret if named else "",
            node=self.node.id if named else "",
        )

    async def refresh(self, token: str) -> m.RefreshResult:
        """Go on with another token; raises Rejected for one that cannot be."""
        try:
            identity = await self._authority.refresh(self.caller, token)
        except TokenExpired:
            raise Rejected(codes.CONNECTION_EXPIRED) from None
        if identity.user != self.user:
            raise Rejected(codes.INVALID_TOKEN)
        if frozenset(identity.subscriptions) != self._granted:
            raise Rejected(codes.INSUFFICIENT_STATE)  # it comes back, and gets what is right now
        self._be(self.connection.id, identity)
        self._heartbeat.schedule()
        expires_at = identity.expires_at
        return m.RefreshResult(self.connection.id, _VERSION, expires_at is not None, ttl_of(expires_at))

    # Expiry (heartbeat.Expiring).

    def next_expiry(self) -> float | None:
        """Return when the connection or a subscription ends for good, by the loop's clock."""
        moments = [moment for moment in (self._ends, self.following.next_expiry()) if moment is not None]
        return min(moments) + self.node.limits.expiry_grace_seconds if moments else None

    def expire(self, now: float) -> None:
        """End what was not refreshed in time."""
        moment = now - self.node.limits.expiry_grace_seconds
        if self._ends is not None and self._ends <= moment and self._state is _State.CONNECTED:
            self.connection.end(codes.CONNECTION_EXPIRED)
        else:
            self.following.expire(moment)

    def rescheduled(self) -> None:
        """Look at the moments anew: a subscription's end has changed."""
        self._heartbeat.schedule()

    def extended(self, followed: Followed, grant: Grant) -> m.SubRefreshResult:
        """Let a subscription go on as long as a new grant says."""
        followed.extend(grant.expires_at)
        self._heartbeat.schedule()
        return m.SubRefreshResult(grant.expires_at is not None, ttl_of(grant.expires_at))

    # What the application asks (sessions.Controlled).

    def kick(self, disconnect: Disconnect) -> None:
        """End the session, behind what is pending for it."""
        self.node.fanout.flush_for(self.connection)
        self.connection.end(disconnect)

    def force_subscribe(self, channel: str, grant: Grant, since: Position | None = None) -> None:
        """Let the client follow a channel by the server's will; harmless when it does."""
        self.order(lambda: self._force_subscribe(channel, grant, since))

    async def _force_subscribe(self, channel: str, grant: Grant, since: Position | None) -> None:
        if self._state is not _State.CONNECTED or channel in self.following.channels:
            return
        offset, epoch = (since.offset, since.epoch) if since is not None else (0, "")
        wish = m.SubscribeRequest(channel, recover=since is not None, epoch=epoch, offset=offset)
        try:
            ready = await self.following.prepare(channel, grant, wish, self.identity, is_server_side=True)
        except (CommandError, StoreUnavailable) as error:
            logger.warning("connection %s cannot follow %r: %s", self.connection.id, channel, error)
            return
        result = ready.result
        told = m.Subscribe(result.recoverable, result.epoch, result.offset, result.positioned, result.data)
        pushes = [Push(channel, subscribe=told), *(Push(channel, pub=missed) for missed in result.publications)]
        await self.following.go_live(ready, [self.protocol.encode_push(push) for push in pushes], self.identity)
        self._heartbeat.schedule()

    def force_unsubscribe(self, channel: str, code: int, reason: str) -> None:
        """Let the client follow a channel ("": any) no longer, and tell it."""

        async def unsubscribe() -> None:
            for name in (channel,) if channel else tuple(self.following.channels):
                self.following.drop(name, Unsubscription(code, reason))

        self.order(unsubscribe)

    def force_refresh(self, expires_at: float | None, *, expired: bool, info: bytes = b"") -> None:
        """Say for how long the session goes on, or that it has expired."""
        if expired:
            self.kick(codes.CONNECTION_EXPIRED)
            return
        identity = msgspec.structs.replace(self.identity, expires_at=expires_at, info=info or self.identity.info)
        self._be(self.connection.id, identity)
        self._heartbeat.schedule()
        self.push(Push(refresh=m.Refresh(expires_at is not None, ttl_of(expires_at))))

    def _closed(self) -> None:
        self._heartbeat.stop()
        self._orders.clear()
        self.following.channels.clear()
        Sessions.of(self.node).discard(self)
