"""The command queue of one connection: its commands run one after the other; calls and reads go on beside them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.errors import ConnectionClosed, Rejected
from tidewire.protocols.close_codes import INTERNAL_ERROR
from tidewire.sessions.in_flight import InFlight
from tidewire.sessions.reply_budget import ReplyBudget
from tidewire.support.admission import Admission
from tidewire.support.long_steps import LARGE

__all__ = ("CommandQueue",)

logger = logging.getLogger("tidewire")

#: Handles one message of the client.
Handle = Callable[[str | bytes], Awaitable[None]]
#: One more step that the queue runs.
Step = Callable[[], Awaitable[None]]
#: One that reads, and returns the bytes of its reply.
Reading = Callable[[], Awaitable[int]]
#: Small replies in a row by which a client that has read much is one that reads little.
_SMALL_REPLIES = 3


class CommandQueue:
    """Runs a client's commands, and the application's orders for it, in order. An idle queue has no task and no timer.

    `handle` is called with each message; a `Rejected` that it raises ends the connection with its code, and any other
    exception ends it with 1011, or the protocol's code for that. `closed` is called when the connection has ended.
    """

    __slots__ = (
        "_calls",
        "_closed",
        "_handle",
        "_is_admitted",
        "_reading",
        "_small_replies",
        "_steps",
        "connection",
        "is_running",
        "node",
        "publishes",
    )

    def __init__(
        self, node: Node, connection: Connection, handle: Handle, *, closed: Callable[[], None] | None = None
    ) -> None:
        self.node = node
        self.connection = connection
        #: Publications of the client: several publications wait for the store at once.
        self.publishes = InFlight(node, connection, "publishes_in_flight", waits=node.broker.waits)
        self._handle = handle
        self._closed = closed
        self._calls: InFlight | None = None
        self._reading: asyncio.Lock | None = None
        #: Small replies since a large one; one is missing at first, when nothing is known but the request.
        self._small_replies = _SMALL_REPLIES - 1
        self._steps: deque[Step] | None = None
        self._is_admitted = False
        #: Something is running for the client.
        self.is_running = False

    def start(self) -> None:
        """Begin to take messages, those that came before included."""
        self.connection.serve(self._readable, self.close)
        if self.connection.has_messages:
            self._readable()

    def submit(self, step: Step) -> None:
        """Run a step behind those that are running for the client; nothing happens when the connection has ended."""
        if not self.connection.is_closed:
            if self._steps is None:
                self._steps = deque()
            self._steps.append(step)
            self._readable()

    async def run_beside(self, step: Step) -> None:
        """Begin a step that nothing waits for, behind earlier publishes; waits while too many are running."""

        async def run() -> None:
            await self.publishes.wait()
            await self.wait_drained()
            await step()

        if self._calls is None:
            self._calls = InFlight(self.node, self.connection, "calls_in_flight")
        await self._calls.put(self._guard(run))

    async def read_beside(self, step: Reading, *, may_be_large: bool) -> None:
        """Begin a step as `run_beside` does, which reads something large."""
        await self.run_beside(lambda: self.read_in_turn(step, may_be_large=may_be_large))

    async def read_in_turn(self, step: Reading, *, may_be_large: bool = True) -> None:
        """Run a step that reads something large: one at a time, as the client takes them.

        So a client holds one reply that it has asked for and not taken, and nothing is read before its turn. A client
        whose replies are small does not wait behind all those that read much; the first one is judged by its request.
        """
        if self._reading is None:
            self._reading = asyncio.Lock()
        async with self._reading:
            await self.wait_drained()
            if not self.connection.is_closed:
                budget = ReplyBudget.of(asyncio.get_running_loop())
                reads_much = self._small_replies < _SMALL_REPLIES - (not may_be_large)
                async with budget.reserve(self.node.limits, reads_much=reads_much):
                    if size := await step():  # an error says nothing
                        self._small_replies = 0 if size >= LARGE else self._small_replies + 1

    async def wait_drained(self) -> None:
        """Wait while the client takes nothing: it is given no more replies then."""
        if self.connection.link.paused:
            await self.connection.link.wait_drained()

    def _readable(self) -> None:
        if not self.is_running:
            self.is_running = True
            if self._is_admitted:
                self._begin()
            else:  # the first message of a newcomer waits for its turn
                self._is_admitted = True
                Admission.of(asyncio.get_running_loop()).start(self._begin, self.node.limits.arrivals)

    def _begin(self) -> None:
        self.node.tasks.spawn(self._run())

    def close(self) -> None:
        """Handle nothing more: the connection has ended."""
        closed, self._closed, self._steps = self._closed, None, None
        self._handle = _ignore  # it holds this queue: together they would outlive their connection
        if closed is not None:
            closed()

    async def _run(self) -> None:
        try:
            await self._guard(self._run_all)
        finally:
            self.is_running = False
            if not self.node.fanout.is_scheduled:  # else the replies go out with what is pushed
                self.connection.link.flush()

    async def _guard(self, step: Step) -> None:
        """Run a step; an exception ends the connection."""
        connection = self.connection
        try:
            await step()
        except ConnectionClosed:
            pass
        except Rejected as rejected:
            connection.refuse("rejected", rejected.disconnect.reason)
            connection.end(rejected.disconnect)
        except Exception:
            code, _ = connection.protocol.close_code(INTERNAL_ERROR)
            logger.exception("a command of connection %s failed; the client gets code %d", connection.id, code)
            connection.fail(INTERNAL_ERROR)

    async def _run_all(self) -> None:
        connection = self.connection
        while not connection.is_closed:
            if self._steps:
                await self._steps.popleft()()
            elif (message := connection.receive_nowait(handles=True)) is not None:
                await self._handle(message)
                if self.node.fanout.is_full:
                    await asyncio.sleep(0)
            else:
                return


async def _ignore(message: str | bytes) -> None:
    """Handle nothing: the connection has ended."""
