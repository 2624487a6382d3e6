"""The connection of a client: one WebSocket after the other, calls and their answers, and when to come back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable, Coroutine, Mapping
from typing import Any
from typing import Protocol as TypingProtocol

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed as SocketClosed
from websockets.exceptions import InvalidHandshake, InvalidStatus

from tidewire.client.backoff import check_may_return, delay, retry_after
from tidewire.errors import ConnectionClosed, Disconnect, TidewireError
from tidewire.protocols.centrifuge.messages import Command, Push, Reply

__all__ = ("Answered", "Line", "Speaker")

logger = logging.getLogger("tidewire.client")

#: Is given the answer to a command, or None when the connection was lost before it came.
Answered = Callable[[Reply | None], None]

#: Seconds after which a connection counts as one that lasts: the next loss is a first one.
_STABLE_SECONDS = 5.0
#: Bytes of one message of the server: a recovery may bring many publications.
_MESSAGE_SIZE = 64 * 1_048_576
#: Close codes after which coming back does not help.
_FINAL = frozenset({1002, 1003, 1007, 1008, 1009, 1010, *range(3500, 4000), *range(4500, 5000)})

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Reply).decode


class Speaker(TypingProtocol):
    """Who speaks on a line; what it raises here ends the line for good."""

    async def prepare(self) -> bool:
        """Get what a connection needs; False: not now, try again later."""

    def greet(self) -> None:
        """Speak first: a socket is open."""

    def pushed(self, push: Push) -> None:
        """Take what the server says unasked."""

    def left(self, code: int) -> None:
        """The connection is lost, by a close code or 0."""

    def ended(self, error: TidewireError | None) -> None:
        """The line comes back no more: by an error, or because it was closed."""


class Line:
    """Keeps a connection: comes back with full jitter until it is closed, or the server does not want it back."""

    def __init__(self, url: str, headers: Mapping[str, str], speaker: Speaker, seconds: float) -> None:
        self._url = url
        self._headers = dict(headers)
        self._speaker = speaker
        self._seconds = seconds
        #: Seconds of silence after which nobody is there, and whether pings want an answer; the greeting says it.
        self.patience = seconds
        self.answers_pings = False
        #: The server has taken the greeting.
        self.is_ready = asyncio.Event()
        self.error: TidewireError | None = None
        self._socket: ClientConnection | None = None
        self._outbox: list[bytes] = []
        self._has_outbox = asyncio.Event()
        self._calls: dict[int, Answered] = {}
        self._last_id = 0
        self._attempt = 0
        self._timers: set[asyncio.TimerHandle] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin; once."""
        if self._running is not None:
            raise TidewireError("this client was entered before; make another one")
        self._running = asyncio.get_running_loop().create_task(self._run(), name="tidewire-client")

    async def aclose(self) -> None:
        """Leave; harmless when repeated."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    # What the speaker uses.

    def call(self, command: Command, answered: Answered) -> None:
        """Send a command; all of one turn go in one frame."""
        self._last_id += 1
        self._calls[self._last_id] = answered
        self.write(msgspec.structs.replace(command, id=self._last_id))

    async def ask(self, command: Command) -> Reply | None:
        """Send a command and wait for its answer; None when there is none in time."""
        future: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        self.call(command, lambda reply: None if future.done() else future.set_result(reply))
        try:
            async with asyncio.timeout(self._seconds):
                return await future
        except TimeoutError:
            return None

    def write(self, command: Command) -> None:
        """Send a command that has no answer."""
        if self._socket is None:
            self._calls.pop(command.id, _nobody)(None)
            return
        self._outbox.append(_encode(command))
        self._has_outbox.set()

    def drop(self) -> None:
        """Close the socket and come back on another."""
        if self._socket is not None:
            self.spawn(self._socket.close())

    def ready(self) -> None:
        """Say that the server has taken the greeting."""
        self.later(_STABLE_SECONDS, self._settle)
        self.is_ready.set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something for as long as this connection lasts."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Do something after so many seconds if this connection lasts."""

        def due() -> None:
            self._timers.discard(timer)
            callback()

        timer = asyncio.get_running_loop().call_later(seconds, due)
        self._timers.add(timer)

    # One connection after the other.

    async def _run(self) -> None:
        error: TidewireError | None = None
        try:
            while True:
                await asyncio.sleep(await self._live())
        except TidewireError as reason:
            error = reason
        except asyncio.CancelledError:
            raise
        except Exception as reason:
            error = TidewireError(f"the client failed: {reason}")
            error.__cause__ = reason
        finally:
            self._leave(0)
            self.error = error or ConnectionClosed(Disconnect(1000, "this client was closed", reconnect=False))
            self.is_ready.set()
            self._speaker.ended(error)
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _live(self) -> float:
        """Live through one connection; returns the seconds before the next one."""
        code, pause = 0, None
        try:
            if await self._speaker.prepare():
                await self._talk()
        except ssl.SSLCertVerificationError:
            raise
        except InvalidStatus as error:
            pause = retry_after(error)
        except SocketClosed as error:
            check_may_return(error, _FINAL)
            code = error.rcvd.code if error.rcvd is not None else 0
        except (OSError, InvalidHandshake, TimeoutError) as error:
            if self._attempt == 0:
                logger.warning("the server cannot be reached (%s); trying again until it can", type(error).__name__)
        self._leave(code)
        if pause is None:
            pause = delay(self._attempt)
        self._attempt += 1
        return pause

    async def _talk(self) -> None:
        options: dict[str, Any] = {"max_size": _MESSAGE_SIZE, "ping_interval": None, "close_timeout": 2}
        async with connect(self._url, additional_headers=self._headers, **options) as socket:
            self._socket, self.patience = socket, self._seconds
            self._speaker.greet()
            writer = asyncio.get_running_loop().create_task(self._write(socket))
            try:
                await self._listen(socket)
            finally:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, socket: ClientConnection) -> None:
        while True:
            await self._has_outbox.wait()
            self._has_outbox.clear()
            frame, self._outbox = b"\n".join(self._outbox), []
            with contextlib.suppress(SocketClosed):  # the listener is told, too
                await socket.send(frame, text=True)

    async def _listen(self, socket: ClientConnection) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self.patience) as silence:
            async for frame in socket:
                for line in frame.splitlines():
                    self._take(_decode(line))
                silence.reschedule(loop.time() + self.patience)
            await socket.recv()

    def _take(self, reply: Reply) -> None:
        if reply.id:
            self._calls.pop(reply.id, _nobody)(reply)
        elif reply.push is not None:
            self._speaker.pushed(reply.push)
        elif self.answers_pings:
            self.write(Command())

    def _settle(self) -> None:
        self._attempt = 0

    def _leave(self, code: int) -> None:
        self._socket = None
        self.is_ready.clear()
        self._outbox = []
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        for task in self._tasks:
            task.cancel()
        calls, self._calls = self._calls, {}
        for answered in calls.values():
            answered(None)
        self._speaker.left(code)


def _nobody(reply: Reply | None) -> None:
    """Take an answer that nobody waits for any more."""
