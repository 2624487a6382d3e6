"""Presence on Redis: leases by the server's time, every step one script."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence

from redis.exceptions import ResponseError

from tidewire.backends.base import JoinResult, Presence
from tidewire.backends.redis.address import Address
from tidewire.backends.redis.discovery import dial_owner
from tidewire.backends.redis.driver import Command, Reply
from tidewire.backends.redis.keys import Keys, slot_of
from tidewire.backends.redis.opening import load
from tidewire.backends.redis.requests import Requests
from tidewire.backends.redis.scripts import script
from tidewire.backends.shared.outage import Outage
from tidewire.errors import StoreUnavailable
from tidewire.messages import Announcement, Departure, Format, Member

__all__ = ("RedisPresence",)

logger = logging.getLogger("tidewire")

SCRIPTS = {
    name: script(name, "members")
    for name in ("enroll", "touch", "join", "leave", "aside", "list", "count", "claim", "forget", "close", "begin_anew")
}
#: Members that one claim looks at, so that it does not hold up the server.
_LOOKS = 500
#: The server's words for a key that no longer has the type that the scripts gave it.
_REPLACED = ("WRONGTYPE", "not an integer", "not a valid float")


class RedisPresence(Presence):
    """The members of channels, on all nodes of one Redis.

    A node is dead when it has not touched its lease for `lease` seconds of the server's time; its members are claimable
    at once then. In a cluster all of presence is in one slot, because a step concerns nodes and channels at once.
    """

    def __init__(
        self, address: Address, patience: float = 2.0, *, lease: float = 8.0, outage: Outage | None = None
    ) -> None:
        self._shown = address.shown
        self._prefix = Keys(address).presence
        self._lease = int(lease * 1e3)
        self._node = ""
        #: The name under which this node has its lease; "": it has none.
        self._name = ""
        self._is_lost = False
        #: How far the look at this node's own members has come.
        self._looked = b"0"
        outage = outage or Outage(address.shown)
        dial = dial_owner(address, slot_of("presence"))
        self._requests = Requests(address.shown, dial, outage, patience, self._begin)

    async def _begin(self, requests: Requests) -> None:
        await load(requests, list(SCRIPTS.values()))

    async def start(self, node: str) -> None:
        self._node = node
        await self._requests.connection.start()
        if not self._name:
            await self._enroll()

    async def aclose(self) -> None:
        name, self._name = self._name, ""
        if name:
            with contextlib.suppress(StoreUnavailable):
                await self._run("close", name)
        await self._requests.connection.aclose()

    async def join(self, channel: str, member: Member, announcement: Announcement | None = None) -> JoinResult:
        said = ("", "") if announcement is None else (int(announcement.format), announcement.data)
        values = (channel, member.connection, member.user, member.info, *said)
        reply = await self._run("join", self._name, *values)
        if reply is None:
            await self._reenroll(self._name)
            reply = await self._run("join", self._name, *values)
        if not isinstance(reply, list):
            raise StoreUnavailable(f"{self._shown} has forgotten the lease of this node; its members join again")
        others, connections = reply
        return JoinResult(first=others == 0, connections=connections)

    async def leave(self, channel: str, connection: str) -> bool:
        return await self._run("leave", channel, connection) == 1

    async def set_aside(self, channel: str, connection: str) -> None:
        await self._run("aside", self._name, channel, connection, self._lease)

    async def touch(self) -> bool:
        name = self._name
        looked = await self._run("touch", name, self._lease, self._looked)
        if not isinstance(looked, bytes):
            await self._reenroll(name)
        self._looked = looked if isinstance(looked, bytes) else b"0"
        is_lost, self._is_lost = self._is_lost, False
        return not is_lost

    async def members(self, channel: str) -> list[Member]:
        reply = await self._run("list", channel)
        assert isinstance(reply, list)
        found = zip(reply[::3], reply[1::3], reply[2::3], strict=True)
        return [Member(connection.decode(), user.decode(), info) for connection, user, info in found]

    async def count(self, channel: str, user: str | None = None) -> int:
        reply = await self._run("count", channel) if user is None else await self._run("count", channel, user)
        assert isinstance(reply, int)
        return reply

    async def claim(self, limit: int = 256) -> Sequence[Departure]:
        reply = await self._run("claim", self._lease, limit, _LOOKS)
        assert isinstance(reply, list)
        found = []
        for at in range(0, len(reply), 5):
            token, channel, user, format, data = reply[at : at + 5]
            announcement = Announcement(data, Format(int(format))) if format else None
            found.append(Departure(channel.decode(), user.decode(), token.decode(), announcement))
        return found

    async def forget(self, departures: Sequence[Departure]) -> None:
        if departures:
            await self._run("forget", *(departure.token for departure in departures))

    async def _enroll(self) -> None:
        reply = await self._run("enroll", self._node, self._lease)
        assert isinstance(reply, bytes)
        self._name = reply.decode()

    async def _reenroll(self, lost: str) -> None:
        """Take a new lease, unless another call has done it meanwhile; the members of the old one are lost."""
        if self._name == lost:
            await self._enroll()
            self._is_lost = True

    async def _run(self, name: str, *values: str | bytes | int) -> Reply:
        (reply,) = await self._requests.ask(_command(name, self._prefix, *values))
        if isinstance(reply, ResponseError) and any(word in str(reply) for word in _REPLACED):
            logger.error("%s: another program has replaced keys of presence; its members join again", self._shown)
            _, reply = await self._requests.ask(
                _command("begin_anew", self._prefix), _command(name, self._prefix, *values)
            )
        return self._requests.result([reply])


def _command(name: str, prefix: str, *values: str | bytes | int) -> Command:
    return ["EVALSHA", SCRIPTS[name].sha, 1, prefix, *values]
