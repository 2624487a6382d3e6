"""A connection to Redis that is made again when it breaks; its use is another object's, a `User`."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio.connection import AbstractConnection

from tidewire.backends.redis.driver import Reply, Session
from tidewire.backends.shared.outage import Outage
from tidewire.backends.shared.reconnecting import reconnect
from tidewire.errors import StoreUnavailable, TidewireError

__all__ = ("Connection", "Dial", "User")

Dial = Callable[[], Awaitable[AbstractConnection]]


class User(ABC):
    """The user of a connection. All methods are called on the event loop, and `opened` and `lost` in turns."""

    @abstractmethod
    async def prepare(self, session: Session) -> None:
        """Do the first steps of a new session; raises when it cannot be used."""

    @abstractmethod
    def opened(self) -> None:
        """Take note that the connection is ready."""

    @abstractmethod
    def take(self, reply: Reply) -> None:
        """Take one reply."""

    @abstractmethod
    def lost(self, reason: str) -> None:
        """Fail everything that waits for the connection, which is lost."""


class Connection:
    """Keeps one session open for its user; while there is none, `is_open` is False and `trouble` says why."""

    def __init__(self, shown: str, dial: Dial, outage: Outage, patience: float, user: User) -> None:
        self.shown = shown
        #: Seconds within which the server has to answer.
        self.patience = patience
        self._dial = dial
        self._outage = outage
        self._user = user
        self._task: asyncio.Task[None] | None = None
        #: The session, also while it is being prepared.
        self.session: Session | None = None
        self.is_open = False
        self.trouble = "it is not open"

    async def start(self) -> None:
        """Connect; raises StoreUnavailable or ConfigurationError, and then nothing goes on."""
        if self._task is not None:
            return
        try:
            session = await self._open()
        except BaseException:
            await self._close_session()
            self._lose("it could not be opened")
            raise
        self._task = asyncio.get_running_loop().create_task(self._keep(session), name="tidewire-redis")

    def start_soon(self) -> None:
        """Begin to connect."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep(None), name="tidewire-redis")

    async def aclose(self) -> None:
        """End the connection and everything that waits for it."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            await self._close_session()
            self._lose("it is closed")
            self._outage.forget(self)

    def renew(self, reason: str) -> None:
        """Give the session up and open a new one."""
        if self.session is not None:
            self.session.end(reason)

    async def _open(self) -> Session:
        try:
            async with asyncio.timeout(self.patience):
                self.session = session = Session(await self._dial(), self._user.take)
                preparing = asyncio.ensure_future(self._user.prepare(session))
                try:
                    either: set[asyncio.Future[Any]] = {preparing, session.ended}
                    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                    if not preparing.done():
                        raise StoreUnavailable(f"{self.shown} ended the connection: {session.ended.result()}")
                    preparing.result()
                finally:
                    preparing.cancel()
        except TimeoutError:
            raise StoreUnavailable(f"{self.shown} does not answer within {self.patience:g} s") from None
        self.is_open = True
        self.trouble = ""
        self._user.opened()
        return session

    async def _reopen(self) -> Session:
        try:
            return await self._open()
        except BaseException:
            await self._close_session()
            raise

    async def _keep(self, session: Session | None) -> None:
        while True:
            if session is not None:
                reason = await asyncio.shield(session.ended)
                self._lose(self._named(reason))
                self._outage.begins(self, reason)
                await self._close_session()
            session = await reconnect(
                self._reopen, outage=self._outage, owner=self, expected=(TidewireError,), failed=self._failed
            )

    def _failed(self, error: Exception) -> str:
        reason = str(error) if isinstance(error, TidewireError) else f"an internal error ({error})"
        self._lose(self._named(reason))
        return reason

    def _named(self, reason: str) -> str:
        return reason if self.shown in reason else f"{self.shown}: {reason}"

    def _lose(self, reason: str) -> None:
        self.is_open = False
        self.trouble = reason
        self._user.lost(reason)

    async def _close_session(self) -> None:
        session, self.session = self.session, None
        if session is not None:
            await session.aclose()
