"""A session over a fake link, in either encoding, and its client, which shows what it was sent as plain values."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from engine.support import open_node
from sessions.centrifuge.authority import OPTIONS, WordAuthority
from tidewire.backends.base import Broker, Presence
from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.protocols.centrifuge.encoding import CentrifugeProtocol
from tidewire.protocols.centrifuge.messages import Command, Push, Reply
from tidewire.protocols.centrifuge.protobuf import decode_frame, encode_delimited
from tidewire.rules.base import Authority, Identity
from tidewire.sessions.centrifuge.session import Session
from tidewire.sessions.centrifuge.websocket_route import JSON, PROTOBUF
from tidewire.testing import FakeLink, wait_until

__all__ = ("JSON", "PROTOBUF", "Client", "begin", "connect", "open_sessions")

PATTERNS = {f"{name}:*": options for name, options in OPTIONS.items() if name} | {"*": OPTIONS[""]}


@asynccontextmanager
async def open_sessions(
    broker: Broker | None = None, presence: Presence | None = None, **limits: Any
) -> AsyncIterator[Node]:
    """Open a node whose channels offer what the authority for tests says."""
    async with open_node(broker, presence, rules=PATTERNS, **limits) as node:
        yield node


class Client:
    """One client; `encoding` is that of its frames, whatever its session believes."""

    def __init__(self, node: Node, authority: Authority, protocol: CentrifugeProtocol, **options: Any) -> None:
        self.node = node
        self.protocol = protocol
        self.link = FakeLink()
        self.connection = Connection(self.link, protocol, user="", address="", limits=node.limits)
        self.authority = authority
        self._options = options
        self._taken = 0
        self._ids = 0
        self.session: Session

    async def attach(self) -> None:
        await self.node.attach(self.connection)
        options = {"identity": None, **self._options}
        self.session = Session(self.node, self.authority, self.connection, **options)
        self.session.start()

    # What is sent.

    def raw(self, frame: str | bytes) -> None:
        """Let a frame come as it is."""
        self.link.receive(frame)

    def send(self, *commands: dict[str, Any]) -> None:
        """Send commands in one frame."""
        values = [msgspec.json.decode(msgspec.json.encode(command), type=Command) for command in commands]
        if self.protocol is PROTOBUF or self.protocol.subprotocol == PROTOBUF.subprotocol:
            self.raw(b"".join(encode_delimited(value) for value in values))
        else:
            self.raw("\n".join(msgspec.json.encode(value).decode() for value in values))

    async def ask(self, method: str, /, **request: Any) -> dict[str, Any]:
        """Send one command and wait for its reply: the result, or `{"error": …}`."""
        self._ids += 1
        number = self._ids
        self.send({"id": number, method: request})
        await wait_until(lambda: self.reply(number) is not None or self.link.is_closed, what=f"a reply to {method}")
        reply = self.reply(number)
        assert reply is not None, f"closed with {self.link.closed_with}"
        return reply if "error" in reply else reply[method]

    # What came.

    @property
    def all(self) -> list[dict[str, Any]]:
        """Every message that was written, as plain values; a ping is `{}`."""
        found: list[dict[str, Any]] = []
        for message in self.link.sent:
            if message.binary:
                found += [plain(reply) for reply in decode_frame(Reply, message.data, depth=64)]
            else:
                found += [msgspec.json.decode(line) for line in message.data.split(b"\n")]
        return found

    def reply(self, number: int) -> dict[str, Any] | None:
        """Return the reply to a command, without its id."""
        for message in self.all:
            if message.get("id") == number:
                return {name: value for name, value in message.items() if name != "id"}
        return None

    def pushes(self, kind: str = "", channel: str = "") -> list[dict[str, Any]]:
        """Return what was pushed, of one kind or one channel."""
        found = [message["push"] for message in self.all if "push" in message]
        return [push for push in found if (not kind or kind in push) and (not channel or push["channel"] == channel)]

    async def wait_pushes(self, kind: str, count: int = 1, channel: str = "") -> list[dict[str, Any]]:
        await wait_until(lambda: len(self.pushes(kind, channel)) >= count, what=f"{count} pushes of {kind}")
        return self.pushes(kind, channel)

    def data(self, channel: str = "") -> list[Any]:
        """Return the data of all publications that were pushed."""
        return [push["pub"].get("data") for push in self.pushes("pub", channel)]

    async def wait_gone(self) -> None:
        """Wait until the node has done all that its going asks for."""
        membership = self.node.memberships
        await wait_until(lambda: not membership._leaving, what="every leave is taken")

    async def wait_closed(self, code: int) -> str:
        """Wait for the end, which must have this code; returns its reason."""
        await wait_until(lambda: self.link.closed_with is not None or self.link.is_closed, what="the end")
        assert self.link.closed_with is not None
        assert self.link.closed_with[0] == code, self.link.closed_with
        return self.link.closed_with[1]


def plain(value: Reply | Push) -> dict[str, Any]:
    """Return a message as plain values, payloads as what they mean in JSON."""
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return found


async def begin(
    node: Node,
    authority: Authority | None = None,
    *,
    protocol: CentrifugeProtocol = JSON,
    identity: Identity | None = None,
    **options: Any,
) -> Client:
    """Return a client that has not said anything."""
    client = Client(node, authority or WordAuthority(), protocol, identity=identity, **options)
    await client.attach()
    return client


async def connect(
    node: Node, token: str = "", *, channel: str = "", protocol: CentrifugeProtocol = JSON, **options: Any
) -> Client:
    """Return a client that is connected, and follows a channel."""
    client = await begin(node, protocol=protocol, **options)
    reply = await client.ask("connect", token=token)
    assert "error" not in reply, reply
    if channel:
        reply = await client.ask("subscribe", channel=channel)
        assert "error" not in reply, reply
    return client


def names(pushes: Sequence[dict[str, Any]]) -> list[str]:
    """Return the kinds of pushes, in their order."""
    return [next(name for name in push if name != "channel") for push in pushes]
