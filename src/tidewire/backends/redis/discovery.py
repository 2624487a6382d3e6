"""Finds the server to connect to: the one named, the primary that Sentinels name, or the owner of a cluster's slot."""

from __future__ import annotations

import random
from collections.abc import Sequence

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from tidewire.backends.redis.address import Address, Host, Kind
from tidewire.backends.redis.connection import Dial
from tidewire.backends.redis.driver import Command, Reply, connect, explain
from tidewire.errors import ConfigurationError, StoreUnavailable

__all__ = ("SlotRange", "dial_any", "dial_host", "dial_owner", "read_slots")

#: First and last slot, and the server that owns them.
SlotRange = tuple[int, int, Host]


async def _ask(address: Address, command: Command, hosts: Sequence[Host] = ()) -> Reply:
    """Ask the first server that answers, beginning with any."""
    reason = "it does not answer"
    is_sentinel = address.kind is Kind.SENTINEL
    candidates = list(dict.fromkeys((*hosts, *address.hosts)))
    for host in random.sample(candidates, len(candidates)):
        try:
            connection = await connect(address, host, is_sentinel=is_sentinel)
        except StoreUnavailable as error:
            reason = str(error)
            continue
        try:
            await connection.send_packed_command(connection.pack_command(*command), check_health=False)
            reply: Reply = await connection.read_response(disable_decoding=True)
        except (RedisError, OSError) as error:
            reason = explain(error)
        else:
            if reply is not None:
                return reply
            raise ConfigurationError(f"{address.shown}: the Sentinels know no such service; write its name in the URL")
        finally:
            await connection.disconnect(nowait=True)
    raise StoreUnavailable(f"{address.shown} cannot be reached: {reason}")


async def _primary(address: Address) -> Host:
    """Return the host of the server that takes writes."""
    if address.kind is not Kind.SENTINEL:
        return address.hosts[0]
    reply = await _ask(address, ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service])
    assert isinstance(reply, list)
    return reply[0].decode(), int(reply[1])


async def read_slots(address: Address, hosts: Sequence[Host] = ()) -> list[SlotRange]:
    """Return a cluster's slots, as the first server that answers knows them; `hosts` are tried too."""
    reply = await _ask(address, ["CLUSTER", "SLOTS"], hosts)
    assert isinstance(reply, list)
    found: list[SlotRange] = []
    for first, last, owner, *_ in reply:
        found.append((first, last, ((owner[0] or b"").decode() or address.hosts[0][0], owner[1])))
    return found


def dial_host(address: Address, host: Host) -> Dial:
    """Return a function that connects to one server."""

    async def dial() -> AbstractConnection:
        return await connect(address, host)

    return dial


def dial_any(address: Address) -> Dial:
    """Return a function that connects to the server that takes writes; in a cluster, to any."""

    async def dial() -> AbstractConnection:
        if address.kind is not Kind.CLUSTER:
            return await connect(address, await _primary(address))
        owners = list({host for _, _, host in await read_slots(address)})
        return await connect(address, random.choice(owners or address.hosts))

    return dial


def dial_owner(address: Address, slot: int) -> Dial:
    """Return a function that connects to the server that owns a slot."""
    if address.kind is not Kind.CLUSTER:
        return dial_any(address)

    async def dial() -> AbstractConnection:
        for first, last, host in await read_slots(address):
            if first <= slot <= last:
                return await connect(address, host)
        raise StoreUnavailable(f"{address.shown}: no server has slot {slot}")

    return dial
