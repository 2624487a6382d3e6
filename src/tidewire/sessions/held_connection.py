"""The connection of an endpoint's block: its beginning, its user and its end. Its verbs are in `application`."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from threading import get_ident
from types import TracebackType
from typing import Any, ClassVar, NoReturn, Self

from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.errors import ConnectionClosed, Disconnect, PermissionDenied, TidewireError
from tidewire.messages import IssuedToken
from tidewire.protocols.close_codes import EXPIRED, REVOKED
from tidewire.protocols.payload import encode_json, encode_message
from tidewire.rules.base import Identity
from tidewire.sessions.accept import Acceptance
from tidewire.sessions.arguments import moment_from
from tidewire.sessions.in_flight import InFlight
from tidewire.sessions.newcomers import identify
from tidewire.sessions.only_async import OnlyAsync
from tidewire.sessions.push_only import EndOfPushing
from tidewire.sessions.threads import check_loop

__all__ = ("HeldConnection",)


class HeldConnection(OnlyAsync):
    """The connection, its user, its expiry, and its publishes in flight; entered once, with `async with`."""

    __slots__ = (
        "_acceptance",
        "_connection",
        "_expires_at",
        "_expiry",
        "_in_flight",
        "_loop",
        "_node",
        "_pushing",
        "_task",
        "_thread",
    )

    _form: ClassVar[str] = "async with hub.connect(websocket) as connection:"
    #: The event loop that it was entered on, and that loop's thread.
    _loop: asyncio.AbstractEventLoop
    _thread: int

    def __init__(self, node: Node, acceptance: Acceptance, *, expires_at: float | None = None) -> None:
        self._node = node
        self._expires_at = expires_at
        self._acceptance = acceptance
        self._connection: Connection | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._in_flight: InFlight | None = None
        self._pushing: EndOfPushing | None = None
        self._task: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> Self:
        if hasattr(self, "_loop"):
            raise TidewireError("this connection was entered before; call hub.connect for each WebSocket once")
        self._loop, self._thread = asyncio.get_running_loop(), get_ident()
        self._connection = await self._acceptance.__aenter__()
        self._task = asyncio.current_task()
        self._connection.on_left(self._left)
        if self._expires_at is not None:
            self.expire_at(self._expires_at)
        return self

    def _left(self) -> None:
        if not self.connection.receives and self._task is not None:
            self._pushing = EndOfPushing(self.connection, self._task, self._node.limits.leaving_seconds)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._cancel_expiry()
        self._task = None  # a client that leaves from now on does not end what comes behind the block
        if self._pushing is not None and self._pushing.leave() and isinstance(exc, asyncio.CancelledError):
            exc_type, exc, traceback = None, None, None
        if exc is None:
            try:
                await self.wait_published()
            except asyncio.CancelledError as cancelled:  # the server stops: the connection ends with its code
                await self._acceptance.__aexit__(type(cancelled), cancelled, cancelled.__traceback__)
                raise
        return await self._acceptance.__aexit__(exc_type, exc, traceback)

    def __aiter__(self) -> NoReturn:
        """Raise TidewireError: an iteration must name the type of messages."""
        raise TidewireError(
            "write `async for text in connection.iter_text():`, or iter_json() or iter_bytes(); the connection itself "
            "has no type of messages"
        )

    @property
    def connection(self) -> Connection:
        """The connection in the engine; raises TidewireError before `async with`."""
        if self._connection is None:
            raise TidewireError(
                "this connection is not accepted yet; write `async with hub.connect(websocket) as connection:`"
            )
        return self._connection

    @property
    def _here(self) -> Connection:
        """The connection, for verbs; raises ConfigurationError outside of its event loop."""
        connection = self._connection
        # The loop that runs in this thread, without asking the system which process this is (get_running_loop does).
        if connection is None or get_ident() != self._thread or not self._loop.is_running():
            connection = self.connection
            check_loop(self._loop)
        return connection

    @property
    def id(self) -> str:
        """A name of this connection that no other has."""
        return self.connection.id

    @property
    def user(self) -> str:
        """The user that `connect` was given."""
        return self.connection.user

    @property
    def disconnect(self) -> Disconnect | None:
        """Why the connection ended, once it has."""
        return self.connection.disconnect

    async def identify(self, user: str, *, info: Any = None, token: IssuedToken | None = None) -> None:
        """Give the connection its user, where that is known only after it was accepted.

        Raises LimitExceeded when the user has too many connections, ConnectionClosed when the token is revoked.
        """
        self._here.opened_with(token)
        await identify(self._node, self._here, user, b"" if info is None else encode_json(info))
        if self._node.is_revoked(user, token):
            self._here.end(REVOKED)
            raise ConnectionClosed(REVOKED)

    def expire_at(self, at: float | datetime | None, *, notice: Any = None, grace: float | None = None) -> None:
        """End the connection at a time, in seconds since 1970, with 1008; a later call moves it, None takes it back.

        So a connection lives no longer than the token that opened it. A clock that is set later moves nothing. With a
        `notice` (str, bytes, or a JSON value) the client is sent that at the time, and the connection ends `grace`
        seconds later (None: `limits.expiry_grace_seconds`), unless it is moved meanwhile, as by `refresh`.
        """
        connection = self._here
        moment = None if at is None else moment_from(at, "at")
        self._cancel_expiry()
        self._expires_at = moment
        if moment is None:
            return
        delay = max(0.0, moment - time.time())
        if notice is None:
            self._expiry = self._loop.call_later(delay, connection.end, EXPIRED)
            return
        message, seconds = encode_message(notice), self._node.limits.expiry_grace_seconds if grace is None else grace

        def tell() -> None:
            self._node.send(connection, message)
            self._expiry = self._loop.call_later(seconds, connection.end, EXPIRED)

        self._expiry = self._loop.call_later(delay, tell)

    def refresh(self, identity: Identity, *, notice: Any = None, grace: float | None = None) -> None:
        """Go on with a newer token of the same user, as `expire_at` says; raises PermissionDenied for another user.

        Raises ConnectionClosed when the token is revoked.
        """
        connection = self._here
        if identity.user != connection.user:
            raise PermissionDenied("this token is another user's; connect anew with it")
        connection.opened_with(identity.token)
        if self._node.is_revoked(identity.user, identity.token):
            connection.end(REVOKED)
            raise ConnectionClosed(REVOKED)
        self.expire_at(identity.expires_at, notice=notice, grace=grace)

    def _publishes(self) -> InFlight:
        """Return the publishes in flight, for which the end of the block waits."""
        if self._in_flight is None:
            self._in_flight = InFlight(self._node, self.connection, "publishes_in_flight")
        return self._in_flight

    async def wait_published(self) -> None:
        """Wait until the outcome of everything that was handed over by `submit` is known."""
        if self._in_flight is not None:
            await self._in_flight.wait()

    def _cancel_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
