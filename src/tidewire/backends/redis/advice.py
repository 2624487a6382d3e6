"""Advice for the operator of a Redis server, in the log at start and from `tidewire doctor`."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tidewire.backends.redis.address import Address
from tidewire.backends.redis.opening import Server, read_server
from tidewire.backends.redis.requests import Requests

__all__ = ("advise", "describe", "warnings")


def warnings(server: Server, address: Address) -> tuple[str, ...]:
    """Return the settings by which acknowledged publications may be lost, one sentence each."""
    found = []
    if server.appendonly == "no":
        kept = "since its last snapshot" if server.save else "(snapshots are off, too)"
        found.append(
            f"appendonly is no: a restart loses publications {kept}, and subscribers are told so; "
            "set `appendonly yes`, and `appendfsync always` if not even one second may be lost"
        )
    if server.policy not in ("", "noeviction"):  # all keys have a time to live, for volatile-…
        found.append(
            f"maxmemory-policy is {server.policy}: when memory is full it forgets history and idempotency keys; "
            "set `maxmemory-policy noeviction`"
        )
    if address.wait > server.replicas:
        found.append(
            f"wait={address.wait} asks for more replicas than are connected ({server.replicas}): "
            "publishing is not confirmed until there are enough"
        )
    return tuple(found)


async def describe(servers: Sequence[Requests]) -> tuple[str, ...]:
    """Return version, persistence and clock of every server."""
    found = []
    for requests in servers:
        before = time.time()
        reply = await requests.run(["TIME"])
        ours = (before + time.time()) / 2
        ahead = int(reply[0]) + int(reply[1]) / 1e6 - ours if isinstance(reply, list) else 0.0
        server = await read_server(requests)
        found.append(
            f"Redis {server.version}, {server.replicas} replicas, {_persistence(server)}, its clock is "
            f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} ours"
        )
    return tuple(found)


async def advise(servers: Sequence[Requests], address: Address) -> tuple[str, ...]:
    """Return the warnings of every server."""
    found: list[str] = []
    for requests in servers:
        found += warnings(await read_server(requests), address)
    return tuple(dict.fromkeys(found))


def _persistence(server: Server) -> str:
    if server.appendonly == "yes":
        return f"appendonly yes, appendfsync {server.appendfsync}"
    if server.appendonly == "no":
        return f"appendonly no, snapshots {server.save or 'off'}"
    return "persistence not known, because CONFIG GET is not permitted"
