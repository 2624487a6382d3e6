"""A Python client of the chat dialect that reconnects by itself, and loses or repeats no message in silence."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import ssl
from collections import deque
from types import TracebackType
from urllib.parse import urlencode

import msgspec
from websockets.asyncio.client import ClientConnection as Socket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed as SocketClosed
from websockets.exceptions import InvalidHandshake, InvalidStatus

from tidewire.client.backoff import check_may_return, delay, retry_after
from tidewire.client.chat_messages import (
    ChatMessage,
    History,
    HistoryReply,
    Inbox,
    InboxReply,
    Message,
    Online,
    PrivateMessage,
    System,
    Trouble,
    decode_each,
    decode_message,
)
from tidewire.errors import (
    BadRequest,
    CommandError,
    ConnectionClosed,
    Disconnect,
    NotAvailable,
    PermissionDenied,
    PublishUnconfirmed,
    TidewireError,
)
from tidewire.messages import Position
from tidewire.protocols.close_codes import FINAL

__all__ = ("ChatClient", "ChatMessage", "History", "Inbox", "Message", "Online", "PrivateMessage", "System", "Trouble")

logger = logging.getLogger("tidewire.client")

#: Seconds after which a message is not repeated any more: the server knows its id for 300.
_REPEAT_SECONDS = 240.0
#: Messages that wait for the application.
_WAITING = 1_000
#: Bytes of one message from the server: an inbox may hold a thousand long ones.
_MESSAGE_SIZE = 128 * 1_048_576
#: Error codes after which the same message may succeed.
_TEMPORARY = frozenset({"unavailable", "not_published", "unconfirmed"})
_REFUSALS: dict[str, type[CommandError]] = {"permission_denied": PermissionDenied, "not_available": NotAvailable}


class ChatClient:
    """One user in one room of a tidewire server: `async with ChatClient(url, token) as client`.

    Iterating yields messages as they come. After a lost connection the client reconnects, and the messages that it
    missed come next; if they are not kept any more, a `History` with `recovered` False says so. `url` is the server's
    `ws://…/ws/auth`. The iteration raises ConnectionClosed when the server refuses this client for good: for a wrong
    token, a disconnected user, a message that is too big.
    """

    def __init__(self, url: str, token: str, *, room: str = "lobby") -> None:
        self._url = url
        self._token = token
        self._room = room
        self._task: asyncio.Task[None] | None = None
        self._socket: Socket | None = None
        self._joined = asyncio.Event()
        self._ended: Exception | None = None
        self._position: Position | None = None
        self._private_position: Position | None = None
        #: Private messages that came before the inbox.
        self._early: list[PrivateMessage] | None = None
        self._waiting: deque[Message] = deque()
        self._arrived = asyncio.Event()
        #: The application is slow: later messages are fetched again when it has caught up.
        self._overflowed = False
        self._unanswered: dict[str, _Sending] = {}

    async def __aenter__(self) -> ChatClient:
        if self._task is not None:
            raise TidewireError("this client was entered before; make another one")
        self._task = asyncio.get_running_loop().create_task(self._run(), name="tidewire-client")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the client; harmless when repeated."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def __aiter__(self) -> ChatClient:
        return self

    async def __anext__(self) -> Message:
        while not self._waiting:
            if self._ended is not None:
                raise self._ended
            if self._task is None or self._task.done():
                raise StopAsyncIteration
            self._arrived.clear()
            if self._overflowed and self._socket is not None:
                await self._socket.close()
            await self._arrived.wait()
        return self._waiting.popleft()

    # Sending.

    async def send(self, text: str, *, seconds: float = 60.0) -> ChatMessage:
        """Publish a message in the room; return it with its offset when the server keeps it.

        It is sent again after a reconnect, and published once. Raises PublishUnconfirmed when no reply came within
        `seconds` (at most 240), CommandError when the server refuses it, ConnectionClosed when the client has ended.
        """
        answer = await self._send({"type": "chat", "message": text, "room": self._room}, seconds)
        assert isinstance(answer, ChatMessage)
        return answer

    async def send_private(self, user: str, text: str, *, seconds: float = 60.0) -> None:
        """Send a message to one user. Raises NotAvailable when that user is not online, and as `send`."""
        answer = await self._send({"type": "private_chat", "target_user": user, "message": text}, seconds)
        assert isinstance(answer, System)
        if not answer.content.startswith("Private message sent"):
            raise NotAvailable(answer.content)

    async def _send(self, command: dict[str, str], seconds: float) -> ChatMessage | System:
        if not command["message"].strip():
            raise BadRequest("a blank message would be ignored by the server; write some text")
        sending = _Sending(secrets.token_hex(8), command)
        self._unanswered[sending.id] = sending
        try:
            async with asyncio.timeout(min(seconds, _REPEAT_SECONDS)):
                return await self._repeat(sending)
        except TimeoutError:
            raise PublishUnconfirmed(f"not acknowledged within {seconds:g} s; it may have been published") from None
        finally:
            del self._unanswered[sending.id]

    async def _repeat(self, sending: _Sending) -> ChatMessage | System:
        attempt = 0
        while True:
            await self._joined.wait()
            if isinstance(sending.answer, CommandError):
                raise sending.answer
            if sending.answer is not None:
                return sending.answer
            if self._ended is not None or self._socket is None:
                raise self._ended or ConnectionClosed(Disconnect(1000, "this client was closed", reconnect=False))
            sending.news.clear()
            with contextlib.suppress(SocketClosed):
                await self._socket.send(sending.text)
            await sending.news.wait()
            if sending.is_refused:
                await sending.wait_answer(delay(attempt))
                attempt += 1

    # The connection.

    async def _run(self) -> None:
        attempt = 0
        try:
            while True:
                pause = None
                try:
                    pause = await self._connect()
                except ssl.SSLCertVerificationError:
                    raise
                except (OSError, InvalidHandshake) as error:
                    if attempt == 0:
                        logger.warning("the server cannot be reached (%s); trying again until it can", error)
                attempt = 0 if self._joined.is_set() else attempt + 1
                self._leave()
                await asyncio.sleep(delay(attempt) if pause is None else pause)
        except Exception as error:
            self._ended = error
        finally:
            self._leave()
            self._joined.set()
            self._repeat_all()
            self._arrived.set()

    async def _connect(self) -> float | None:
        """Serve one WebSocket until it is lost; return the seconds that the server asked to wait, if it did."""
        address = f"{self._url}{'&' if '?' in self._url else '?'}{urlencode(self._query())}"
        headers = {"Authorization": f"Bearer {self._token}"}
        try:
            async with connect(address, additional_headers=headers, max_size=_MESSAGE_SIZE, close_timeout=2) as socket:
                self._socket, self._early, self._overflowed = socket, [], False
                async for frame in socket:
                    self._take(frame)
                await socket.recv()
        except InvalidStatus as error:
            return retry_after(error)
        except SocketClosed as error:
            check_may_return(error, FINAL)
        return None

    def _query(self) -> dict[str, str | int]:
        query: dict[str, str | int] = {"room": self._room, "inbox": ""}
        if self._position is not None:
            query |= {"since": self._position.offset, "epoch": self._position.epoch}
        if self._private_position is not None:
            query |= {"inbox": self._private_position.offset, "inbox_epoch": self._private_position.epoch}
        return query

    def _leave(self) -> None:
        self._socket = None
        self._joined.clear()

    # Messages of the server.

    def _take(self, frame: str | bytes) -> None:
        message = decode_message(frame)
        match message:
            case HistoryReply():
                self._take_history(message)
            case InboxReply():
                self._take_inbox(message)
            case ChatMessage():
                self._take_said(message)
            case PrivateMessage() if self._early is not None:
                self._early.append(message)
            case PrivateMessage():
                self._take_private(message)
            case Trouble():
                self._take_trouble(message)
            case System(id=str(id_)) if id_ in self._unanswered:
                self._answer(id_, message)
            case System() | Online():
                self._show(message)

    def _take_history(self, history: HistoryReply) -> None:
        said = tuple(decode_each(history.messages, ChatMessage))
        if history.recovered:
            for message in said:
                self._take_said(message)
        else:
            for message in said:
                self._answer(message.id, message)
            if self._show(History(said, history.recovered)):
                self._position = Position(said[-1].offset if said else 0, history.epoch)
        self._joined.set()
        self._repeat_all()

    def _take_inbox(self, inbox: InboxReply) -> None:
        private = tuple(decode_each(inbox.messages, PrivateMessage))
        if inbox.recovered:
            for message in private:
                self._take_private(message)
        else:
            if self._show(Inbox(private, inbox.recovered)):
                self._private_position = Position(inbox.offset, inbox.epoch)
        if inbox.more:  # messages that are sent now come after those
            return
        early, self._early = self._early or [], None
        for message in early:
            self._take_private(message)

    def _take_said(self, message: ChatMessage) -> None:
        self._answer(message.id, message)
        if message.room == self._room and self._show(message) and self._position is not None:
            self._position = Position(message.offset, self._position.epoch)

    def _take_private(self, message: PrivateMessage) -> None:
        position = self._private_position
        if position is not None and message.offset > position.offset and self._show(message):
            self._private_position = Position(message.offset, position.epoch)

    def _take_trouble(self, error: Trouble) -> None:
        if error.code == "rate_limited":  # the error does not name its message
            self._repeat_all(refused=True)
        elif not isinstance(error.id, str) or error.id not in self._unanswered:
            self._show(error)
        elif error.code in _TEMPORARY:
            self._unanswered[error.id].repeat(refused=True)
        else:
            self._answer(error.id, _REFUSALS.get(error.code, BadRequest)(error.content))

    def _repeat_all(self, *, refused: bool = False) -> None:
        for sending in self._unanswered.values():
            sending.repeat(refused=refused)

    def _answer(self, id_: object, answer: ChatMessage | System | CommandError) -> None:
        sending = self._unanswered.get(id_) if isinstance(id_, str) else None
        if sending is not None:
            sending.settle(answer)

    def _show(self, message: Message) -> bool:
        """Queue a message for the application; return False when too many wait, so that it is fetched again later."""
        if self._overflowed or len(self._waiting) >= _WAITING:
            self._overflowed = True
            return False
        self._waiting.append(message)
        self._arrived.set()
        return True


class _Sending:
    """A message without a reply so far."""

    __slots__ = ("answer", "id", "is_refused", "news", "text")

    def __init__(self, id_: str, command: dict[str, str]) -> None:
        self.id = id_
        self.text = msgspec.json.encode({**command, "id": id_}).decode()
        self.answer: ChatMessage | System | CommandError | None = None
        #: The server could not take it now, but may later.
        self.is_refused = False
        #: Set when there is a reply, or a reason to send it again.
        self.news = asyncio.Event()

    def settle(self, answer: ChatMessage | System | CommandError) -> None:
        self.answer = answer
        self.news.set()

    def repeat(self, *, refused: bool) -> None:
        if not self.is_refused:
            self.is_refused = refused
            self.news.set()

    async def wait_answer(self, seconds: float) -> None:
        """Wait for a reply, or until it is time to send a refused message again."""
        if self.answer is None:
            self.news.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.news.wait()
        self.is_refused = False
