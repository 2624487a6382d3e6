"""The clients of a test: the messages that each sends and gets, and the expectations of the test."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import BaseModel

from tidewire.errors import Disconnect, TidewireError
from tidewire.testing.dialing import Opening, with_params
from tidewire.testing.journal import shown
from tidewire.testing.matching import MISSING, decoded, described, hint, match, unexpected
from tidewire.testing.stage import Stage
from tidewire.testing.wire_client import HandshakeRefused, WireClient

__all__ = ("Player", "Received", "SocketClient")

#: Short sleeps of a patient test: about one second, and more on a busy machine.
_NAPS, _STUCK_NAPS, _NAP_SECONDS = 100, 10, 0.01
#: The verbs of a subscriber that a client of an endpoint has not, with the way to the same end.
_OF_SUBSCRIBERS = {
    "expect_join": "expect what `subscribe(join=…)` publishes, or use rt.subscriber",
    "expect_leave": "expect what `subscribe(leave=…)` publishes, or use rt.subscriber",
    "publish": "`send` it what a browser sends, or use rt.publish(channel, data) or rt.subscriber",
    "rpc": "`send` and `expect`, or use rt.subscriber",
    "history": "use rt.subscriber",
    "presence": "use rt.subscriber",
    "unsubscribe": "use rt.subscriber",
}
_NOT_YET = Disconnect(1006, "it was never connected")


class Received(msgspec.Struct, frozen=True):
    """A message that a client got: as it was sent, as JSON, in which channel, and whether a recovery brought it."""

    raw: str | bytes
    value: Any
    channel: str = ""
    recovered: bool = False


class Player:
    """One client of a test; made by `rt.connect` and `rt.subscriber`."""

    #: Added to a failure where no message can come by a recovery.
    _without_recovery = ""

    def __init__(self, world: Stage, opening: Opening) -> None:
        self._world = world
        self._opening = opening
        self._name = opening.name
        self._wire: WireClient | None = None
        self._unread = 0
        #: All messages that it got, in their order.
        self.received: list[Received] = []
        #: Why the connection ended; None while it is open.
        self.disconnect: Disconnect | None = _NOT_YET

    @property
    def name(self) -> str:
        """The name of this client in the printed history."""
        return self._name

    @property
    def user(self) -> str:
        """The user that the test gave it, "" for nobody."""
        return self._opening.user

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the server has chosen."""
        return None if self._wire is None else self._wire.subprotocol

    # Expectations of a test.

    async def expect(
        self, expected: Any = ..., *, recovered: bool | None = None, channel: str = "", within: float = 1.0
    ) -> Any:
        """Wait for a message, and return it: a value that JSON has, a text, bytes, or a model.

        It is looked for among the messages after the last one that was expected. `expected` may be a value, in which
        `...` stands for anything; a pydantic model or its class; a function of the value. `recovered` tells whether a
        recovery must have brought it. Raises AssertionError with all events after about `within` seconds, and the
        exception of a handler immediately.
        """
        __tracebackhide__ = True  # pytest shows the test instead
        for _ in range(_STUCK_NAPS if self._world.is_stuck else round(within / _NAP_SECONDS)):
            found = self._find(expected, recovered, channel)
            if found is MISSING and self.disconnect is None:
                await self._world.settle_briefly()
                found = self._find(expected, recovered, channel)
            if found is not MISSING:
                return found
            self._world.raise_errors()
            if self.disconnect is not None:
                break
            await asyncio.sleep(_NAP_SECONDS)
        wanted = described(expected) + ("" if recovered is None else f", recovered={recovered}")
        failure = self._failure(f"did not get {wanted}")
        if recovered is not None and self._find(expected, None, channel) is not MISSING:
            failure += f"\n  it came with recovered={not recovered}{self._without_recovery}"
        else:
            failure += self._hinted(expected, channel)
            if recovered is not None and self._without_recovery:
                failure += _line(self._without_recovery.removeprefix(". "))
        raise AssertionError(failure)

    async def expect_nothing(self) -> None:
        """Wait until everything has been handled, and raise AssertionError for any message that was not expected."""
        __tracebackhide__ = True
        await self._world.settle()
        self._world.raise_errors()
        unread = self.received[self._unread :]
        if unread:
            values = ", ".join(shown(message.value) for message in unread)
            advice = unexpected(message.value for message in unread)
            raise AssertionError(self._failure(f"was to get nothing, and got {values}") + _line(advice))

    async def expect_closed(self, code: int | None = None) -> Disconnect:
        """Wait for the end of the connection, and return it; raises AssertionError for another code, or without one."""
        __tracebackhide__ = True
        for _ in range(_NAPS):
            await self._world.settle_briefly()
            if self.disconnect is not None:
                break
            await asyncio.sleep(_NAP_SECONDS)
        if self.disconnect is None:
            raise AssertionError(self._failure("is still connected"))
        if code is not None and self.disconnect.code != code:
            raise AssertionError(self._failure(f"was closed with another code than {code}"))
        return self.disconnect

    def _find(self, expected: Any, recovered: bool | None, channel: str) -> Any:
        for place in range(self._unread, len(self.received)):
            message = self.received[place]
            if channel and message.channel != channel:
                continue
            if recovered is not None and message.recovered is not recovered:
                continue
            found = match(expected, message.raw, message.value)
            if found is not MISSING:
                self._unread = place + 1
                return found
        return MISSING

    def _hinted(self, expected: Any, channel: str) -> str:
        """Return a line of advice for a message that nearly came, or that came before the last expected one."""
        fitting = [message for message in self.received if not channel or message.channel == channel]
        if any(match(expected, message.raw, message.value) is not MISSING for message in fitting):
            return _line("it came before a message that was expected already: `expect` goes on behind that one")
        return _line(hint(expected, [message.value for message in fitting]))

    def _failure(self, what: str) -> str:
        ended = "" if self.disconnect is None else f"; its connection ended with {_code(self.disconnect)}"
        expected = self.received[: self._unread]
        seen = f"\n  (messages that came before and were expected: {len(expected)})" if expected else ""
        running = "".join(f"\n    {one}" for one in self._world.unfinished())
        working = f"\n  still at work:{running}" if running else ""
        return f"{self.name} {what}{ended}\n{self._world.journal.report(self.name)}{seen}{working}"

    # The connection.

    async def open(self) -> None:
        """Connect; raises HandshakeRefused."""
        try:
            self._wire = await self._world.dial(self._opening, self._message, self._closed, self._found)
        except HandshakeRefused:
            await self._world.settle_briefly()
            self._world.raise_errors()
            raise
        self.disconnect = None

    def _found(self, user: str) -> None:
        """Take the user that the endpoint has found as the name."""
        if self._opening.is_nameless and self._name == self._opening.name:
            self._name = self._world.journal.rename(self._name, f"user {user}" if user.isdecimal() else user)

    def _message(self, message: str | bytes) -> None:
        self._take(Received(message, decoded(message)))

    def _take(self, received: Received) -> None:
        self.received.append(received)
        where = f"{received.channel}: " if received.channel else ""
        self._world.journal.add(
            "came", self.name, f"{where}{shown(received.value)}{'  (recovered)' if received.recovered else ''}"
        )

    def _closed(self, disconnect: Disconnect) -> None:
        self.disconnect = disconnect
        self._world.journal.add("came", self.name, f"the end: {_code(disconnect)}")

    @property
    def _open_wire(self) -> WireClient:
        if self._wire is None or self.disconnect is not None:
            ended = "" if self.disconnect is None else f" ({_code(self.disconnect)})"
            raise TidewireError(f"{self.name} is not connected{ended}; {self.name}.back() connects it again")
        return self._wire

    def cut(self) -> None:
        """Cut the connection without a close, as when the network fails; `back` connects it again."""
        if self.disconnect is None and self._wire is not None:
            self._wire.abort()
            self._closed(Disconnect(1006, "cut by the test"))

    def freeze(self) -> None:
        """Take nothing and answer no ping, like a phone in a tunnel; `thaw` lets it go on."""
        self._open_wire.freeze()

    def thaw(self) -> None:
        """Take the messages that have come meanwhile, and further ones."""
        self._open_wire.thaw()

    async def back(self) -> None:
        """Connect again, as the same user."""
        if self.disconnect is None:
            self.cut()
        await self._world.settle_briefly()
        await self.open()
        await self._world.settle()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection, as a client does that leaves."""
        if self.disconnect is None:
            self._open_wire.close(code, reason)
            await self._world.settle()


class SocketClient(Player):
    """A client of one of the application's own WebSocket endpoints."""

    _without_recovery = (
        ". rt.connect speaks your endpoint's own messages, and the kit cannot know which of them a recovery brought: "
        "leave recovered= out, or subscribe by rt.subscriber"
    )

    if not TYPE_CHECKING:  # a checker knows what there is

        def __getattr__(self, name: str) -> Any:
            if name in _OF_SUBSCRIBERS:
                raise AttributeError(
                    f"rt.connect speaks your endpoint's own messages, and has no {name}; {_OF_SUBSCRIBERS[name]}"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    async def back(self, *, params: Mapping[str, Any] | None = None) -> None:
        """Connect again, as the same user; with `params` in the query, as a client that knows its position sends it."""
        path = with_params(self._opening.path, params)
        self._opening = msgspec.structs.replace(self._opening, path=path)
        await super().back()

    async def send(self, message: Any) -> None:
        """Send a message, and wait until it was handled: str as text, bytes as binary, anything else as JSON."""
        if isinstance(message, BaseModel):
            message = message.model_dump_json()
        elif not isinstance(message, str | bytes):
            message = msgspec.json.encode(message).decode()
        self._world.journal.add("sent", self.name, shown(message))
        self._open_wire.send(message)
        await self._world.settle()


def _line(advice: str) -> str:
    return f"\n  {advice}" if advice else ""


def _code(disconnect: Disconnect) -> str:
    return f"{disconnect.code} {disconnect.reason}".strip()
