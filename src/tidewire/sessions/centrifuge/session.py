"""One client of the Centrifuge protocol, from its connect to its end: its state, its expiry, the orders to it."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Mapping
from enum import Enum
from typing import Any, cast

import msgspec

from tidewire.channels import client_channel
from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.engine.subscribing import ended
from tidewire.errors import (
    CommandError,
    ConnectionClosed,
    Disconnect,
    LimitExceeded,
    Rejected,
    StateFailed,
    StoreUnavailable,
)
from tidewire.messages import Position
from tidewire.protocols.centrifuge import codes
from tidewire.protocols.centrifuge import messages as m
from tidewire.protocols.centrifuge.codes import Malformed, MalformedFrame, Unsubscription, error_of
from tidewire.protocols.centrifuge.encoding import CentrifugeProtocol
from tidewire.protocols.centrifuge.messages import Command, Push, Reply, raw
from tidewire.protocols.close_codes import TOO_MANY
from tidewire.rules.base import Authority, ConnectAttempt, Grant, Identity
from tidewire.sessions.centrifuge.commands import METHODS, VERSION, Commands
from tidewire.sessions.centrifuge.credentials import Credentials, ttl_of
from tidewire.sessions.centrifuge.directory import Sessions
from tidewire.sessions.centrifuge.heartbeat import Heartbeat
from tidewire.sessions.centrifuge.subscriptions import ClientSubscriptions, Ready
from tidewire.sessions.command_queue import CommandQueue
from tidewire.sessions.newcomers import identify
from tidewire.support.counters import count_limit

__all__ = ("Session",)

logger = logging.getLogger("tidewire")


class _State(Enum):
    NEW = 0
    CONNECTED = 1
    FAILED = 2


_CONNECTED = _State.CONNECTED  # as a global, for every message: an attribute of an enumeration is dear


class Session:
    """One client. With its `secret`, if it has one, others may act for it; with its connection's id they may not.

    Without `pings` the client is not asked whether it is there: its link does that. `start` comes next.
    """

    __slots__ = (
        "__weakref__",
        "_authority",
        "_commands",
        "_given",
        "_heartbeat",
        "_pings",
        "_refused",
        "_state",
        "connection",
        "credentials",
        "node",
        "protocol",
        "queue",
        "secret",
        "subscriptions",
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
        self.node = node
        self.connection = connection
        self.protocol = cast(CentrifugeProtocol, connection.protocol)
        is_named = emulated or self.protocol.one_way
        self.secret = secrets.token_urlsafe(24) if is_named else ""
        self.credentials = Credentials(connection.id, identity or Identity(), connection.address)
        self.subscriptions = ClientSubscriptions(node, connection, self.protocol)
        self.queue = CommandQueue(node, connection, self._handle_frame, closed=self._closed)
        self._authority = authority
        self._given = identity
        self._pings = pings
        self._state = _State.NEW
        #: The channels that a one-way client asked for and may not have, until it is told.
        self._refused: dict[str, Unsubscription] = {}
        self._heartbeat = Heartbeat(connection, node.limits, self)
        self._commands = Commands(self.queue, authority, self.credentials, self.subscriptions, self._heartbeat)

    def start(self) -> None:
        """Begin to take messages of the client."""
        if self.connection.is_closed:
            self.queue.close()
            return
        self._heartbeat.schedule()
        self.queue.start()

    @property
    def user(self) -> str:
        """The user that the session belongs to; "": nobody known."""
        return self.credentials.identity.user

    # Messages of the client.

    async def _handle_frame(self, message: str | bytes) -> None:
        """Handle the commands of one frame; they count as messages of their own for the rate."""
        if self.protocol.one_way and self._state is not _State.NEW:
            return  # a client that only listens sends its connect request alone
        commands = self.protocol.decode(message)
        connection = self.connection
        if len(commands) > 1:
            connection.charge(len(commands) - 1)
        for command in commands:
            if connection.link.paused:
                await self.queue.wait_drained()
            if connection.is_closed or (len(commands) > 1 and self._state is _State.FAILED):
                return
            work = self._work_of(command)
            if work is not None:
                await work

    def _work_of(self, command: Command) -> Awaitable[object] | None:
        """Return an awaitable for a command, None for one that is done; raises the error that ends the connection."""
        before = command.connect or command.subscribe or command.unsubscribe  # of two methods, the first one counts
        if command.publish is not None and command.id and not before and self._state is _CONNECTED:
            return self._commands.run(command.id, "publish", command.publish)  # nearly all commands
        found = _request_of(command)
        is_connect = command.connect is not None and command.id > 0
        if self._state is not _CONNECTED and not is_connect:
            failed = self._state is _State.FAILED
            raise MalformedFrame(Malformed.CONNECT_FAILED if failed else Malformed.NOT_CONNECTED)
        if command.id == 0 and found is None:
            self._heartbeat.pong()
        elif command.id == 0 and command.send is None:
            raise MalformedFrame(Malformed.NO_ID)
        elif found is None:
            raise MalformedFrame(Malformed.NO_METHOD)
        elif is_connect:
            return self._connect(command.id, cast(m.ConnectRequest, command.connect))
        else:
            return self._commands.run(command.id, *found)
        return None

    def _push(self, push: Push) -> None:
        """Push something that belongs to no publication."""
        self.node.send(self.connection, self.protocol.encode_push(push))

    # Connect.

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
        except (ConnectionClosed, Rejected):
            raise
        except Exception as error:
            self._fail(command, self._commands.judge(error, "connect"))
            return
        if self.connection.is_closed:  # it has left meanwhile, and nobody would end its subscriptions
            raise ended(self.connection)
        self._state = _CONNECTED
        Sessions.of(self.node).add(self)
        result = self._connect_result({ready.subscription.channel: ready.result for ready in prepared})
        if self.protocol.one_way:
            self._push(Push(connect=result))
            for channel, refusal in self._refused.items():
                self._push(Push(channel, unsubscribe=m.Unsubscribe(*refusal)))
            self._refused.clear()
        else:
            self._commands.reply(Reply(command, connect=result))
        self._heartbeat.begin(self.protocol.ping if self._pings else None, is_answered=not self.protocol.one_way)
        for ready in prepared:
            await self.subscriptions.go_live(ready, (), identity)
        if prepared:
            self._heartbeat.schedule()

    def _fail(self, command: int, error: codes.WireError) -> None:
        """Answer a connect that failed: nothing but another connection can mend it."""
        self._state = _State.FAILED
        if self.protocol.one_way:
            self.connection.end(codes.disconnect_for(error))
        else:
            self._commands.reply(Reply(command, error=m.Error(*error)))

    async def _identify(self, identity: Identity) -> None:
        connection = self.connection
        self.credentials.renew(identity)
        connection.opened_with(identity.token)
        if identity.user != connection.user:
            await self._own(identity)
        if self.node.is_revoked(identity.user, identity.token):
            raise Rejected(codes.INVALID_TOKEN)

    async def _own(self, identity: Identity) -> None:
        """Give the connection its user."""
        connection = self.connection
        if connection.user:
            raise Rejected(codes.INVALID_TOKEN)
        try:
            await identify(self.node, connection, identity.user, identity.info)
        except LimitExceeded:
            raise Rejected(TOO_MANY) from None

    async def _prepare_granted(self, request: m.ConnectRequest) -> list[Ready]:
        """Prepare the channels that the client is given unasked, and those that a one-way client asks for here."""
        identity = self.credentials.identity
        grants = dict(identity.subscriptions)
        if grants:
            self.credentials.grant(frozenset(grants))
        if self.protocol.one_way:
            wanted = {channel: wish for channel, wish in request.subs.items() if channel not in grants}
            grants |= await self._grants_of(wanted)
        prepared: list[Ready] = []
        left = self.node.limits.reply_bytes
        try:
            for channel, grant in grants.items():
                wish = request.subs.get(channel) or m.SubscribeRequest(channel)
                wish = m.SubscribeRequest(channel, recover=wish.recover, epoch=wish.epoch, offset=wish.offset)
                ready = await self.subscriptions.prepare(
                    channel, grant, wish, identity, is_server_side=True, is_reply_full=left <= 0
                )
                prepared.append(ready)
                left -= sum(len(bytes(publication.data)) for publication in ready.result.publications)
        except BaseException:
            for ready in prepared:
                self.subscriptions.abandon(ready)
            raise
        return prepared

    async def _grants_of(self, wanted: Mapping[str, m.SubscribeRequest]) -> dict[str, Grant]:
        """Return the grants of a one-way client for the channels that it asks for; raises if there are none.

        One that it may not have costs it the others not: it is told behind the connect that it is not subscribed there.
        """
        if len(wanted) > self.node.limits.channels:
            count_limit("channels")
            raise LimitExceeded(f"a connection subscribes to at most {self.node.limits.channels} channels")
        grants: dict[str, Grant] = {}
        refusal: CommandError | None = None
        for channel in wanted:
            try:
                name = client_channel(channel, self.node.limits.channel_name)
                grants[name] = await self._authority.subscribe(self.credentials.caller, name, "", b"")
            except CommandError as error:
                answer = error_of(error)
                if answer.temporary:
                    raise
                refusal = error
                self._refused[channel] = Unsubscription(2000 + min(answer.code, 499), answer.message)
        # channels that it recovers were perhaps given to it by the server, which may have ended that
        was_given = len(wanted) > 1 and all(wish.recover for wish in wanted.values())
        if refusal is not None and not (grants or self.credentials.granted or was_given):
            raise refusal
        return grants

    def _connect_result(self, subs: dict[str, m.SubscribeResult]) -> m.ConnectResult:
        identity, seconds = self.credentials.identity, self.node.limits.ping_seconds
        pings = self._pings and seconds > 0
        return m.ConnectResult(
            client=self.connection.id,
            version=VERSION,
            expires=identity.expires_at is not None,
            ttl=ttl_of(identity.expires_at),
            data=raw(identity.data),
            subs=subs,
            ping=max(1, round(seconds)) if pings else 0,
            pong=pings and not self.protocol.one_way,
            session=self.secret,
            node=self.node.id if self.secret else "",
        )

    # Expiry (heartbeat.Expiring).

    def next_expiry(self) -> float | None:
        """Return when the connection or a subscription ends for good, by the loop's clock."""
        ends, mine = self.credentials.ends, self.subscriptions
        first = mine.next_expiry() if mine.channels else None
        if ends is None or (first is not None and first < ends):
            ends = first
        return None if ends is None else ends + self.node.limits.expiry_grace_seconds

    def expire(self, now: float) -> None:
        """End the connection and subscriptions that were not refreshed in time."""
        moment, ends = now - self.node.limits.expiry_grace_seconds, self.credentials.ends
        if ends is not None and ends <= moment and self._state is _CONNECTED:
            self.connection.end(codes.CONNECTION_EXPIRED)
        else:
            self.subscriptions.expire(moment)

    # Orders of the application (directory.Controlled).

    def kick(self, disconnect: Disconnect) -> None:
        """End the session, behind the messages that are pending for it; with code 3000, without telling a code."""
        self.node.fanout.flush_for(self.connection)
        if disconnect.code == codes.NO_CODE:
            self.connection.link.abort()
        else:
            self.connection.end(disconnect)

    def force_subscribe(self, channel: str, grant: Grant, since: Position | None = None) -> None:
        """Subscribe the client to a channel without its asking; harmless when it is subscribed."""
        self.queue.submit(lambda: self._force_subscribe(channel, grant, since))

    async def _force_subscribe(self, channel: str, grant: Grant, since: Position | None) -> None:
        if self._state is not _CONNECTED or channel in self.subscriptions.channels:
            return
        identity = self.credentials.identity
        offset, epoch = (since.offset, since.epoch) if since is not None else (0, "")
        wish = m.SubscribeRequest(channel, recover=since is not None, epoch=epoch, offset=offset)
        try:
            ready = await self.subscriptions.prepare(channel, grant, wish, identity, is_server_side=True)
        except (CommandError, StateFailed, StoreUnavailable) as error:
            logger.warning("connection %s cannot be subscribed to %r: %s", self.connection.id, channel, error)
            return
        result = ready.result
        begin = m.Subscribe(result.recoverable, result.epoch, result.offset, result.positioned, result.data)
        pushes = [Push(channel, subscribe=begin), *(Push(channel, pub=missed) for missed in result.publications)]
        await self.subscriptions.go_live(ready, [self.protocol.encode_push(push) for push in pushes], identity)
        self._heartbeat.schedule()

    def force_unsubscribe(self, channel: str, code: int, reason: str) -> None:
        """Unsubscribe the client from a channel ("": from all), and tell it."""

        async def unsubscribe() -> None:
            for name in (channel,) if channel else tuple(self.subscriptions.channels):
                self.subscriptions.drop(name, Unsubscription(code, reason))

        self.queue.submit(unsubscribe)

    def force_refresh(self, expires_at: float | None, *, expired: bool, info: bytes = b"") -> None:
        """Set when the session ends, or end it as expired."""
        if expired:
            self.kick(codes.CONNECTION_EXPIRED)
            return
        identity = self.credentials.identity
        self.credentials.renew(msgspec.structs.replace(identity, expires_at=expires_at, info=info or identity.info))
        self._heartbeat.schedule()
        self._push(Push(refresh=m.Refresh(expires_at is not None, ttl_of(expires_at))))

    def _closed(self) -> None:
        self._heartbeat.stop()
        self.subscriptions.clear()
        Sessions.of(self.node).discard(self)


def _request_of(command: Command) -> tuple[str, Any] | None:
    """Return the method that a command names, and its request; None where it names none."""
    for name in METHODS:
        request = getattr(command, name)
        if request is not None:
            return name, request
    return None
