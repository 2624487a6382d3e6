"""One channel inside the application's own code: publications as values, by the same ways as a client's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, ClassVar

import msgspec

from tidewire.channel_options import SlowPolicy
from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.engine.subscribing import Prepared
from tidewire.engine.subscription import Subscription
from tidewire.errors import CommandError, ConnectionClosed, CutOff, TidewireError
from tidewire.links.handover import HandoverBatch, HandoverLink
from tidewire.links.server_exit import ServerExit
from tidewire.messages import Position, Publication, Subscribed
from tidewire.protocols.batch import Batch, Representation
from tidewire.protocols.close_codes import INSUFFICIENT, NORMAL, SHUTDOWN
from tidewire.protocols.plain import PLAIN
from tidewire.sessions.only_async import OnlyAsync

__all__ = ("Publications",)

#: A position that no channel has.
_NOWHERE = Position(0, "_")
#: Publications that may wait before a reader counts as slow; how many may wait then, its channel's policy says.
_WAITING = 256


class _Values(Representation):
    """Publications as they are; all readers of a channel share them."""

    def batch(self, publications: Sequence[Publication]) -> Batch:
        return HandoverBatch(publications)


_VALUES = _Values(PLAIN)


class Publications(OnlyAsync):
    """The publications of a channel, made by `Hub.listen`: `async with hub.listen("news") as publications`.

    First come the publications since a position, or the newest history, then new ones. The iteration ends when the
    server or the hub does. It raises CutOff when it is too slow for its channel, or when publications are missing; that
    exception has the position from which to listen again.
    """

    __slots__ = (
        "_answer",
        "_connection",
        "_ends_with_server",
        "_history",
        "_link",
        "_name",
        "_node",
        "_position",
        "_since",
        "_subscription",
        "_with_state",
    )

    _form: ClassVar[str] = "async with hub.listen(…) as publications:"

    def __init__(
        self,
        node: Node,
        channel: str,
        since: Position | None,
        history: int,
        *,
        with_state: bool = False,
        ends_with_server: bool = True,
    ) -> None:
        self._node = node
        self._name = channel
        self._since = since
        self._history = history
        self._with_state = with_state
        #: One that no response waits for may go on until the hub closes.
        self._ends_with_server = ends_with_server
        is_latest = node.options.of(channel).slow is SlowPolicy.LATEST
        self._link = HandoverLink(0 if is_latest else min(_WAITING, node.limits.outbox_messages // 2))
        self._connection = Connection(self._link, PLAIN, user="", address="", limits=node.limits)
        self._subscription: Subscription | None = None
        self._answer: Subscribed | None = None
        self._position = since or _NOWHERE

    async def __aenter__(self) -> Publications:
        if self._subscription is not None or self._connection.is_closed:
            raise TidewireError("this was entered before; call hub.listen for each `async with`")
        node, connection = self._node, self._connection
        node.attach_reader(connection)
        try:
            prepared = await node.subscriptions.prepare(
                connection,
                self._name,
                since=self._since,
                history=self._history,
                with_state=self._with_state,
                representation=_VALUES,
                on_insufficient=self._tear,
            )
            await self._begin(prepared)
        except BaseException:
            self._stop()
            raise
        if self._ends_with_server:
            ServerExit.of(asyncio.get_running_loop()).watch(self._shut_down)
        return self

    async def _begin(self, prepared: Prepared) -> None:
        answer, self._subscription = prepared.answer, prepared.subscription
        self._answer = answer
        self._position = answer.position
        if answer.publications:
            first = answer.publications[0]
            self._position = self._since if answer.recovered and self._since else Position(first.previous, first.epoch)
            self._link.write(_VALUES.batch(answer.publications))
        if prepared.has_more or self._link.paused:  # much to take: a task waits for the reader
            self._node.tasks.spawn(self._go_live(prepared))
        else:  # at once: publications that nobody keeps would pass by a reader that is not live
            await self._go_live(prepared)

    async def _go_live(self, prepared: Prepared) -> None:
        try:
            await self._link.wait_drained()
            await self._node.subscriptions.go_live(prepared)
        except (ConnectionClosed, CommandError):
            pass  # the reader has gone meanwhile
        except BaseException:
            self._tear(prepared.subscription)
            raise

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def end(self) -> None:
        """End the iteration, from outside of it."""
        self._connection.end(NORMAL)

    def _stop(self) -> None:
        ServerExit.of(asyncio.get_running_loop()).unwatch(self._shut_down)
        self._connection.end(NORMAL)
        self._node.detach(self._connection)

    def _shut_down(self) -> None:
        self._connection.end(SHUTDOWN)

    def _tear(self, subscription: Subscription) -> None:
        """Note a gap that cannot be filled: publications before it can still be taken."""
        self._connection.end(INSUFFICIENT)

    # Read by the application.

    @property
    def recovered(self) -> bool | None:
        """Whether all publications since the given position come; None: no position was given."""
        return self._entered.recovered

    @property
    def state(self) -> Any:
        """The state of the channel when the reading began, if that was asked for and nothing was recovered."""
        return self._entered.state

    @property
    def joined_at(self) -> Position:
        """The position of the channel when this was entered."""
        return self._entered.position

    @property
    def missed(self) -> int:
        """How many of the coming publications were published before this was entered."""
        return len(self._entered.publications)

    @property
    def position(self) -> Position:
        """The position of the last publication that was taken; at first, that from which the channel is read."""
        return self._position

    @property
    def lost(self) -> int:
        """How many publications this reader did not get, because it was slow (`SlowPolicy.LATEST` or `DROP`)."""
        return 0 if self._subscription is None else self._subscription.lost

    @property
    def _entered(self) -> Subscribed:
        if self._answer is None:
            raise TidewireError(
                f'the reader of {self._name!r} was not entered; write `async with hub.listen("{self._name}") as '
                "publications:`, and iterate over `publications` inside"
            )
        return self._answer

    def __aiter__(self) -> Publications:
        self._entered  # noqa: B018
        return self

    async def __anext__(self) -> Publication:
        while True:
            ending = self._connection.ending
            if ending is NORMAL or ending is SHUTDOWN:
                raise StopAsyncIteration
            publication = self._link.take()
            if publication is not None:
                if not publication.offset:  # nobody keeps it: it has the position of the one before it
                    at = self._position
                    return msgspec.structs.replace(publication, offset=at.offset, epoch=at.epoch)
                self._position = publication.position
                return publication
            if ending is not None:
                raise CutOff(self._name, ending, self._position)
            self._entered  # noqa: B018 - outside of the block no news comes
            await self._link.wait_news()
