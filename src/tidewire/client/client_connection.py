"""The connection of a client: one WebSocket after another, commands and their replies, and reconnecting."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable, Coroutine, Mapping
from typing import Any
from typing import Protocol as TypingProtocol

import msgspec
from websockets.asyncio.client import ClientConnection as Socket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed as SocketClosed
from websockets.exceptions import InvalidHandshake, InvalidStatus

from tidewire.client.backoff import check_may_return, delay, retry_after
from tidewire.client.client_frames import Unreadable, frame_id, frame_name, read_reply
from tidewire.errors import ConnectionClosed, Disconnect, TidewireError
from tidewire.protocols.centrifuge import codes
from tidewire.protocols.centrifuge.messages import Command, Error, Push, Reply
from tidewire.protocols.close_codes import FINAL

__all__ = ("Answered", "ClientConnection", "ConnectionHandler")

logger = logging.getLogger("tidewire.client")

#: Takes the reply to a command, or None when the connection was lost before the reply came.
Answered = Callable[[Reply | None], None]

#: Seconds after which a connection counts as stable: the back-off begins again with the next loss.
_STABLE_SECONDS = 5.0
#: Bytes of one message from the server: a recovery may bring many publications.
_MESSAGE_SIZE = 64 * 1_048_576
#: Close codes after which reconnecting does not help.
_FINAL = FINAL - {1000}

_encode = msgspec.json.Encoder().encode


class ConnectionHandler(TypingProtocol):
    """Handles the events of a connection. An exception that it raises ends the connection for good."""

    async def prepare(self) -> bool:
        """Prepare to connect, for example fetch a token; return False to try again later."""

    def opened(self) -> None:
        """Send the first commands: a WebSocket is open."""

    def pushed(self, push: Push) -> None:
        """Take a push of the server."""

    def lost(self, code: int) -> None:
        """Note that the WebSocket was lost, with its close code or 0."""

    def ended(self, error: TidewireError | None) -> None:
        """Note that the connection has ended for good, with its error, or None when it was closed."""


class ClientConnection:
    """Reconnects with full jitter until it is closed, or until the server forbids it to come back."""

    def __init__(self, url: str, headers: Mapping[str, str], handler: ConnectionHandler, seconds: float) -> None:
        self._url = url
        self._headers = dict(headers)
        self._handler = handler
        self._seconds = seconds
        #: Seconds of silence after which the server counts as gone, and whether its pings must be answered; the connect
        #: reply sets both.
        self.silence_limit = seconds
        self.answers_pings = False
        #: The server has accepted the connect command.
        self.is_ready = asyncio.Event()
        self.error: TidewireError | None = None
        self._socket: Socket | None = None
        self._unsent: list[bytes] = []
        self._has_unsent = asyncio.Event()
        self._calls: dict[int, Answered] = {}
        self._last_id = 0
        self._attempt = 0
        self._timers: set[asyncio.TimerHandle] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Start connecting; may be called once."""
        if self._running is not None:
            raise TidewireError("this client was entered before; make another one")
        self._running = asyncio.get_running_loop().create_task(self._run(), name="tidewire-client")

    async def aclose(self) -> None:
        """Close the connection; harmless when repeated."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    # Called by the handler.

    def call(self, command: Command, answered: Answered) -> None:
        """Send a command; all commands of one turn of the loop go in one frame."""
        self._last_id += 1
        self._calls[self._last_id] = answered
        self.write(msgspec.structs.replace(command, id=self._last_id))

    async def ask(self, command: Command) -> Reply | None:
        """Send a command and return its reply, or None when none comes in time."""
        future: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        self.call(command, lambda reply: None if future.done() else future.set_result(reply))
        try:
            async with asyncio.timeout(self._seconds):
                return await future
        except TimeoutError:
            return None

    def write(self, command: Command) -> None:
        """Send a command that has no reply."""
        if self._socket is None:
            self._calls.pop(command.id, _ignore)(None)
            return
        self._unsent.append(_encode(command))
        self._has_unsent.set()

    def drop(self) -> None:
        """Close the WebSocket and connect again."""
        if self._socket is not None:
            self.spawn(self._socket.close())

    def ready(self) -> None:
        """Note that the server has accepted the connect command."""
        self.later(_STABLE_SECONDS, self._settle)
        self.is_ready.set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine, and cancel it when this WebSocket is lost."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call a function after a delay, unless this WebSocket is lost before."""

        def due() -> None:
            self._timers.discard(timer)
            callback()

        timer = asyncio.get_running_loop().call_later(seconds, due)
        self._timers.add(timer)

    # One WebSocket after another.

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
            self._handler.ended(error)
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _live(self) -> float:
        """Serve one WebSocket until it is lost; return the seconds to wait before the next one."""
        code, pause = 0, None
        try:
            if await self._handler.prepare():
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
            self._socket, self.silence_limit = socket, self._seconds
            self._handler.opened()
            writer = asyncio.get_running_loop().create_task(self._write(socket))
            try:
                await self._listen(socket)
            finally:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, socket: Socket) -> None:
        while True:
            await self._has_unsent.wait()
            self._has_unsent.clear()
            frame, self._unsent = b"\n".join(self._unsent), []
            with contextlib.suppress(SocketClosed):  # the listener is told, too
                await socket.send(frame, text=True)

    async def _listen(self, socket: Socket) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self.silence_limit) as silence:
            async for frame in socket:
                # JSON has no line feed in a string, but may have other characters that end a line for Python
                for line in (frame if isinstance(frame, bytes) else frame.encode()).split(b"\n"):
                    if line:
                        self._read(line)
                silence.reschedule(loop.time() + self.silence_limit)
            await socket.recv()

    def _read(self, line: bytes) -> None:
        try:
            reply = read_reply(line)
        except Unreadable as error:
            name = frame_name(line)
            logger.warning("%s cannot be read, and is skipped: %s", name, error)
            problem = Error(codes.INTERNAL.code, f"the answer ({name}) cannot be read: {error}")
            if number := frame_id(line):
                self._take(Reply(number, error=problem))
            return
        self._take(reply)

    def _take(self, reply: Reply) -> None:
        if reply.id:
            self._calls.pop(reply.id, _ignore)(reply)
        elif reply.push is not None:
            self._handler.pushed(reply.push)
        elif self.answers_pings:
            self.write(Command())

    def _settle(self) -> None:
        self._attempt = 0

    def _leave(self, code: int) -> None:
        self._socket = None
        self.is_ready.clear()
        self._unsent = []
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        for task in self._tasks:
            task.cancel()
        calls, self._calls = self._calls, {}
        for answered in calls.values():
            answered(None)
        self._handler.lost(code)


def _ignore(reply: Reply | None) -> None:
    """Ignore a reply that nothing waits for any more."""
