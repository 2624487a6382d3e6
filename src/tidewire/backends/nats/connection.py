"""A connection to NATS that is made again when it breaks: opens sessions one by one, and finds out when one is dead."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from nats.errors import Error as NatsError

from tidewire.backends.nats.address import NatsAddress
from tidewire.backends.nats.session import Refused, Session
from tidewire.backends.shared.outage import Outage
from tidewire.backends.shared.reconnecting import reconnect
from tidewire.errors import ConfigurationError, StoreUnavailable

__all__ = ("Connection",)

logger = logging.getLogger("tidewire")

#: Seconds between two checks that the server still answers.
PROBE_SECONDS = 2.0
#: Seconds that a close waits for tasks.
_CLOSE = 1.0
_FORBIDDEN = "authorization violation"
#: The errors of a server that cannot be used now.
_EXPECTED = (NatsError, OSError, TimeoutError, StoreUnavailable, ConfigurationError)


class Connection:
    """Keeps one session open, and prepares each new one before it is used.

    `prepare` makes a session ready, `probe` checks that it still is; when one raises StoreUnavailable, the session
    is given up. `lost` is called at the end of a session, `restored` when a new one has taken its place.
    """

    def __init__(
        self,
        address: NatsAddress,
        seconds: float,
        *,
        prepare: Callable[[Session], Awaitable[None]],
        probe: Callable[[Session], Awaitable[None]],
        lost: Callable[[str], None],
        restored: Callable[[], None],
        outage: Outage,
    ) -> None:
        self.address = address
        self._seconds = seconds
        self._prepare = prepare
        self._probe = probe
        self._lost = lost
        self._restored = restored
        self._outage = outage
        self._session: Session | None = None
        self._tries = 0
        self._task: asyncio.Task[None] | None = None
        self.trouble = "it is not open; use it between its start and its close"

    @property
    def session(self) -> Session:
        """The session; raises StoreUnavailable while there is none."""
        session = self._session
        if session is None or session.ended.is_set():
            raise StoreUnavailable(f"NATS at {self.address.shown} is away: {self.trouble}")
        return session

    @property
    def is_up(self) -> bool:
        """There is a session."""
        return self._session is not None and not self._session.ended.is_set()

    async def start(self) -> None:
        """Open the first session; raises StoreUnavailable, or ConfigurationError when no trying again would help."""
        try:
            self._session = await self._open()
        except (NatsError, OSError, TimeoutError) as error:
            if _FORBIDDEN in str(error).lower():
                raise ConfigurationError(
                    f"NATS at {self.address.shown} does not let this user in; mend user and password, or credentials"
                ) from error
            raise StoreUnavailable(
                f"NATS at {self.address.shown} cannot be reached ({_words(error)}); see that it runs there"
            ) from error
        self.trouble = ""
        self._task = asyncio.get_running_loop().create_task(self._keep(), name="tidewire-nats")

    async def aclose(self) -> None:
        """Close the session, and open no other."""
        task, self._task = self._task, None
        self.trouble = "it is closed"
        self._outage.forget(self)
        if task is not None:
            task.cancel()
            await asyncio.wait([task], timeout=_CLOSE)
        session, self._session = self._session, None
        if session is not None:
            await session.close("it is closed")

    def fail(self, reason: str) -> None:
        """Give up a session that does not work."""
        if self._session is not None:
            self._session.end(reason)

    async def _open(self) -> Session:
        """Open and prepare a session with the next server."""
        server = self.address.servers[self._tries % len(self.address.servers)]
        self._tries += 1
        session = Session(self.address, self._seconds)
        await session.open(server)
        try:
            await self._prepare(session)
        except BaseException:
            await session.close("it was not prepared")
            raise
        return session

    async def _keep(self) -> None:
        while self._session is not None:
            session = self._session
            await self._watch(session)
            self.trouble = session.reason
            self._session = None
            self._outage.begins(self, session.reason)
            self._lost(session.reason)
            await session.close(session.reason)
            self._session = await reconnect(
                self._open, outage=self._outage, owner=self, expected=_EXPECTED, failed=self._failed
            )
            self.trouble = ""
            self._restored()

    async def _watch(self, session: Session) -> None:
        """Return when the session has ended."""
        while not session.ended.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROBE_SECONDS):
                    await session.ended.wait()
                return
            try:
                await self._probe(session)
            except StoreUnavailable as error:
                session.end(str(error))
            except Exception as error:
                logger.exception("a check of NATS failed by a fault of the program")
                session.end(_words(error))

    def _failed(self, error: Exception) -> str:
        if isinstance(error, Refused | ConfigurationError):
            self.trouble = str(error)
        return _words(error)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
