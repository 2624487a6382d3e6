"""History and presence as the HTTP API shows them."""

from __future__ import annotations

import msgspec

from tidewire.engine.node import Node
from tidewire.errors import NotAvailable
from tidewire.http_api import models as m
from tidewire.messages import Publication
from tidewire.options import ChannelOptions
from tidewire.protocols.centrifuge import messages as wire
from tidewire.protocols.meta import meta_of
from tidewire.sessions.centrifuge.reading import read_history, read_presence
from tidewire.sessions.centrifuge.websocket import JSON

__all__ = ("check_history", "history", "presence", "presence_stats")


def check_history(channel: str, options: ChannelOptions) -> None:
    """Raise NotAvailable for a channel without history."""
    if not options.history_size:
        raise NotAvailable(f"channel {channel!r} has no history")


async def history(node: Node, options: ChannelOptions, request: m.HistoryRequest) -> m.HistoryResult:
    """Read a channel's history; raises NotAvailable, BadRequest, Unrecoverable, StoreUnavailable."""
    since = None if request.since is None else wire.StreamPosition(request.since.offset, request.since.epoch)
    asked = wire.HistoryRequest(request.channel, request.limit, since, request.reverse)
    page = await read_history(node, request.channel, options, asked)
    return m.HistoryResult(
        publications=[_publication(publication) for publication in page.publications],
        offset=page.top.offset,
        epoch=page.top.epoch,
    )


def _publication(publication: Publication) -> m.PublicationResult:
    meta = meta_of(publication.meta)
    shown: dict[str, object] = {"data": msgspec.Raw(JSON.data_of(publication)), "offset": publication.offset}
    if meta.tags:
        shown["tags"] = meta.tags
    if meta.info is not None:
        shown["info"] = _info(meta.info)
    return m.PublicationResult.model_validate(shown)


def _info(info: wire.ClientInfo) -> m.ClientInfo:
    shown: dict[str, object] = {"user": info.user, "client": info.client}
    shown |= {name: raw for name in ("conn_info", "chan_info") if bytes(raw := getattr(info, name))}
    return m.ClientInfo.model_validate(shown)


async def presence(node: Node, channel: str, options: ChannelOptions) -> m.PresenceResult:
    """Return who is in a channel; raises NotAvailable, StoreUnavailable."""
    present = await read_presence(node, channel, options)
    return m.PresenceResult(presence={client: _info(info) for client, info in present.items()})


async def presence_stats(node: Node, channel: str, options: ChannelOptions) -> m.PresenceStatsResult:
    """Return how many are in a channel; raises NotAvailable, StoreUnavailable."""
    present = await read_presence(node, channel, options)
    return m.PresenceStatsResult(num_clients=len(present), num_users=len({info.user for info in present.values()}))
