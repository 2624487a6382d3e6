"""The reads of a channel for a session's client: its history and its members."""

from __future__ import annotations

import asyncio

from tidewire.channel_options import ChannelOptions
from tidewire.engine.node import Node
from tidewire.errors import BadRequest, NotAvailable, Unrecoverable
from tidewire.history.read_steps import cost
from tidewire.limits import Limits
from tidewire.messages import MAX_OFFSET, HistoryPage, HistoryRequest, Member, Position
from tidewire.protocols.centrifuge import messages as m
from tidewire.protocols.meta import client_info, user_of
from tidewire.sessions.reply_budget import ReplyBudget

__all__ = ("count_presence", "may_be_large", "read_history", "read_in_turn", "read_presence")

#: Bytes of a member in a reply, about, and the members of a reply that one turn of the loop makes.
_MEMBER, _MEMBERS = 128, 1_000
#: Publications up to which a history is hardly large.
_FEW = 100


async def read_presence(node: Node, channel: str, options: ChannelOptions) -> dict[str, m.ClientInfo]:
    """Return the members of a channel, by connection; raises NotAvailable, StoreUnavailable."""
    members = await _members(node, channel, options)
    found: dict[str, m.ClientInfo] = {}
    for begin in range(0, len(members), _MEMBERS):
        await ReplyBudget.of(asyncio.get_running_loop()).wait_turn(len(members) * _MEMBER)
        found |= {member.connection: client_info(member) for member in members[begin : begin + _MEMBERS]}
    return found


async def count_presence(node: Node, channel: str, options: ChannelOptions) -> m.PresenceStatsResult:
    """Return the number of members of a channel, and of their users; raises NotAvailable, StoreUnavailable."""
    members = await _members(node, channel, options)
    await ReplyBudget.of(asyncio.get_running_loop()).wait_turn(len(members) * _MEMBER)
    return m.PresenceStatsResult(len(members), len({user_of(member) for member in members}))


async def _members(node: Node, channel: str, options: ChannelOptions) -> list[Member]:
    if not options.presence:
        raise NotAvailable(f"{channel!r} has no presence; its rule or namespace may enable it")
    return await node.presence.members(channel)


def may_be_large(request: m.HistoryRequest | m.PresenceRequest | m.PresenceStatsRequest) -> bool:
    """Return whether the reply may be a large one, as far as the request tells."""
    if isinstance(request, m.HistoryRequest):
        return not 0 <= request.limit <= _FEW
    return isinstance(request, m.PresenceRequest)


async def read_in_turn(node: Node, channel: str, options: ChannelOptions, request: m.HistoryRequest) -> HistoryPage:
    """Return the history for a client's request, in a turn in which its reply may be made; raises as `read_history`."""
    page = await read_history(node, channel, options, request, limits=node.limits)
    await ReplyBudget.of(asyncio.get_running_loop()).wait_turn(sum(map(cost, page.publications)))
    return page


async def read_history(
    node: Node,
    channel: str,
    options: ChannelOptions,
    request: m.HistoryRequest,
    *,
    limits: Limits | None = None,
    most: int | None = None,
) -> HistoryPage:
    """Return the history for a request, at most so many bytes (None: those of a client's reply).

    With `limits`, it has at most as many publications as they say.

    Raises NotAvailable, BadRequest, Unrecoverable (another epoch), StoreUnavailable.
    """
    if not options.history_size or not options.history_seconds:
        raise NotAvailable(f"{channel!r} keeps no history")
    since, limit = request.since, request.limit
    if since is not None and request.reverse and since.offset == 0:
        raise BadRequest("nothing is before offset 0; ask for a later one")
    if limits is not None and not 0 <= limit <= limits.history_messages:
        limit = limits.history_messages
    position = None
    if since is not None:
        epoch = since.epoch
        if not epoch:
            epoch = (await node.broker.history(channel, limit=0, retention=options.retention)).top.epoch
        position = Position(min(since.offset, MAX_OFFSET), epoch)
    asked = HistoryRequest(channel, options.retention, position, None if limit < 0 else limit, request.reverse)
    page = await node.history.read(asked, most=most or node.limits.reply_bytes)
    if since is not None and since.epoch and since.epoch != page.top.epoch:
        raise Unrecoverable(f"the history of {channel!r} is of another epoch than {since.epoch!r}; read it anew")
    return page
