"""What is read for others: history and presence, as the HTTP API shows them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tidewire.errors import BadRequest, NotAvailable, Unrecoverable
from tidewire.http_api import models as m
from tidewire.messages import HistoryPage, Member, Position, Publication
from tidewire.node import Node
from tidewire.options import ChannelOptions
from tidewire.protocols.centrifuge.messages import ClientInfo
from tidewire.protocols.centrifuge.meta import client_info, meta_of

__all__ = ("check_history", "history", "presence", "presence_stats")


def check_history(channel: str, options: ChannelOptions) -> None:
    """Raise NotAvailable for a channel without history."""
    if not options.history_size:
        raise NotAvailable(f"channel {channel!r} has no history")


async def history(node: Node, options: ChannelOptions, request: m.HistoryRequest) -> m.HistoryResult:
    """Read a channel's history; raises NotAvailable, BadRequest, Unrecoverable, StoreUnavailable."""
    check_history(request.channel, options)
    if request.reverse and request.since is not None and not request.since.offset:
        raise BadRequest("nothing comes before offset 0; leave `since` out to read from the newest on")
    page = await _page(node, options, request)
    return m.HistoryResult(
        publications=[publication_result(publication) for publication in page.publications],
        offset=page.top.offset,
        epoch=page.top.epoch,
    )


async def _page(node: Node, options: ChannelOptions, request: m.HistoryRequest) -> HistoryPage:
    limit = None if request.limit < 0 else request.limit
    since: Position | None = None
    if request.since is not None:
        epoch = request.since.epoch
        if not epoch:
            epoch = (await node.broker.history(request.channel, limit=0)).top.epoch
        since = Position(request.since.offset, epoch)
    page = await node.broker.history(
        request.channel, since=since, limit=limit, reverse=request.reverse, retention=options.retention
    )
    if since is not None and page.top.epoch != since.epoch:
        raise Unrecoverable(f"the history of {request.channel!r} has begun anew; read it from its beginning")
    return page


def publication_result(publication: Publication) -> m.PublicationResult:
    """Return a publication as the API shows it."""
    meta = meta_of(publication.meta)
    shown: dict[str, object] = {"data": msgspec.Raw(publication.data), "offset": publication.offset}
    if meta.tags:
        shown["tags"] = meta.tags
    if meta.info is not None:
        shown["info"] = _info(meta.info)
    return m.PublicationResult.model_validate(shown)


def _info(info: ClientInfo) -> m.ClientInfo:
    shown: dict[str, object] = {"user": info.user, "client": info.client}
    for name in ("conn_info", "chan_info"):
        raw: msgspec.Raw = getattr(info, name)
        if bytes(raw):
            shown[name] = raw
    return m.ClientInfo.model_validate(shown)


async def _members(node: Node, channel: str, options: ChannelOptions) -> Sequence[Member]:
    if not options.presence:
        raise NotAvailable(f"channel {channel!r} has no presence")
    return await node.presence.members(channel)


async def presence(node: Node, channel: str, options: ChannelOptions) -> m.PresenceResult:
    """Return who is in a channel; raises NotAvailable, StoreUnavailable."""
    members = await _members(node, channel, options)
    return m.PresenceResult(presence={member.connection: _info(client_info(member)) for member in members})


async def presence_stats(node: Node, channel: str, options: ChannelOptions) -> m.PresenceStatsResult:
    """Return how many are in a channel; raises NotAvailable, StoreUnavailable."""
    members = await _members(node, channel, options)
    users = {client_info(member).user for member in members}
    return m.PresenceStatsResult(num_clients=len(members), num_users=len(users))
