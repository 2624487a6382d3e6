"""The connections and the channels of one node as rows of a list, searched and cut before they travel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

from tidewire.channels import is_internal, is_reserved
from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.engine.registry import Channel
from tidewire.observe.node_report import kind_of_link, name_of_protocol
from tidewire.support.refusals import Refusals

__all__ = (
    "ChannelRow",
    "ConnectionRow",
    "Page",
    "Query",
    "channel_counts_of",
    "channels_of",
    "connections_of",
    "cut",
    "merged_channels",
    "merged_connections",
)

#: Rows of one page, and names of channels in one row.
_ROWS, _NAMES = 500, 20


class Query(msgspec.Struct, frozen=True):
    """The rows to show: those with a text in them, in a channel, of a user; so many after an offset."""

    search: str = ""
    channel: str = ""
    user: str = ""
    limit: int = 50
    offset: int = 0

    @property
    def needed(self) -> int:
        """How many rows of each node may be on the page."""
        return max(0, self.offset) + self.size

    @property
    def size(self) -> int:
        """The most rows of the page."""
        return min(max(0, self.limit), _ROWS)


class ConnectionRow(msgspec.Struct, frozen=True):
    """One connection; `age` in seconds, `channels` the first ones of `subscriptions`, `unsent` in bytes."""

    client: str
    user: str
    address: str
    age: float
    kind: str
    protocol: str
    state: str
    subscriptions: int
    channels: list[str]
    unsent: int
    error: str
    node: str


class ChannelRow(msgspec.Struct, frozen=True):
    """One channel with the number of its subscribers on all nodes, its position, and the options of its pattern."""

    channel: str
    subscribers: int
    pattern: str
    offset: int
    epoch: str
    history_size: int
    history_seconds: float
    presence: bool
    recoverable: bool
    slow: str
    catching_up: bool


R = TypeVar("R")


class Page(msgspec.Struct, frozen=True):
    """Rows of a list, and the length of the whole list."""

    total: int
    connections: list[ConnectionRow] = []
    channels: list[ChannelRow] = []


def connections_of(node: Node, query: Query) -> Page:
    """Return the newest connections of a node that a query wants."""
    found = [connection for connection in node.registry.connections.values() if _is_wanted(node, connection, query)]
    errors = {refusal.connection: refusal.why for refusal in Refusals.of(asyncio.get_running_loop()).latest}
    found.sort(key=lambda connection: -connection.opened_at)
    return Page(len(found), [_connection_row(node, one, errors) for one in found[: query.needed]])


def _is_wanted(node: Node, connection: Connection, query: Query) -> bool:
    if query.user and connection.user != query.user:
        return False
    channels = node.registry.subscriptions(connection)
    if query.channel and query.channel not in channels:
        return False
    text = query.search.lower()
    if not text:
        return True
    return any(text in one.lower() for one in (connection.user, connection.address, connection.id, *channels))


def _connection_row(node: Node, connection: Connection, errors: dict[str, str]) -> ConnectionRow:
    link = connection.link
    names = [name for name in node.registry.subscriptions(connection) if not is_internal(name)]
    return ConnectionRow(
        client=connection.id,
        user=connection.user,
        address=connection.address,
        age=time.monotonic() - connection.opened_at,
        kind=kind_of_link(type(link)),
        protocol=name_of_protocol(type(connection.protocol)),
        state="ending" if connection.is_closed else "slow" if link.paused else "open",
        subscriptions=len(names),
        channels=names[:_NAMES],
        unsent=link.backlog()[0],
        error=errors.get(connection.id, ""),
        node=node.id,
    )


def channel_counts_of(node: Node, query: Query) -> dict[str, int]:
    """Return the numbers of subscribers that a node has in the channels of a query; other nodes have some, too."""
    text = query.search.lower()
    return {
        name: len(channel)
        for name, channel in node.registry.channels.items()
        if len(channel) and not is_reserved(name) and (text in name.lower()) and query.channel in ("", name)
    }


def channels_of(node: Node, names: Iterable[str]) -> list[ChannelRow]:
    """Return the channels of these names that have subscribers on a node."""
    found = (node.registry.channels.get(name) for name in names)
    return [_channel_row(node, channel) for channel in found if channel is not None and len(channel)]


def _channel_row(node: Node, channel: Channel) -> ChannelRow:
    options = channel.options
    return ChannelRow(
        channel=channel.name,
        subscribers=len(channel),
        pattern=channel.tally.pattern,
        offset=channel.position.offset,
        epoch=channel.position.epoch,
        history_size=options.history_size,
        history_seconds=options.history_seconds,
        presence=options.presence,
        recoverable=options.recoverable,
        slow=options.slow.value,
        catching_up=channel.catching_up,
    )


def merged_connections(pages: Iterable[Page], query: Query) -> Page:
    """Return one page of the connections of all nodes, the newest first."""
    found = list(pages)
    rows = sorted((row for page in found for row in page.connections), key=lambda row: row.age)
    return Page(sum(page.total for page in found), cut(rows, query))


def merged_channels(rows: Iterable[ChannelRow]) -> dict[str, ChannelRow]:
    """Return the rows of all nodes by channel: the sum of their subscribers, and the newest position."""
    found: dict[str, ChannelRow] = {}
    for row in rows:
        known = found.get(row.channel)
        found[row.channel] = row if known is None else _sum(known, row)
    return found


def _sum(one: ChannelRow, other: ChannelRow) -> ChannelRow:
    newer = one if one.offset >= other.offset else other
    return msgspec.structs.replace(newer, subscribers=one.subscribers + other.subscribers)


def cut(rows: Sequence[R], query: Query) -> list[R]:
    """Return the rows of the page that a query wants."""
    start = max(0, query.offset)
    return list(rows[start : start + query.size])
