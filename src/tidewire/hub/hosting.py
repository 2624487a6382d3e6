"""Another way to open hubs than a server's: the contract between a hub and the test kit."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextvars import ContextVar
from typing import Protocol

from tidewire.backends.base import Broker, Presence
from tidewire.engine.node import Node
from tidewire.http_api.nodes import Nodes
from tidewire.limits import Limits
from tidewire.sessions.revocations import Revocations
from tidewire.sessions.text_streams import TextStreams
from tidewire.sessions.threads import ThreadCalls

__all__ = ("HOST", "Host", "Opened", "connecting_user")


class Opened(Protocol):
    """The parts of a hub while it is open."""

    @property
    def node(self) -> Node:
        """The engine."""

    @property
    def nodes(self) -> Nodes:
        """The view of the other nodes."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that the hub was opened on."""

    @property
    def threads(self) -> ThreadCalls:
        """The calls from threads."""

    @property
    def revocations(self) -> Revocations:
        """The tokens that were revoked."""

    @property
    def streams(self) -> TextStreams:
        """The text streams that are written here."""


class Host(ABC):
    """Runs an application for a test: it chooses the store, and one hub may be open once for each of its workers."""

    #: The user of the connection that is being made, "" for nobody.
    user: str = ""

    def connecting(self, user: str) -> str:
        """Return the user of a connection that an endpoint makes for `user`, "" for nobody."""
        return user or self.user

    @abstractmethod
    def open_store(self, url: str, limits: Limits) -> tuple[Broker, Presence]:
        """Make the broker and the presence of a hub that opens."""

    @abstractmethod
    def opened(self, hub: object, opened: Opened) -> Opened:
        """Take the parts that a hub has opened, and return those that it has from now on."""

    @abstractmethod
    def closing(self, hub: object) -> tuple[Opened | None, Opened | None]:
        """Return the parts that a hub is to close, and those that it has from now on."""


#: The host of the application that runs in this context; None under a server.
HOST: ContextVar[Host | None] = ContextVar("tidewire.host", default=None)


def connecting_user(user: str) -> str:
    """Return the user of the connection that is being made; where an endpoint names none, a test may."""
    host = HOST.get()
    return user if host is None else host.connecting(user)
