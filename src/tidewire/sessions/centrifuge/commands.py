"""What a client may ask for after its connect: one function for each method of the protocol."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from tidewire.channels import is_internal
from tidewire.errors import (
    BadRequest,
    CommandError,
    PermissionDenied,
    PublishError,
    StoreUnavailable,
    TokenExpired,
    UnknownType,
)
from tidewire.options import ChannelOptions
from tidewire.protocols.centrifuge import codes
from tidewire.protocols.centrifuge import messages as m
from tidewire.protocols.centrifuge.codes import Malformed, MalformedFrame, error_of
from tidewire.protocols.centrifuge.messages import Reply, raw
from tidewire.protocols.meta import PublicationMeta
from tidewire.rules.base import Action
from tidewire.sessions.centrifuge.reading import read_history, read_presence

if TYPE_CHECKING:
    from tidewire.sessions.centrifuge.session import Session

__all__ = ("METHODS", "answer")

_KEPT = m.PublishResult()
#: What does not wait for the publishes before it, or does so beside the others.
_BESIDE = frozenset({"publish", "rpc", "history", "presence", "presence_stats"})


async def answer(session: Session, command: int, name: str, request: Any) -> None:
    """Do what a command asks for, and reply to it; calls and reads go on beside the commands that follow."""
    if name not in _BESIDE:
        await session.in_flight.wait()
    await _reply(session, command, name, METHODS[name](session, command, request))


async def _reply(session: Session, command: int, name: str, work: Awaitable[Struct | None]) -> None:
    try:
        result = await work
    except (CommandError, StoreUnavailable, PublishError) as error:
        if command:
            session.write(Reply(command, error=m.Error(*error_of(error))))
    else:
        if result is not None:
            told: dict[str, Any] = {name: result}
            session.write(Reply(command, **told))


def _name(session: Session, channel: str) -> str:
    """Return the name of a channel that a client may mean."""
    if not channel:
        raise MalformedFrame(Malformed.NO_CHANNEL)
    limit = session.node.limits.channel_name
    if len(channel) > limit or not channel.isascii():
        raise BadRequest(f"the channel's name is not ASCII, or longer than {limit}")
    if is_internal(channel):
        raise PermissionDenied(f"channel {channel!r} belongs to the server")
    return channel


async def _connect(session: Session, command: int, request: m.ConnectRequest) -> None:
    raise MalformedFrame(Malformed.CONNECTED_TWICE)


async def _subscribe(session: Session, command: int, request: m.SubscribeRequest) -> None:
    channel, following = _name(session, request.channel), session.following
    following.check(channel)
    if request.delta not in ("", "fossil"):
        raise MalformedFrame(Malformed.UNKNOWN_DELTA)
    grant = await session.authority.subscribe(session.caller, channel, request.token, bytes(request.data))
    if grant.expires_at is not None and grant.expires_at <= time.time():
        raise TokenExpired(f"the token for {channel!r} has expired; fetch another")
    ready = await following.prepare(channel, grant, request, session.identity)
    reply = session.protocol.encode_reply(Reply(command, subscribe=ready.result))
    await following.go_live(ready, (reply,), session.identity)
    if grant.expires_at is not None:
        session.rescheduled()


async def _unsubscribe(session: Session, command: int, request: m.UnsubscribeRequest) -> m.UnsubscribeResult:
    if not request.channel:
        raise MalformedFrame(Malformed.NO_CHANNEL)
    await session.following.unsubscribe(request.channel)
    return m.UnsubscribeResult()


async def _publish(session: Session, command: int, request: m.PublishRequest) -> None:
    channel = _name(session, request.channel)
    if not request.data:
        raise BadRequest("a publication has data; send some")
    followed = session.following.channels.get(channel)
    try:
        await session.authority.allow(session.caller, channel, Action.PUBLISH, subscribed=followed is not None)
    except CommandError:
        await session.in_flight.wait()  # answers of one channel stay in order
        raise
    info = b"" if followed is None else followed.grant.info
    identity = session.identity
    publisher = m.ClientInfo(identity.user, session.connection.id, raw(identity.info), raw(info))
    data = bytes(request.data)
    await session.in_flight.put(_keep(session, command, channel, data, PublicationMeta(publisher).encode()))


async def _keep(session: Session, command: int, channel: str, data: bytes, meta: bytes) -> None:
    """Publish, and reply when that is kept; the reply waits for no publication, not even for this one."""
    try:
        await session.node.publish(channel, data, session.protocol.format_of(data), meta=meta)
    except PublishError as error:
        reply = Reply(command, error=m.Error(*error_of(error)))
    else:
        reply = Reply(command, publish=_KEPT)
    session.connection.write(session.protocol.encode_reply(reply))


async def _presence(session: Session, command: int, request: m.PresenceRequest) -> None:
    read = await _may_see(session, request.channel)

    async def result() -> m.PresenceResult:
        return m.PresenceResult(await read())

    await session.beside(lambda: _reply(session, command, "presence", result()))


async def _presence_stats(session: Session, command: int, request: m.PresenceStatsRequest) -> None:
    read = await _may_see(session, request.channel)

    async def result() -> m.PresenceStatsResult:
        present = await read()
        return m.PresenceStatsResult(len(present), len({info.user for info in present.values()}))

    await session.beside(lambda: _reply(session, command, "presence_stats", result()))


async def _may_see(session: Session, name: str) -> Callable[[], Awaitable[dict[str, m.ClientInfo]]]:
    """Return what reads who is in a channel, for a client that may see it."""
    channel, options = await _may_read(session, name, Action.PRESENCE)
    return lambda: read_presence(session.node, channel, options)


async def _may_read(session: Session, name: str, action: Action) -> tuple[str, ChannelOptions]:
    """Return the channel and its options, for a client that may do it."""
    channel = _name(session, name)
    options = session.authority.options(channel)
    await session.authority.allow(session.caller, channel, action, subscribed=channel in session.following.channels)
    return channel, options


async def _history(session: Session, command: int, request: m.HistoryRequest) -> None:
    channel, options = await _may_read(session, request.channel, Action.HISTORY)
    protocol = session.protocol

    async def result() -> m.HistoryResult:
        page = await read_history(session.node, channel, options, request, limits=session.node.limits)
        found = [protocol.publication_of(pub, protocol.data_of(pub), offset=True) for pub in page.publications]
        return m.HistoryResult(found, page.top.epoch, page.top.offset)

    await session.beside(lambda: _reply(session, command, "history", result()))


async def _rpc(session: Session, command: int, request: m.RpcRequest) -> None:
    caller = session.caller

    async def result() -> m.RpcResult:
        return m.RpcResult(raw(await session.authority.rpc(caller, request.method, bytes(request.data))))

    await session.beside(lambda: _reply(session, command, "rpc", result()))


async def _send(session: Session, command: int, request: m.SendRequest) -> None:
    try:
        await session.authority.receive(session.caller, bytes(request.data))
    except UnknownType:
        raise MalformedFrame(Malformed.NOBODY_LISTENS) from None


async def _refresh(session: Session, command: int, request: m.RefreshRequest) -> m.RefreshResult:
    return await session.refresh(request.token)


async def _sub_refresh(session: Session, command: int, request: m.SubRefreshRequest) -> m.SubRefreshResult | None:
    """Go on in a channel; an older client leaves it to the token which one that is."""
    following = session.following
    if request.channel and request.channel not in following.channels:
        raise PermissionDenied(f"{request.channel!r} is not followed; subscribe first")
    try:
        grant = await session.authority.sub_refresh(session.caller, request.channel, request.token)
    except TokenExpired:
        if not request.channel:
            raise
        # an error would be the end of it: so the client subscribes again by itself
        following.drop(request.channel, codes.EXPIRED_SUBSCRIPTION)
        return None
    followed = following.channels.get(request.channel or grant.channel)
    if followed is None:
        raise PermissionDenied(f"{grant.channel!r} is not followed; subscribe first")
    return session.extended(followed, grant)


METHODS: dict[str, Callable[[Session, int, Any], Awaitable[Struct | None]]] = {
    "connect": _connect,
    "subscribe": _subscribe,
    "unsubscribe": _unsubscribe,
    "publish": _publish,
    "presence": _presence,
    "presence_stats": _presence_stats,
    "history": _history,
    "rpc": _rpc,
    "send": _send,
    "refresh": _refresh,
    "sub_refresh": _sub_refresh,
}
