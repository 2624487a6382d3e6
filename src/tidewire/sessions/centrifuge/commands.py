"""The commands of a client after its connect: one function for each method of the protocol."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.metadata import version
from typing import Any, cast

from msgspec import Raw, Struct

from tidewire.channel_options import ChannelOptions, MapKind
from tidewire.channels import client_channel
from tidewire.errors import (
    BadRequest,
    CommandError,
    ConnectionClosed,
    NotAvailable,
    PermissionDenied,
    PublishError,
    Rejected,
    StateFailed,
    StoreUnavailable,
    TokenExpired,
    UnknownType,
)
from tidewire.messages import Format
from tidewire.protocols.centrifuge import codes
from tidewire.protocols.centrifuge import messages as m
from tidewire.protocols.centrifuge.codes import Malformed, MalformedFrame, WireError, error_of
from tidewire.protocols.centrifuge.encoding import CentrifugeProtocol
from tidewire.protocols.centrifuge.messages import Reply, raw
from tidewire.protocols.meta import PublicationMeta
from tidewire.protocols.payload import encode_json
from tidewire.rules.base import Action, Authority, Identity
from tidewire.sessions.centrifuge.credentials import Credentials, ttl_of
from tidewire.sessions.centrifuge.heartbeat import Heartbeat
from tidewire.sessions.centrifuge.history_and_presence import count_presence, may_be_large, read_in_turn, read_presence
from tidewire.sessions.centrifuge.map_form import value_of
from tidewire.sessions.centrifuge.map_subscribing import map_of
from tidewire.sessions.centrifuge.subscriptions import ClientSubscriptions
from tidewire.sessions.command_queue import CommandQueue
from tidewire.sessions.in_flight import Settle
from tidewire.sessions.maps import Maps
from tidewire.sessions.reply_budget import ReplyBudget
from tidewire.support.refusals import kind_of

__all__ = ("METHODS", "VERSION", "Commands")

logger = logging.getLogger("tidewire")

#: The server's name and version, as a client is told them.
VERSION = f"tidewire {version('tidewire')}"
_PUBLISH = Action.PUBLISH  # as a global, for every message: an attribute of an enumeration is dear
#: Methods that do not wait for the publications before them, or do so beside the other commands.
_BESIDE = frozenset({"publish", "rpc", "history", "presence", "presence_stats"})


class Commands:
    """Runs the commands of one connected client, and replies to them."""

    __slots__ = (
        "_authority",
        "_connection",
        "_credentials",
        "_heartbeat",
        "_named",
        "_node",
        "_protocol",
        "_publisher",
        "_queue",
        "_subscriptions",
    )

    def __init__(
        self,
        queue: CommandQueue,
        authority: Authority,
        credentials: Credentials,
        subscriptions: ClientSubscriptions,
        heartbeat: Heartbeat,
    ) -> None:
        self._queue = queue
        self._node = queue.node
        self._connection = queue.connection
        self._protocol = cast(CentrifugeProtocol, queue.connection.protocol)
        self._authority = authority
        self._credentials = credentials
        self._subscriptions = subscriptions
        self._heartbeat = heartbeat
        #: The name of a channel that was judged last.
        self._named = ""
        #: The identity and the info of a subscription as they were when the last publication was begun, and its meta.
        self._publisher: tuple[Identity, bytes, bytes] | None = None

    def run(self, command: int, name: str, request: Any) -> Awaitable[object]:
        """Return an awaitable that runs a command and replies to it; calls and reads go on beside later commands."""
        meter = self._node.meter
        if name == "publish":  # the most frequent one answers its errors itself
            answer: Awaitable[object] = self.publish(command, request)
        elif name in _BESIDE:
            answer = self._answer(command, name, METHODS[name](self, command, request), request, ends=False)
        else:
            answer = self._answer_in_order(command, name, request)
        return answer if meter is None or not meter.has_spans else meter.command(name, answer, self._connection.id)

    async def _answer_in_order(self, command: int, name: str, request: Any) -> None:
        """Run one command behind all that was published before it."""
        await self._queue.publishes.wait()
        await self._answer(command, name, METHODS[name](self, command, request), request)

    def reply(self, reply: Reply) -> int:
        """Write a reply behind everything that is pending for the client; return its bytes."""
        message = self._protocol.encode_reply(reply)
        self._node.send(self._connection, message)
        return len(message.data)

    async def _answer(
        self, command: int, name: str, work: Awaitable[Struct | None], request: Any = None, *, ends: bool = True
    ) -> int:
        """Answer with a result or an error, and return its bytes; with `ends`, the command has been done then."""
        meter = self._node.meter
        if meter is not None and ends:
            work = meter.timed("command", name, work)
        try:
            result = await work
        except (ConnectionClosed, Rejected):
            raise
        except Exception as error:
            self._fail(command, name, error, getattr(request, "channel", ""), counts=not ends)
        else:
            return 0 if result is None else self.reply(Reply(command, **{name: cast(Any, result)}))
        return 0

    def _fail(self, command: int, name: str, error: Exception, channel: str, *, counts: bool) -> None:
        """Answer with an error; `counts` says that no duration of the command is counted."""
        if counts and self._node.meter is not None:
            self._node.meter.add("command", name, "failed", 0.0)
        failure = self.judge(error, name, channel)
        if command:
            self.reply(Reply(command, error=m.Error(*failure)))

    def judge(self, error: BaseException, name: str, channel: str = "") -> WireError:
        """Return the error that answers a command that failed; a bug is logged, and the connection lives on."""
        if isinstance(error, CommandError | StoreUnavailable | PublishError | StateFailed):
            self._connection.refuse(kind_of(error), f"{name}: {error}", channel)
            return error_of(error)
        logger.error("command %s of connection %s failed; it gets error 100", name, self._connection.id, exc_info=error)
        return codes.INTERNAL

    async def _answer_read(self, command: int, name: str, request: Any, read: Callable[[], Awaitable[Struct]]) -> None:
        """Reply with something large that is read now, or when the client has taken its earlier replies."""
        await self._queue.read_beside(lambda: self._answer(command, name, read()), may_be_large=may_be_large(request))

    def _name(self, channel: str) -> str:
        """Return the name of a channel that a client may mean."""
        if channel != self._named or not channel:
            if not channel:
                raise MalformedFrame(Malformed.NO_CHANNEL)
            self._named = client_channel(channel, self._node.limits.channel_name)
        return self._named  # the same object each time, as a store that has judged it knows it

    async def connect(self, command: int, request: m.ConnectRequest) -> None:
        """Refuse a second connect."""
        raise MalformedFrame(Malformed.CONNECTED_TWICE)

    async def subscribe(self, command: int, request: m.SubscribeRequest) -> None:
        """Subscribe the client to a channel; its publications come after the reply."""
        channel, subscriptions, credentials = self._name(request.channel), self._subscriptions, self._credentials
        subscriptions.check(channel)
        if request.delta not in ("", "fossil"):
            raise MalformedFrame(Malformed.UNKNOWN_DELTA)
        grant = subscriptions.pages.grant(request) if request.type else None
        if grant is None:
            grant = await self._authority.subscribe(credentials.caller, channel, request.token, bytes(request.data))
        credentials.check(channel, grant, self._node)
        if request.type:
            ready = await subscriptions.prepare_map(channel, grant, request, credentials.identity)
        else:
            ready = await subscriptions.prepare(channel, grant, request, credentials.identity)
        if isinstance(ready, m.SubscribeResult):  # a page of it
            self.reply(Reply(command, subscribe=ready))
            return
        reply = self._protocol.encode_reply(Reply(command, subscribe=ready.result))
        await subscriptions.go_live(ready, (reply,), credentials.identity)
        if grant.expires_at is not None:
            self._heartbeat.schedule()

    async def unsubscribe(self, command: int, request: m.UnsubscribeRequest) -> m.UnsubscribeResult:
        """Unsubscribe the client from a channel; harmless when it is not subscribed."""
        if not request.channel:
            raise MalformedFrame(Malformed.NO_CHANNEL)
        await self._subscriptions.unsubscribe(request.channel)
        return m.UnsubscribeResult()

    async def publish(self, command: int, request: m.PublishRequest) -> None:
        """Publish a message of the client; the reply is written when it is kept, or says why it is not."""
        publishes, meter = self._queue.publishes, self._node.meter
        try:
            channel = self._name(request.channel)
            if request.type:
                await self._change_entry(command, channel, request)
                return
            if not request.data:
                raise BadRequest("a publication has data; send some")
            caller, subscription = self._credentials.caller, self._subscriptions.channels.get(channel)
            await self._authority.allow(caller, channel, _PUBLISH, subscribed=subscription is not None)
            taken = await self._taken(channel, bytes(request.data))
            meta = self._meta(caller.identity, b"" if subscription is None else subscription.grant.info)
            if taken is not None and not publishes.waits and not (meter and meter.is_due):  # it is kept at once
                await self._node.publish(channel, *taken, meta=meta, sender=caller.client)
                self._connection.write(self._protocol.encode_published(command))
                return
            settle: Settle = partial(self._publish_settled, command, channel)
            if meter is not None and meter.is_due:
                settle = meter.timed_until("command", "publish", settle)
            if taken is None:
                settle(None)
            else:
                await publishes.publish(channel, *taken, settle, meta=meta)
        except (ConnectionClosed, Rejected):
            raise
        except Exception as error:
            await publishes.wait()  # answers of one channel stay in order
            self._fail(command, "publish", error, request.channel, counts=True)

    def _meta(self, identity: Identity, info: bytes) -> bytes:
        """Return the client's name and info for a publication, with the `info` of its subscription."""
        said = self._publisher
        if said is None or said[0] is not identity or said[1] != info:
            publisher = m.ClientInfo(identity.user, self._connection.id, raw(identity.info), raw(info))
            said = self._publisher = identity, info, PublicationMeta(publisher).encode()
        return said[2]

    async def _change_entry(self, command: int, channel: str, request: m.PublishRequest) -> None:
        """Set or remove an entry of a map; the reply is written when that is kept."""
        credentials, maps = self._credentials, Maps.of(self._node)
        options = map_of(self._authority.options(channel), channel, request.type)
        if options.kind is not MapKind.ENTRIES:
            raise NotAvailable(f"{channel!r} lists who is in another channel; subscribe there to be in it")
        subscription = self._subscriptions.channels.get(channel)
        action = Action.REMOVE if request.removed else Action.PUBLISH
        await self._authority.allow(credentials.caller, channel, action, subscribed=subscription is not None)
        maps.ask(channel, self._connection)
        identity = credentials.identity
        key = {"client_id": self._connection.id, "user_id": identity.user}.get(options.client_key, request.key)
        if request.removed:
            await maps.unset(channel, key)
        elif (taken := await self._taken(channel, bytes(request.data))) is not None:
            info = b"" if subscription is None else subscription.grant.info
            await maps.set(
                channel,
                key,
                Raw(encode_json(value_of(taken[0], self._node.limits.json_depth))),
                ttl=options.ttl,
                owner=self._connection if options.owned else None,
                publisher=m.ClientInfo(identity.user, self._connection.id, raw(identity.info), raw(info)),
            )
        self._connection.write(self._protocol.encode_published(command))

    async def _taken(self, channel: str, data: bytes) -> tuple[bytes, Format] | None:
        """Return the message to keep for one that the client may publish, None for none."""
        format_ = self._protocol.format_of(data)
        intake = self._authority.intake(channel)
        return (data, format_) if intake is None else await intake(self._credentials.caller, data, format_)

    def _publish_settled(self, command: int, channel: str, error: BaseException | None) -> None:
        """Reply to a publish; the reply waits for no publication, not even for this one."""
        if error is None:
            message = self._protocol.encode_published(command)
        else:
            message = self._protocol.encode_reply(Reply(command, error=m.Error(*self.judge(error, "publish", channel))))
        self._connection.write(message)

    async def presence(self, command: int, request: m.PresenceRequest) -> None:
        """Reply with the members of a channel."""
        channel, options = await self._may_read(request.channel, Action.PRESENCE)

        async def read() -> m.PresenceResult:
            return m.PresenceResult(await read_presence(self._node, channel, options))

        await self._answer_read(command, "presence", request, read)

    async def presence_stats(self, command: int, request: m.PresenceStatsRequest) -> None:
        """Reply with the number of members of a channel."""
        channel, options = await self._may_read(request.channel, Action.PRESENCE)
        count = partial(count_presence, self._node, channel, options)
        await self._answer_read(command, "presence_stats", request, count)

    async def _may_read(self, name: str, action: Action) -> tuple[str, ChannelOptions]:
        """Return a channel and its options, for a client that may do it."""
        channel, authority = self._name(name), self._authority
        options = authority.options(channel)
        subscribed = channel in self._subscriptions.channels
        await authority.allow(self._credentials.caller, channel, action, subscribed=subscribed)
        return channel, options

    async def history(self, command: int, request: m.HistoryRequest) -> None:
        """Reply with a page of a channel's history."""
        channel, options = await self._may_read(request.channel, Action.HISTORY)
        protocol = self._protocol

        async def read() -> m.HistoryResult:
            page = await read_in_turn(self._node, channel, options, request)
            found = [protocol.publication_of(pub, protocol.data_of(pub), offset=True) for pub in page.publications]
            return m.HistoryResult(found, page.top.epoch, page.top.offset)

        await self._answer_read(command, "history", request, read)

    async def rpc(self, command: int, request: m.RpcRequest) -> None:
        """Reply with the result of the application."""
        caller, method = self._credentials.caller, request.method
        answers = ReplyBudget.of(asyncio.get_running_loop()).answers

        async def call() -> m.RpcResult:
            size = None
            try:
                answer = await self._authority.rpc(caller, method, bytes(request.data))
                size = len(answer)
            finally:
                answers.note(method, size)
            return m.RpcResult(raw(answer))

        async def answer() -> None:
            if not answers.is_small(method) and await answers.wait_known(method):
                await self._queue.read_in_turn(lambda: self._answer(command, "rpc", call()))
            else:
                await self._answer(command, "rpc", call())

        await self._queue.run_beside(answer)

    async def send(self, command: int, request: m.SendRequest) -> None:
        """Hand a message to the application, which answers nothing."""
        try:
            await self._authority.receive(self._credentials.caller, bytes(request.data))
        except UnknownType:
            raise MalformedFrame(Malformed.NOBODY_LISTENS) from None

    async def refresh(self, command: int, request: m.RefreshRequest) -> m.RefreshResult:
        """Continue the connection with another token; raises Rejected for one that is not for this client."""
        credentials = self._credentials
        try:
            identity = await self._authority.refresh(credentials.caller, request.token)
        except TokenExpired:
            raise Rejected(codes.CONNECTION_EXPIRED) from None
        revoked = self._node.is_revoked(identity.user, identity.token)
        if revoked or identity.user != credentials.identity.user:
            raise Rejected(codes.INVALID_TOKEN)
        if frozenset(identity.subscriptions) != credentials.granted:
            raise Rejected(codes.INSUFFICIENT_STATE)  # it comes back, and is given the channels of now
        credentials.renew(identity)
        self._connection.opened_with(identity.token)
        self._heartbeat.schedule()
        expires_at = identity.expires_at
        return m.RefreshResult(self._connection.id, VERSION, expires_at is not None, ttl_of(expires_at))

    async def sub_refresh(self, command: int, request: m.SubRefreshRequest) -> m.SubRefreshResult | None:
        """Continue a subscription with another token (for an older client it names the channel), or track keys."""
        subscriptions = self._subscriptions
        if request.type:
            try:
                await subscriptions.change_tracked(command, request, self._credentials.identity)
            finally:
                self._heartbeat.schedule()  # keys are tracked, and end, though their values cannot be made yet
            return None
        if request.channel and request.channel not in subscriptions.channels:
            raise PermissionDenied(f"this client is not subscribed to {request.channel!r}; subscribe first")
        try:
            grant = await self._authority.sub_refresh(self._credentials.caller, request.channel, request.token)
        except TokenExpired:
            if not request.channel:
                raise
            # at an error the client would give up; so it subscribes again by itself
            subscriptions.drop(request.channel, codes.EXPIRED_SUBSCRIPTION)
            return None
        if self._node.is_revoked(self._credentials.identity.user, grant.token):
            raise Rejected(codes.INVALID_TOKEN)
        subscription = subscriptions.channels.get(request.channel or grant.channel)
        if subscription is None:
            raise PermissionDenied(f"this client is not subscribed to {grant.channel!r}; subscribe first")
        subscription.extend(grant.expires_at)
        self._heartbeat.schedule()
        return m.SubRefreshResult(grant.expires_at is not None, ttl_of(grant.expires_at))


METHODS: dict[str, Callable[[Commands, int, Any], Awaitable[Struct | None]]] = {
    "connect": Commands.connect,
    "subscribe": Commands.subscribe,
    "unsubscribe": Commands.unsubscribe,
    "publish": Commands.publish,
    "presence": Commands.presence,
    "presence_stats": Commands.presence_stats,
    "history": Commands.history,
    "rpc": Commands.rpc,
    "send": Commands.send,
    "refresh": Commands.refresh,
    "sub_refresh": Commands.sub_refresh,
}
