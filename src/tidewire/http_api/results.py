"""History and presence as the HTTP API shows them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from tidewire.channel_options import ChannelOptions
from tidewire.engine.node import Node
from tidewire.errors import NotAvailable, TidewireError, Unrecoverable
from tidewire.http_api import models as m
from tidewire.messages import HistoryPage, Publication
from tidewire.protocols.centrifuge import messages as wire
from tidewire.protocols.meta import meta_of
from tidewire.sessions.centrifuge.history_and_presence import read_history, read_presence
from tidewire.sessions.centrifuge.websocket_route import JSON
from tidewire.sessions.reply_budget import ReplyBudget

__all__ = ("check_history", "history", "pages", "presence", "presence_stats", "stream_history")

logger = logging.getLogger("tidewire")


def check_history(channel: str, options: ChannelOptions) -> None:
    """Raise NotAvailable for a channel without history."""
    if not options.history_size:
        raise NotAvailable(f"channel {channel!r} has no history")


async def pages(
    node: Node, options: ChannelOptions, request: m.HistoryRequest, *, most: int | None = None
) -> AsyncGenerator[HistoryPage, None]:
    """Read a channel's history in pages of so many bytes (None: as a client's), each read when it is asked for.

    Raises NotAvailable, BadRequest, Unrecoverable (also when the store lost something between two pages),
    StoreUnavailable.
    """
    since = None if request.since is None else wire.StreamPosition(request.since.offset, request.since.epoch)
    limit, top, budget = request.limit, None, ReplyBudget.of(asyncio.get_running_loop())
    while True:
        asked = wire.HistoryRequest(request.channel, limit, since, request.reverse)
        async with budget.reserve(node.limits, most, reads_much=True):
            page = await read_history(node, request.channel, options, asked, most=most)
        if top is not None and not (page.complete or request.reverse):
            raise Unrecoverable(f"the history of {request.channel!r} was trimmed while it was read; read it anew")
        top = top or page.top
        found = tuple(one for one in page.publications if one.offset <= top.offset)
        yield HistoryPage(found, top, page.complete, page.is_cut)
        if not page.is_cut or not found:
            return
        since = wire.StreamPosition(found[-1].offset, top.epoch)
        limit = limit if limit < 0 else limit - len(found)


async def stream_history(first: HistoryPage, rest: AsyncGenerator[HistoryPage, None]) -> AsyncGenerator[bytes, None]:
    """Write an answer page by page; if the rest cannot be read, it ends early, and is no JSON then."""
    yield b'{"result":{"publications":[' + _joined(first)
    try:
        async with aclosing(rest):
            async for page in rest:
                if page.publications:
                    yield b"," + _joined(page)
    except TidewireError as error:
        logger.warning("a history could not be read to its end by the HTTP API: %s", error)
        return
    yield b'],"offset":%d,"epoch":%b}}' % (first.top.offset, msgspec.json.encode(first.top.epoch))


def _joined(page: HistoryPage) -> bytes:
    return b",".join([m.encode(_publication(publication)) for publication in page.publications])


def history(page: HistoryPage) -> m.HistoryResult:
    """Return a page as a result."""
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
    """Return the members of a channel; raises NotAvailable, StoreUnavailable."""
    present = await read_presence(node, channel, options)
    return m.PresenceResult(presence={client: _info(info) for client, info in present.items()})


async def presence_stats(node: Node, channel: str, options: ChannelOptions) -> m.PresenceStatsResult:
    """Return the number of members of a channel; raises NotAvailable, StoreUnavailable."""
    present = await read_presence(node, channel, options)
    return m.PresenceStatsResult(num_clients=len(present), num_users=len({info.user for info in present.values()}))
