"""Identities and permissions of clients: the contract between the sessions of a client protocol and the application."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from typing import Any

import msgspec

from tidewire.channel_options import ChannelOptions
from tidewire.errors import NotAvailable, UnknownType
from tidewire.messages import Format, IssuedToken

__all__ = ("Action", "Authority", "Caller", "ConnectAttempt", "Grant", "Identity", "Intake", "Poll")


class Action(Enum):
    """The actions of a client in a channel, beside subscribing."""

    PUBLISH = "publish"
    REMOVE = "remove"
    HISTORY = "history"
    PRESENCE = "presence"


class ConnectAttempt(msgspec.Struct, frozen=True):
    """The data that a connecting client gives. Its `headers` are not verified: never trust them."""

    token: str = ""
    data: bytes = b""
    name: str = ""
    version: str = ""
    headers: Mapping[str, str] = {}


class Poll(msgspec.Struct, frozen=True):
    """The way to ask for the values of a channel's keys, every so many seconds.

    `ask` returns the values that there are, or with `versioned` pairs of a version and a value. With a `secret`, a
    client tracks keys that are signed with it.
    """

    ask: Callable[[list[str]], Awaitable[Mapping[str, Any]]]
    every: float
    versioned: bool = False
    secret: str = ""

    def __repr__(self) -> str:
        return f"Poll(every={self.every}, versioned={self.versioned})"  # no secret: it may be logged


class Grant(msgspec.Struct, frozen=True):
    """The grant of a subscriber: the channel's options as they hold for it, and the fields of its subscription.

    `info` (JSON or b"") shows in presence, joins and publications; `data` (JSON or b"") goes back in the reply;
    `expires_at` is in seconds since 1970; `channel` is set where the token named it (`Authority.sub_refresh`). A client
    that may not see presence is not told of joins and leaves either (`sees_joins`). `token` makes `Hub.revoke`
    reach it.
    """

    options: ChannelOptions
    info: bytes = b""
    data: bytes = b""
    expires_at: float | None = None
    channel: str = ""
    sees_joins: bool = True
    poll: Poll | None = None
    token: IssuedToken | None = None


class Identity(msgspec.Struct, frozen=True):
    """The user of a connection ("": a stranger), when it ends, and the subscriptions that the server makes for it.

    `info` (JSON or b"") shows in presence; `data` (JSON or b"") goes back in the connect reply; `context` is the
    value of the application's own dependency, handed to its rules unchanged. `token` makes `Hub.revoke` reach it.
    """

    user: str = ""
    info: bytes = b""
    data: bytes = b""
    expires_at: float | None = None
    subscriptions: Mapping[str, Grant] = {}
    context: Any = None
    token: IssuedToken | None = None


class Caller(msgspec.Struct, frozen=True):
    """A connection that asks for something: its id, its identity, and the address that it comes from."""

    client: str
    identity: Identity
    address: str = ""


#: Returns the message to keep for one of a client, None for none; raises CommandError, Rejected.
Intake = Callable[[Caller, bytes, Format], Awaitable[tuple[bytes, Format] | None]]


class Authority(ABC):
    """Decides for the clients of one endpoint. One instance serves every connection; every method may run concurrently.

    A refusal is a CommandError, which answers the command; `Rejected` ends the connection with its code.
    """

    @abstractmethod
    async def connect(self, attempt: ConnectAttempt, identity: Identity | None) -> Identity:
        """Return the identity of a client; `identity` is that of the endpoint's own dependency, if it has one.

        Raises TokenExpired (the client fetches another one), Rejected for a client that can never connect.
        """

    @abstractmethod
    async def refresh(self, caller: Caller, token: str) -> Identity:
        """Return how long the connection may go on; raises as `connect`."""

    @abstractmethod
    def options(self, channel: str) -> ChannelOptions:
        """Return the options of a channel; raises UnknownChannel, BadRequest, PermissionDenied. No I/O."""

    @abstractmethod
    async def subscribe(self, caller: Caller, channel: str, token: str, data: bytes) -> Grant:
        """Return the grant of a client that wants to subscribe to a channel; raises CommandError, Rejected."""

    @abstractmethod
    async def sub_refresh(self, caller: Caller, channel: str, token: str) -> Grant:
        """Return how long a subscription may go on; "" is the channel that the token names. Raises as `connect`."""

    @abstractmethod
    async def allow(self, caller: Caller, channel: str, action: Action, *, subscribed: bool) -> None:
        """Return when the client may do it; raises CommandError."""

    def intake(self, channel: str) -> Intake | None:
        """Return a function that checks or changes the messages of clients in a channel; None: it has none."""
        return None

    async def rpc(self, caller: Caller, method: str, data: bytes) -> bytes:
        """Call the application, JSON in and JSON out; raises CommandError."""
        raise NotAvailable("this application answers no calls; register one with @hub.rpc")

    async def receive(self, caller: Caller, data: bytes) -> None:
        """Take a message that needs no answer; raises UnknownType if the application has no function for it."""
        raise UnknownType("this application takes no messages outside of channels")
