"""Servers of a cluster that do not answer, or are somebody else's by now, hide nothing of those that do."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable

import pytest

from tidewire.backends.redis.address import Host, parse_address
from tidewire.backends.redis.discovery import ClusterHosts
from tidewire.errors import ConfigurationError

Answer = Callable[[bytes], bytes]


@contextlib.asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[Host]:
    """Run a server that gives each command the answer of a function."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while head := await reader.readline():
                command = b""
                for _ in range(int(head[1:])):
                    size = int((await reader.readline())[1:])
                    command += (await reader.readexactly(size + 2))[:-2] + b" "
                writer.write(answer(command))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield "127.0.0.1", server.sockets[0].getsockname()[1]


def owner_of_half(host: list[Host], last: int = 8191) -> Answer:
    """Return the answers of a server that knows the owner of half of the slots alone."""

    def answer(command: bytes) -> bytes:
        if b"SLOTS" not in command:
            return b"+OK\r\n"
        name, port = host[0]
        return f"*1\r\n*3\r\n:0\r\n:{last}\r\n*2\r\n${len(name)}\r\n{name}\r\n:{port}\r\n".encode()

    return answer


def owner_of_all(host: list[Host]) -> Answer:
    return owner_of_half(host, 16383)


def silent(_: bytes) -> bytes:
    return b""


def refusing(_: bytes) -> bytes:
    return b"-NOAUTH Authentication required.\r\n"


@pytest.mark.parametrize("order", [1, -1], ids=["it is asked first", "it is asked last"])
def test_a_silent_server_does_not_hide_what_another_one_knows(monkeypatch: pytest.MonkeyPatch, order: int) -> None:
    async def scenario() -> None:
        owner: list[Host] = []
        async with answering(owner_of_half(owner)) as alive, answering(silent) as dead:
            owner.append(alive)
            monkeypatch.setattr(random, "shuffle", lambda hosts: hosts.sort(key=lambda host: order * (host == alive)))
            address = parse_address("redis+cluster://" + ",".join(f"{name}:{port}" for name, port in (alive, dead)))
            async with asyncio.timeout(10):
                assert await ClusterHosts().read_slots(address) == [(0, 8191, alive)]

    asyncio.run(scenario())


def test_a_silent_server_takes_no_time_from_those_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second after the first answer was for one after the other, and the silent one used it up."""

    async def scenario() -> None:
        others: list[list[Host]] = [[], []]
        async with (
            answering(owner_of_half(others[0])) as first,
            answering(silent) as dead,
            answering(owner_of_all(others[1])) as good,
        ):
            others[0].append(first)
            others[1].append(good)
            monkeypatch.setattr(random, "shuffle", lambda hosts: hosts.sort(key=[first, dead, good].index))
            address = parse_address("redis+cluster://" + ",".join(f"{n}:{port}" for n, port in (first, dead, good)))
            async with asyncio.timeout(10):
                assert await ClusterHosts().read_slots(address) == [(0, 16383, good)]

    asyncio.run(scenario())


def test_a_server_that_has_the_address_of_an_earlier_one_does_not_end_the_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        owner: list[Host] = []
        async with answering(owner_of_half(owner)) as alive, answering(refusing) as taken:
            monkeypatch.setattr(random, "shuffle", lambda hosts: hosts.sort(key=lambda host: host == alive))
            address = parse_address(f"redis+cluster://127.0.0.1:{alive[1]}")
            cluster = ClusterHosts()
            owner.append(taken)
            await cluster.read_slots(address)  # it is remembered
            owner[0] = alive
            assert await cluster.read_slots(address) == [(0, 8191, alive)]
            named = parse_address(f"redis+cluster://127.0.0.1:{alive[1]},127.0.0.1:{taken[1]}")
            with pytest.raises(ConfigurationError, match="refuses the login"):
                await ClusterHosts().read_slots(named)

    asyncio.run(scenario())
