"""A client of a test that subscribes to channels, as the browser's client does: with recovery, publishing and calls."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from tidewire.errors import Disconnect, TidewireError
from tidewire.protocols.centrifuge.codes import UNKNOWN_CHANNEL
from tidewire.protocols.payload import encode_json
from tidewire.testing.dialing import Opening
from tidewire.testing.journal import shown
from tidewire.testing.players import Player, Received
from tidewire.testing.stage import Stage

__all__ = ("CommandRefused", "Subscriber")

_NAP_SECONDS = 0.01


class CommandRefused(TidewireError):
    """Raised when the server refuses a command of a subscriber, with the protocol's `number` and its text."""

    def __init__(self, what: str, number: int, text: str) -> None:
        super().__init__(f"{what} was refused: {number} {text}")
        self.number = number
        self.text = text


class Subscriber(Player):
    """A client that subscribes to one channel or more; `back` recovers missed publications."""

    def __init__(self, world: Stage, opening: Opening, channels: tuple[str, ...], *, history: bool) -> None:
        super().__init__(world, opening)
        self.channels = channels
        #: For each channel, whether the last `back` recovered all missed publications; None before.
        self.recovered: dict[str, bool | None] = dict.fromkeys(channels)
        #: The data that rules gave each subscription (`Permissions.data`).
        self.data: dict[str, Any] = {}
        self._positions: dict[str, tuple[int, str]] = {}
        self._history = history
        self._numbers = itertools.count(1)
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._joins: list[tuple[str, str, str]] = []
        #: Publications that were pushed while the history was read: they come after the history, and not twice.
        self._held: list[tuple[str, dict[str, Any]]] | None = None

    async def open(self) -> None:
        """Connect and subscribe; raises CommandRefused where a rule does not allow it."""
        await super().open()
        await self._ask("the connect", "connect", {})
        for channel in self.channels:
            if self._history and channel not in self._positions:
                await self._subscribe_behind_history(channel)
            else:
                await self._subscribe(channel)

    async def _subscribe_behind_history(self, channel: str) -> None:
        self._held = []
        try:
            await self._subscribe(channel)
            last, _ = self._positions[channel]
            for publication in (await self._ask("history", "history", {"channel": channel, "limit": -1}))[
                "publications"
            ]:
                if publication.get("offset", 0) <= last:
                    self._publication(channel, publication)
        finally:
            held, self._held = self._held, None
            for name, pushed in held:
                self._publication(name, pushed)

    async def _subscribe(self, channel: str) -> None:
        asked: dict[str, Any] = {"channel": channel, "recoverable": True, "positioned": True, "join_leave": True}
        known = self._positions.get(channel)
        if known is not None:
            asked |= {"recover": True, "offset": known[0], "epoch": known[1]}
        reply = await self._ask(f"subscribing to {channel!r}", "subscribe", asked)
        publications = reply.get("publications", [])
        self.recovered[channel] = bool(reply.get("recovered")) if known is not None else None
        self.data[channel] = reply.get("data")
        self._positions[channel] = reply.get("offset", 0), reply.get("epoch", "")
        for publication in publications:
            self._publication(channel, publication, recovered=bool(reply.get("recovered")))

    if not TYPE_CHECKING:  # a checker knows what there is

        def __getattr__(self, name: str) -> Any:
            advice = "; write publish(data), or rpc(name, data)" if name == "send" else ""
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{advice}")

    # Verbs.

    async def publish(self, data: Any, *, channel: str = "", within: float = 1.0) -> None:
        """Publish as this client does, if a rule allows it; raises CommandRefused.

        It raises AssertionError if the application does not answer within about `within` seconds.
        """
        channel = channel or self.channels[0]
        self._world.journal.add("sent", self.name, f"publish in {channel}: {shown(_plain(data))}")
        await self._ask(f"publishing in {channel!r}", "publish", {"channel": channel, "data": _plain(data)}, within)
        await self._world.settle()

    async def rpc(self, method: str, data: Any = None, *, within: float = 1.0) -> Any:
        """Call the application, and return its answer; raises CommandRefused.

        It raises AssertionError if the application does not answer within about `within` seconds.
        """
        self._world.journal.add("sent", self.name, f"call {method}: {shown(_plain(data))}")
        reply = await self._ask(f"the call {method!r}", "rpc", {"method": method, "data": _plain(data)}, within)
        await self._world.settle()
        return reply.get("data")

    async def history(self, *, channel: str = "", limit: int = -1) -> list[Any]:
        """Return the values that the channel's history shows, oldest first; raises CommandRefused."""
        asked = {"channel": channel or self.channels[0], "limit": limit}
        reply = await self._ask("history", "history", asked)
        return [publication.get("data") for publication in reply.get("publications", [])]

    async def presence(self, *, channel: str = "") -> list[str]:
        """Return the users in the channel, each once and sorted; raises CommandRefused."""
        reply = await self._ask("presence", "presence", {"channel": channel or self.channels[0]})
        return sorted({client.get("user", "") for client in reply.get("presence", {}).values()})

    async def unsubscribe(self, channel: str = "") -> None:
        """Unsubscribe from a channel, for good."""
        channel = channel or self.channels[0]
        await self._ask("unsubscribing", "unsubscribe", {"channel": channel})
        self.channels = tuple(name for name in self.channels if name != channel)
        self._positions.pop(channel, None)

    async def expect_join(self, user: str) -> None:
        """Wait until a user has joined; raises AssertionError after about a second."""
        await self._expect_event("join", user)

    async def expect_leave(self, user: str) -> None:
        """Wait until a user has left; raises AssertionError after about a second."""
        await self._expect_event("leave", user)

    async def _expect_event(self, kind: str, user: str) -> None:
        for _ in range(100):
            await self._world.settle_briefly()
            found = next((event for event in self._joins if event[0] == kind and event[2] == user), None)
            if found is not None:
                self._joins.remove(found)
                return
            await asyncio.sleep(0.01)
        raise AssertionError(self._failure(f"did not see a {kind} of {user!r}"))

    # The protocol.

    async def _ask(self, what: str, method: str, request: dict[str, Any], within: float = 5.0) -> dict[str, Any]:
        number = next(self._numbers)
        future = self._replies[number] = asyncio.get_running_loop().create_future()
        self._open_wire.send(encode_json({"id": number, method: request}).decode())
        reply = await self._patiently(future, what, within)
        if "error" in reply:
            self._world.raise_errors()
            is_unknown = method == "subscribe" and reply["error"]["code"] == UNKNOWN_CHANNEL.code
            advice = "; no pattern of `@hub.channel(…)` fits it" if is_unknown else ""
            raise CommandRefused(what, reply["error"]["code"], self._because(reply["error"]["message"] + advice))
        return dict(reply.get(method, {}))

    async def _patiently(self, future: asyncio.Future[Any], what: str, within: float) -> Any:
        __tracebackhide__ = True  # pytest shows the test instead
        for _ in range(round(within / _NAP_SECONDS)):
            if not future.done():
                await self._world.settle_briefly()
            if future.done():
                return future.result()
            self._world.raise_errors()
            if self.disconnect is not None:
                raise CommandRefused(what, self.disconnect.code, self._because(self.disconnect.reason))
            await asyncio.sleep(_NAP_SECONDS)
        raise AssertionError(self._failure(f"got no answer to {what}"))

    def _because(self, text: str) -> str:
        return f"{text}\n{self._world.journal.report(self.name)}"

    def _message(self, message: str | bytes) -> None:
        for line in (message if isinstance(message, str) else message.decode()).split("\n"):
            reply = json.loads(line)
            if not reply:
                self._open_wire.send("{}")  # the server pings
            elif "id" in reply:
                future = self._replies.pop(reply["id"], None)
                if future is not None and not future.done():
                    future.set_result(reply)
            elif "push" in reply:
                self._push(reply["push"])

    def _push(self, push: dict[str, Any]) -> None:
        channel = push.get("channel", "")
        if "pub" in push and self._held is not None:
            self._held.append((channel, push["pub"]))
        elif "pub" in push:
            self._publication(channel, push["pub"])
        for kind in ("join", "leave"):
            if kind in push:
                user = push[kind]["info"].get("user", "")
                self._joins.append((kind, channel, user))
                self._world.journal.add("came", self.name, f"{channel}: {kind} of {user!r}")
        if "unsubscribe" in push:
            reason = push["unsubscribe"].get("reason", "")
            self._world.journal.add("came", self.name, f"{channel}: the end of the subscription ({reason})")
        if "disconnect" in push:
            self._world.journal.add("came", self.name, f"disconnect: {push['disconnect']}")

    def _publication(self, channel: str, publication: dict[str, Any], *, recovered: bool = False) -> None:
        value = publication.get("data")
        offset = publication.get("offset", 0)
        known = self._positions.get(channel)
        if offset and known is not None:
            self._positions[channel] = max(known[0], offset), known[1]
        raw = value if isinstance(value, str) else json.dumps(value)
        self._take(Received(raw, value, channel or self.channels[0], recovered))

    def _closed(self, disconnect: Disconnect) -> None:
        super()._closed(disconnect)
        self._replies.clear()


def _plain(data: Any) -> Any:
    return data.model_dump(mode="json") if isinstance(data, BaseModel) else data
