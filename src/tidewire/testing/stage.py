"""The part of a test's world that its clients need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from tidewire.errors import Disconnect
from tidewire.testing.dialing import Opening
from tidewire.testing.journal import Journal
from tidewire.testing.wire_client import WireClient

__all__ = ("Stage",)


class Stage(ABC):
    """Connects clients, and waits until everything that they did has been handled."""

    journal: Journal
    #: A test has already waited in vain for a handler that works without an end.
    is_stuck: bool = False

    @abstractmethod
    async def dial(
        self,
        opening: Opening,
        on_message: Callable[[str | bytes], None],
        on_closed: Callable[[Disconnect], None],
        on_user: Callable[[str], None],
    ) -> WireClient:
        """Connect to a worker; raises HandshakeRefused. `on_user` is given the user that an endpoint has found."""

    @abstractmethod
    async def settle(self) -> None:
        """Wait until everything has been handled: no handler works, and nothing is in flight; for a second at most."""

    @abstractmethod
    async def settle_briefly(self) -> None:
        """Wait until the event loop has nothing more to do immediately."""

    @abstractmethod
    def unfinished(self) -> list[str]:
        """Describe the handlers that still work."""

    @abstractmethod
    def raise_errors(self) -> None:
        """Raise the exception that a handler has raised, once."""
