"""Finds the server to connect to: the one named, the primary that Sentinels name, or the owner of a cluster's slot."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from tidewire.backends.redis.address import Address, Host, Kind
from tidewire.backends.redis.connection import Dial
from tidewire.backends.redis.driver import Command, Reply, connect, explain
from tidewire.backends.redis.keys import SLOTS
from tidewire.errors import ConfigurationError, StoreUnavailable

__all__ = ("ClusterHosts", "SlotRange", "dial_any", "dial_host", "dial_owner")

#: First and last slot, and the server that owns them.
SlotRange = tuple[int, int, Host]
#: Seconds after which the next server is asked. As long as none has answered, the last one has the time of its caller;
#: then all that are left are asked at once, and have so long together.
_ANSWER = 1.0


async def _ask_one(address: Address, command: Command, host: Host) -> Reply:
    connection = await connect(address, host, is_sentinel=address.kind is Kind.SENTINEL)
    try:
        await connection.send_packed_command(connection.pack_command(*command), check_health=False)
        reply: Reply = await connection.read_response(disable_decoding=True)
        return reply
    except (RedisError, OSError) as error:
        raise StoreUnavailable(explain(error)) from None
    finally:
        await connection.disconnect(nowait=True)


async def _ask(address: Address, command: Command, is_enough: Callable[[Reply], bool], hosts: Sequence[Host]) -> None:
    """Ask servers, in any order, until an answer is enough; raises StoreUnavailable if there is no answer at all."""
    reason = "it does not answer"
    candidates = list(dict.fromkeys((*hosts, *address.hosts)))
    random.shuffle(candidates)
    for number, host in enumerate(candidates, 1):
        try:
            async with asyncio.timeout(_ANSWER if number < len(candidates) else None):
                reply = await _ask_one(address, command, host)
        except TimeoutError:
            continue
        except StoreUnavailable as error:
            reason = str(error)
            continue
        except ConfigurationError as error:
            if host in address.hosts:
                raise
            reason = str(error)  # somebody else has the address of a server that was there before
            continue
        if not is_enough(reply):
            await _ask_at_once(address, command, is_enough, candidates[number:])
        return
    raise StoreUnavailable(f"{address.shown} cannot be reached: {reason}")


async def _ask_at_once(
    address: Address, command: Command, is_enough: Callable[[Reply], bool], hosts: Sequence[Host]
) -> None:
    """Ask all of some servers, until an answer is enough: one that is silent takes no time from the others."""
    refusals: list[ConfigurationError] = []

    async def ask(host: Host) -> bool:
        try:
            return is_enough(await _ask_one(address, command, host))
        except ConfigurationError as error:
            if host in address.hosts:
                refusals.append(error)
        except (StoreUnavailable, TimeoutError):
            pass
        return False

    tasks = [asyncio.create_task(ask(host)) for host in hosts]
    try:
        with contextlib.suppress(TimeoutError):
            for answer in asyncio.as_completed(tasks, timeout=_ANSWER):
                if await answer:
                    return
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if refusals:
        raise refusals[0]


async def _primary(address: Address) -> Host:
    """Return the host of the server that takes writes."""
    if address.kind is not Kind.SENTINEL:
        return address.hosts[0]
    found: list[Host] = []

    def take(reply: Reply) -> bool:
        if isinstance(reply, list):
            found.append((reply[0].decode(), int(reply[1])))
        return bool(found)

    await _ask(address, ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service], take, ())
    if not found:
        raise ConfigurationError(f"{address.shown}: the Sentinels know no such service; write its name in the URL")
    return found[0]


class ClusterHosts:
    """Remembers the servers that a cluster has named: those of the URL may all have been replaced."""

    def __init__(self) -> None:
        self._hosts: tuple[Host, ...] = ()

    async def read_slots(self, address: Address) -> list[SlotRange]:
        """Return the slots as somebody says who knows all of them, or as many as anybody knows.

        A server that was taken out of the cluster answers, too, and knows none.
        """
        found: list[SlotRange] = []

        def take(reply: Reply) -> bool:
            nonlocal found
            ranges, hosts = _read(address, reply)
            if _count(ranges) > _count(found):
                found, self._hosts = ranges, hosts
            return _count(found) == SLOTS

        await _ask(address, ["CLUSTER", "SLOTS"], take, self._hosts)
        return found


def _read(address: Address, reply: Reply) -> tuple[list[SlotRange], tuple[Host, ...]]:
    """Return the slots, and all servers, replicas too."""
    assert isinstance(reply, list)
    ranges: list[SlotRange] = []
    hosts: dict[Host, None] = {}
    for first, last, *servers in reply:
        named = [((host or b"").decode() or address.hosts[0][0], port) for host, port, *_ in servers]
        hosts.update(dict.fromkeys(named))
        ranges.append((first, last, named[0]))
    return ranges, tuple(hosts)


def _count(ranges: Sequence[SlotRange]) -> int:
    return sum(last - first + 1 for first, last, _ in ranges)


def dial_host(address: Address, host: Host) -> Dial:
    """Return a function that connects to one server."""

    async def dial() -> AbstractConnection:
        return await connect(address, host)

    return dial


def dial_any(address: Address) -> Dial:
    """Return a function that connects to the server that takes writes; in a cluster, to any that has slots."""
    cluster = ClusterHosts()

    async def dial() -> AbstractConnection:
        if address.kind is not Kind.CLUSTER:
            return await connect(address, await _primary(address))
        owners = list({host for _, _, host in await cluster.read_slots(address)})
        return await connect(address, random.choice(owners or address.hosts))

    return dial


def dial_owner(address: Address, slot: int) -> Dial:
    """Return a function that connects to the server that owns a slot."""
    if address.kind is not Kind.CLUSTER:
        return dial_any(address)
    cluster = ClusterHosts()

    async def dial() -> AbstractConnection:
        for first, last, host in await cluster.read_slots(address):
            if first <= slot <= last:
                return await connect(address, host)
        raise StoreUnavailable(f"{address.shown}: no server has slot {slot}")

    return dial
