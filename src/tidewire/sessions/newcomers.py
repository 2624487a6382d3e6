"""Judges clients before they are connections, and users before they have one more: the limits of a node."""

from __future__ import annotations

from tidewire.channels import check_user, personal
from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.engine.registry import Newcomer
from tidewire.engine.subscribing import ended
from tidewire.errors import BadRequest, LimitExceeded, StoreUnavailable
from tidewire.support.counters import count_limit
from tidewire.support.refusals import note_refusal
from tidewire.support.resident_memory import ResidentMemory

__all__ = ("admit", "identify")

_memory = ResidentMemory()


def admit(node: Node, user: str, address: str) -> _Admitted:
    """Judge a newcomer before it is accepted, for `async with`; entering raises LimitExceeded, which names the limit.

    Within the block it counts for the limits, so that many at once do not pass them together. Its connection, if
    the newcomer `becomes` one, counts from then on; `Node.attach` comes next, before anything waits.
    """
    return _Admitted(node, user, address)


class _Admitted:
    """A newcomer for the time of a block. A class of its own, because a generator would cost much more."""

    __slots__ = ("_address", "_newcomer", "_node", "_user")

    _newcomer: Newcomer

    def __init__(self, node: Node, user: str, address: str) -> None:
        self._node = node
        self._user = user
        self._address = address

    async def __aenter__(self) -> Newcomer:
        node, user, address = self._node, self._user, self._address
        registry, limits = node.registry, node.limits
        if 0 < limits.memory_bytes <= _memory.read():
            raise _limit(node, "memory_bytes", user, address, "No memory for more connections")
        if len(registry.connections) + registry.arriving >= limits.connections:
            raise _limit(node, "connections", user, address)
        newcomer = registry.arrive(address, limits.connections_per_address)
        if newcomer is None:
            raise _limit(node, "connections_per_address", user, address)
        self._newcomer = newcomer
        if user:
            try:
                if await _connections_of(node, user) >= limits.connections_per_user:
                    raise _limit(node, "connections_per_user", user, address)
            except BaseException:
                registry.arrived(newcomer)
                raise
        return newcomer

    async def __aexit__(self, *error: object) -> None:
        self._node.registry.arrived(self._newcomer)


async def identify(node: Node, connection: Connection, user: str, info: bytes = b"") -> None:
    """Give a connection its user after it was accepted; raises LimitExceeded, and BadRequest when it has one."""
    user = check_user(user)
    if not user:
        raise BadRequest("the name of a connection's user is empty; give one, or leave the user out")
    if connection.user:
        raise BadRequest(f"this connection belongs to {connection.user!r} already")
    if await _connections_of(node, user) >= node.limits.connections_per_user:
        raise _limit(node, "connections_per_user", user, connection.address)
    if connection.id not in node.registry.connections:
        raise ended(connection)
    await node.identify(connection, user, info)


async def _connections_of(node: Node, user: str) -> int:
    try:
        return await node.presence.count(personal(user), user)
    except StoreUnavailable:
        return len(node.registry.users.get(user, ()))


def _limit(node: Node, name: str, user: str, address: str, what: str = "Too many connections") -> LimitExceeded:
    count_limit(name)
    error = LimitExceeded(f"{what} (the limit {name} is {getattr(node.limits, name)})")
    note_refusal(name, str(error), user=user, address=address)
    return error
