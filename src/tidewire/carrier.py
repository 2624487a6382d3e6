"""Which channels this node carries: begun with their first follower, dropped when nobody has followed for a while."""

from __future__ import annotations

import asyncio

from tidewire.broker import Broker, Deliver
from tidewire.control import CONTROL
from tidewire.messages import Position
from tidewire.options import ChannelRules
from tidewire.registry import Channel, Registry

__all__ = ("Carrier",)


class Carrier:
    """Begins and ends the carriage of channels, one step of one channel at a time."""

    def __init__(self, registry: Registry, broker: Broker, rules: ChannelRules, deliver: Deliver) -> None:
        self._registry = registry
        self._broker = broker
        self._rules = rules
        self._deliver = deliver
        self._opening: dict[str, asyncio.Future[None]] = {}

    async def carry(self, name: str) -> Channel:
        """Return the channel of this name, which the broker carries from now on; single-flight."""
        while True:
            busy = self._opening.get(name)
            if busy is not None:
                await asyncio.wait([busy])
                continue
            channel = self._registry.channels.get(name)
            if channel is not None:
                return channel
            return await self._open(name)

    async def _open(self, name: str) -> Channel:
        done = self._opening[name] = asyncio.get_running_loop().create_future()
        channel = Channel(name, self._rules.options(name), Position(0, ""))
        channel.catching_up = True
        self._registry.channels[name] = channel
        try:
            channel.position = await self._broker.subscribe(name)
        except BaseException:
            del self._registry.channels[name]
            raise
        finally:
            del self._opening[name]
            done.set_result(None)
        waiting, channel.waiting, channel.catching_up = channel.waiting, [], False
        self._deliver(waiting)
        return channel

    async def drop_idle(self, name: str) -> None:
        """Stop carrying a channel that nobody follows."""
        channel = self._registry.channels.get(name)
        if channel is None or len(channel) or name in self._opening or name == CONTROL:
            return
        done = self._opening[name] = asyncio.get_running_loop().create_future()
        del self._registry.channels[name]
        try:
            await self._broker.unsubscribe(name)
        finally:
            del self._opening[name]
            done.set_result(None)
