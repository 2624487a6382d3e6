"""One connection to a server, from its handshake to its end: it is never mended, a new one takes its place."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError, NoServersError, SlowConsumerError

from tidewire.backends.nats.address import NatsAddress
from tidewire.backends.nats.jetstream import STATUS, ApiError
from tidewire.errors import StoreUnavailable

__all__ = ("Refused", "Session", "TooLarge", "Unsendable")

logger = logging.getLogger("tidewire")

T = TypeVar("T")
Handler = Callable[[Msg], None]

#: Messages, and their bytes, of one subscription that wait for this process; beyond that they are dropped and told.
PENDING_COUNT = 65_536
PENDING_BYTES = 64 * 1_048_576
#: Bytes that wait for the socket before a publish waits too.
_BUFFER = 2 * 1_048_576
#: The status of "nobody listens to this subject": no stream takes it.
_NOBODY = "503"
_FORBIDDEN = "permissions violation"


class Unsendable(Exception):
    """Raised for a message that was surely not sent."""


class TooLarge(Unsendable):
    """Raised for a message that the server will never take."""


class Refused(StoreUnavailable):
    """Raised when the server answers with an error."""

    def __init__(self, doing: str, error: ApiError) -> None:
        super().__init__(f"NATS refused to {doing}: {error.description} (code {error.err_code or error.code})")
        self.error = error


class _Client(Client):
    def abort(self) -> None:
        """Close the socket at once, though bytes wait for it: a frozen server takes nothing."""
        writer = getattr(self._transport, "_bare_io_writer", None)
        if isinstance(writer, asyncio.StreamWriter):
            writer.transport.abort()


class Session:
    """Requests, publishes and subscriptions on one connection; `ended` is set when it can do nothing more."""

    def __init__(self, address: NatsAddress, seconds: float) -> None:
        self._address = address
        self._seconds = seconds
        self._client = _Client()
        self._answers: dict[int, Callable[[Msg | None], None]] = {}
        self._number = 0
        self._inbox = ""
        self._refusal: Exception | None = None
        self.ended = asyncio.Event()
        self.reason = ""
        #: Called when messages were dropped because this process was too slow.
        self.on_dropped: Callable[[], None] | None = None

    async def open(self, server: str) -> None:
        """Connect to a server; raises the driver's errors, OSError and TimeoutError."""
        try:
            async with asyncio.timeout(2 * self._seconds):
                await self._client.connect(
                    server,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,  # or the driver tries a server that refuses for minutes
                    reconnect_time_wait=0,
                    connect_timeout=max(1, round(self._seconds)),
                    pending_size=_BUFFER,
                    flush_timeout=self._seconds,
                    drain_timeout=max(1, round(self._seconds)),
                    user_credentials=self._address.credentials or None,
                    error_cb=self._failed,
                    closed_cb=self._closed,
                )
                self._inbox = self._client.new_inbox()
                await self.subscribe(f"{self._inbox}.*", self._answered)
        except NoServersError as error:
            await self.close("it was not opened")
            raise OSError(str(self._refusal or error)) from error
        except BaseException:
            await self.close("it was not opened")
            raise

    async def close(self, reason: str) -> None:
        """Close the session; everything that waits for an answer gets None."""
        self.end(reason)
        try:
            async with asyncio.timeout(0.5):
                await self._client.close()
        except (NatsError, OSError):
            pass
        except Exception:  # the driver stumbles over a connection that it has lost half
            logger.info("a connection to NATS did not end well", exc_info=True)
        self._client.abort()

    def end(self, reason: str) -> None:
        """End this session; everything that waits for an answer learns that none will come."""
        if self.ended.is_set():
            return
        self.reason = reason
        self.ended.set()
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer(None)

    async def _failed(self, error: Exception) -> None:
        self._refusal = error
        if isinstance(error, SlowConsumerError):
            if self.on_dropped is not None:
                self.on_dropped()
        elif _FORBIDDEN in str(error):
            logger.error("NATS refuses permissions that tidewire needs (%s); give them to its user", error)

    async def _closed(self) -> None:
        self.end(str(self._client.last_error or "the connection was lost"))

    @property
    def version(self) -> tuple[int, int, int]:
        """The server's."""
        version = self._client.connected_server_version
        return version.major, version.minor, version.patch

    @property
    def is_plain(self) -> bool:
        """Nothing is encrypted on the way."""
        url = self._client.connected_url
        return url is None or url.scheme != "tls"

    # Sending.

    async def publish(
        self,
        subject: str,
        data: bytes,
        headers: dict[str, str] | None = None,
        answer: Callable[[Msg | None], None] | None = None,
        reply: str = "",
    ) -> None:
        """Send a message; `answer` is called once, with the reply or with None when there will be none.

        Without it, the reply goes to the subject `reply`. Messages go in the order of the calls. Raises Unsendable.
        """
        if self.ended.is_set():
            raise Unsendable(self.reason)
        self._number += 1
        number = self._number
        if answer is not None:
            self._answers[number] = answer
            reply = f"{self._inbox}.{number}"
        try:
            await self._client.publish(subject, data, reply=reply, headers=headers)
        except (NatsError, OSError, AttributeError) as error:  # AttributeError: the driver has let its socket go
            self._answers.pop(number, None)
            if isinstance(error, MaxPayloadError):
                most = self._client.max_payload
                raise TooLarge(
                    f"{len(data)} bytes are more than the NATS server's max_payload ({most}); send less, or raise it"
                ) from None
            raise Unsendable(str(error)) from error

    async def _answered(self, msg: Msg) -> None:
        answer = self._answers.pop(int(msg.subject.rpartition(".")[2]), None)
        if answer is not None:
            answer(msg)

    async def request(self, subject: str, data: bytes = b"", headers: dict[str, str] | None = None) -> Msg:
        """Ask, and return the answer; raises StoreUnavailable."""
        future: asyncio.Future[Msg | None] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._seconds):
                await self.publish(
                    subject, data, headers, lambda msg: None if future.done() else future.set_result(msg)
                )
                msg = await future
        except TimeoutError:
            self.end(f"no answer within {self._seconds:g} s")
            raise StoreUnavailable(f"NATS at {self._address.shown} did not answer within {self._seconds:g} s") from None
        except Unsendable as error:
            raise StoreUnavailable(f"NATS at {self._address.shown} cannot be asked: {error}") from error
        if msg is None:
            raise StoreUnavailable(f"NATS at {self._address.shown} is away: {self.reason}")
        return msg

    async def api(self, what: str, asked: Mapping[str, object] | None, answer: type[T]) -> T:
        """Ask the JetStream API; raises StoreUnavailable, which is Refused when the server says no."""
        data = b"" if asked is None else msgspec.json.encode(asked)
        msg = await self.request(f"$JS.API.{what}", data)
        if is_nobody(msg):
            raise Refused(what.partition(".")[0].lower(), ApiError(503, 0, "JetStream is not enabled on this server"))
        return msgspec.json.decode(msg.data, type=answer)

    # Receiving.

    async def subscribe(
        self, subject: str, handle: Callable[[Msg], Awaitable[None]], *, may_drop: bool = False
    ) -> Subscription:
        """Begin to receive; raises StoreUnavailable.

        With `may_drop`, as many messages wait as the limits allow, and more are dropped; without, none is dropped.
        """
        count, size = (PENDING_COUNT, PENDING_BYTES) if may_drop else (0, 0)
        try:
            return await self._client.subscribe(subject, cb=handle, pending_msgs_limit=count, pending_bytes_limit=size)
        except (NatsError, OSError, AttributeError) as error:
            raise StoreUnavailable(f"NATS at {self._address.shown} is away: {error}") from error

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Receive no more; never raises for a lost connection."""
        with contextlib.suppress(NatsError, OSError, AttributeError):
            await subscription.unsubscribe()

    def new_inbox(self) -> str:
        """Return a subject that nobody else has."""
        return self._client.new_inbox()


def is_nobody(msg: Msg) -> bool:
    """Return whether the server answers that nobody listens."""
    return bool(msg.headers) and msg.headers is not None and msg.headers.get(STATUS) == _NOBODY
