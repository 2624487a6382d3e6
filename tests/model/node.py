"""A real node in a process of its own, told by lines of JSON what to do: `node.py URL`; its links are fakes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from engine.support import OFFSETS
from model.reader import HISTORY
from tidewire.backends import open_backend
from tidewire.channel_options import ChannelOptions
from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.errors import NotPublished, PublishUnconfirmed, StoreUnavailable
from tidewire.limits import Limits
from tidewire.messages import Format, Membership, Position
from tidewire.rules.options_by_name import OptionsByName
from tidewire.testing import FakeLink


class Served:
    """The node, its clients, and what each was shown that nobody has asked for yet."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.clients: dict[str, tuple[Connection, FakeLink]] = {}
        self.told: dict[str, int] = {}

    async def publish(self, channel: str, texts: list[str]) -> list[Any]:
        return list(await asyncio.gather(*(self._publish(channel, text) for text in texts)))

    async def _publish(self, channel: str, text: str) -> list[Any]:
        try:
            position = await self.node.publish(channel, text.encode(), Format.TEXT, key=text)
        except NotPublished:
            return [text, "no"]
        except PublishUnconfirmed:
            return [text, "unknown"]
        return [text, position.offset, position.epoch]

    async def join(self, client: str, since: dict[str, list[Any]], history: int) -> None:
        """Connect a client, and follow channels: each from a position, or from now with some history."""
        connection = await self._connected(client)
        for channel, position in since.items():
            await self._subscribe(connection, channel, Position(*position) if position else None, history)

    async def _connected(self, client: str) -> Connection:
        """Return a connection; while the store is away a client is refused, and comes again."""
        while True:
            link = FakeLink()
            connection = Connection(link, OFFSETS, user=client, address="", limits=self.node.limits)
            try:
                await self.node.attach(connection)
            except StoreUnavailable:
                link.vanish()
                await asyncio.sleep(0.05)
            else:
                self.clients[client] = connection, link
                self.told[client] = 0
                return connection

    async def _subscribe(self, connection: Connection, channel: str, since: Position | None, history: int) -> None:
        while True:
            try:
                await self.node.subscribe(
                    connection, channel, since=since, history=history, membership=Membership(present=True)
                )
            except StoreUnavailable:
                await asyncio.sleep(0.05)
            else:
                return

    async def leave(self, client: str) -> None:
        _, link = self.clients.pop(client)
        link.vanish()

    async def unsubscribe(self, client: str, channel: str) -> None:
        await self.node.unsubscribe(self.clients[client][0], channel)

    async def subscribe(self, client: str, channel: str, since: list[Any] | None, history: int) -> None:
        await self._subscribe(self.clients[client][0], channel, Position(*since) if since else None, history)

    async def shown(self) -> dict[str, list[str]]:
        new: dict[str, list[str]] = {}
        for name, (_, link) in self.clients.items():
            new[name] = [data.decode() for data in link.data[self.told[name] :]]
            self.told[name] += len(new[name])
        return new

    async def trim(self, channel: str) -> None:
        await self.node.broker.remove_history(channel)

    async def members(self, channel: str) -> list[str]:
        return sorted(member.user for member in await self.node.presence.members(channel))

    async def close(self) -> None:
        await self.node.aclose()


async def main(url: str) -> None:
    limits = Limits()
    broker, presence = open_backend(url, limits)
    node = Node(broker, presence, limits=limits, options=OptionsByName(default=ChannelOptions(history_size=HISTORY)))
    await node.start()
    served = Served(node)
    loop = asyncio.get_running_loop()
    print('"ready"', flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        asked = json.loads(line)
        try:
            answer = await getattr(served, asked.pop("do"))(**asked)
        except StoreUnavailable as error:
            answer = {"away": str(error)}
        print(json.dumps(answer), flush=True)
        if not node.is_open:
            return


if __name__ == "__main__":
    exec(os.environ.get("MODEL_BREAK", ""))  # to see that the judge sees it
    asyncio.run(main(sys.argv[1]))
