"""How a client subscribes to polled values, and tracks keys of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from tidewire.engine.node import Node
from tidewire.errors import BadRequest, LimitExceeded, NotAvailable
from tidewire.messages import Publication
from tidewire.protocols.batch import Batch, Representation
from tidewire.protocols.centrifuge import messages as m
from tidewire.protocols.centrifuge.encoding import CentrifugeProtocol
from tidewire.protocols.centrifuge.key_signatures import check_signature
from tidewire.protocols.centrifuge.messages import raw
from tidewire.rules.base import Grant, Poll
from tidewire.sessions.centrifuge.credentials import end_of, ttl_of
from tidewire.sessions.centrifuge.polls import Polls, Tracker
from tidewire.sessions.centrifuge.representations import shared
from tidewire.sessions.maps import check_key
from tidewire.sessions.reply_budget import ReplyBudget
from tidewire.support.counters import count_limit

__all__ = ("POLLED", "SilentRepresentation", "change_tracked", "poll_of", "poll_result", "wait_turn")

#: The number that the protocol has for a subscription to polled values, and those of the two requests for its keys.
POLLED = 4
_TRACK, _UNTRACK = 1, 2
#: Bytes of a reply that are as much work as to track a key.
_KEY = 256
#: The epoch of versions that are made of the values: the same on every node. Those of the application have none.
_BY_VALUE = "by-value"


class SilentRepresentation(Representation):
    """Shows no publication: a subscriber to polled values is told of these alone."""

    __slots__ = ()

    @classmethod
    def of_polled(cls, protocol: CentrifugeProtocol, deflate: bool) -> SilentRepresentation:
        """Return the one for a protocol."""
        return shared(cls, protocol, deflate, make=lambda: cls(protocol, deflate=deflate))

    def batch(self, publications: Sequence[Publication]) -> Batch:
        return Batch([], deflate=self.deflate)

    def choose(self, publications: Sequence[Publication]) -> Sequence[Publication]:
        return ()


def poll_of(grant: Grant, channel: str) -> Poll:
    """Return the way to ask for the values of a channel; raises NotAvailable for one without."""
    if grant.poll is None:
        raise NotAvailable(f"{channel!r} offers no polled values; its rule has a function for them if it does")
    return grant.poll


def poll_result(grant: Grant) -> m.SubscribeResult:
    """Return the reply to a client that has subscribed to polled values."""
    return m.SubscribeResult(
        expires=grant.expires_at is not None,
        ttl=ttl_of(grant.expires_at),
        epoch="" if grant.poll is not None and grant.poll.versioned else _BY_VALUE,
        data=raw(grant.data),
        type=POLLED,
    )


async def wait_turn(request: m.SubRefreshRequest) -> None:
    """Wait for a turn of the loop in which keys may be tracked: as much work as a large reply, where they are many."""
    count = sum(len(batch.items) for batch in request.track)
    await ReplyBudget.of(asyncio.get_running_loop()).wait_turn(count * _KEY)


async def change_tracked(
    node: Node, trackers: Sequence[Tracker], tracker: Tracker, grant: Grant, request: m.SubRefreshRequest, user: str
) -> m.SubRefreshResult:
    """Track or untrack keys; `trackers` are all of the connection. Raises CommandError, StateFailed."""
    channel, poll = request.channel, poll_of(grant, request.channel)
    if request.type not in (_TRACK, _UNTRACK):
        raise BadRequest(f"type {request.type} is none for polled values; write 1 to track, 2 to untrack")
    versions, ends, first_end = _keys_of(request.track if request.type == _TRACK else (), poll, channel, user)
    if not (versions or request.untrack):
        raise BadRequest("no keys to track or untrack; send some")
    for key in request.untrack:
        versions.pop(key, None)
        ends.pop(key, None)
    tracker.untrack(request.untrack)
    tracked, most = sum(len(one.versions) for one in trackers), node.limits.poll_keys_per_connection
    if tracked + sum(key not in tracker.versions for key in versions) > most:
        count_limit("poll_keys_per_connection")
        raise LimitExceeded(f"a connection tracks at most {most} keys (poll_keys_per_connection); untrack some first")
    if versions:
        polled = Polls.of(node).channel(channel, poll)
        tracker.is_held = True
        polled.track(tracker, versions, ends)
        await polled.wait_answered(versions)
    return m.SubRefreshResult(first_end is not None, ttl_of(first_end))


def _keys_of(
    batches: Iterable[m.TrackBatch], poll: Poll, channel: str, user: str
) -> tuple[dict[str, int], dict[str, float], float | None]:
    """Return the versions of keys, the ends of those that are signed, and the first end in seconds since 1970."""
    versions: dict[str, int] = {}
    ends: dict[str, float] = {}
    first_end: float | None = None
    for batch in batches:
        keys = [check_key(item.key) for item in batch.items]
        if poll.secret:
            expires_at = check_signature(poll.secret, batch.signature, channel, keys, user)
            first_end = min(expires_at, first_end or expires_at)
            ends.update(dict.fromkeys(keys, end_of(expires_at) or 0.0))
        versions.update((item.key, item.version) for item in batch.items)
    return versions, ends, first_end
