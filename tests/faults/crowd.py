"""Clients of a server that come back by themselves, publishers that remember, and the check after every fault."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import httpx

from clients.serving import connection_token
from contract.serving import Server
from helpers.ledger import Ledger, check, received
from tidewire.client import ChatClient, Client, History
from tidewire.client.chat_messages import ChatMessage
from tidewire.errors import PublishUnconfirmed, Unrecoverable
from tidewire.messages import Format, Position
from tidewire.testing import wait_until

__all__ = ("CHANNEL", "KEY", "ROOM", "ApiPublisher", "Census", "Crowd", "Follower", "census")

CHANNEL, ROOM = "fault:a", "faults"
KEY = {"X-API-Key": "key"}


class Follower:
    """A client of the Centrifuge protocol, and what it was shown."""

    def __init__(self, server: Server, user: str, since: Position | None = None) -> None:
        self._url = server.url("/connection/websocket")
        self.user = user
        self.shown: list[str] = []
        self.joined = asyncio.Event()
        self.position = since

    async def follow(self) -> None:
        """Follow the channel until cancelled."""
        async with Client(self._url, token=connection_token(self.user, seconds=None)) as client:
            subscription = client.subscribe(CHANNEL, since=self.position)
            await subscription.wait_subscribed()
            self.joined.set()
            while True:
                try:
                    publication = await anext(subscription)
                except Unrecoverable:
                    self.shown.append(f"i {CHANNEL}")
                    continue
                position = publication.position
                assert position is not None
                self.position = position
                self.shown.append(f"p {CHANNEL} {position.offset} {position.epoch} {publication.data}")

    def has(self, position: Position) -> bool:
        """Say whether it was shown this position, or a later one."""
        mine = self.position
        return mine is not None and mine.epoch == position.epoch and mine.offset >= position.offset


class Chatter:
    """A client of the chat, what it was shown, and a publisher; the chat tells no epochs."""

    def __init__(self, server: Server) -> None:
        self.id, token = server.sign_up()
        self._client = ChatClient(server.url("/ws/auth"), token, room=ROOM)
        self.shown: list[str] = []
        self.joined = asyncio.Event()

    async def follow(self) -> None:
        """Be in the room until cancelled."""
        async with self._client as client:
            async for message in client:
                if isinstance(message, History):
                    if message.recovered is False:
                        self.shown.append(f"i {ROOM}")
                    self.joined.set()
                elif isinstance(message, ChatMessage):
                    self.shown.append(f"p {ROOM} {message.offset}  {message.content}")

    async def publish(self, channel: str, data: bytes, format: Format) -> Position:
        """Say something; it is repeated by the client until it is known to be kept."""
        return Position((await self._client.send(data.decode())).offset, "")


class ApiPublisher:
    """Publishes over the HTTP API; what it was not told to be kept may have been."""

    def __init__(self, server: Server, name: str = "api") -> None:
        self.id = name
        self._http = httpx.AsyncClient(base_url=server.http.base_url, headers=KEY, timeout=4.0)

    async def publish(self, channel: str, data: bytes, format: Format) -> Position:
        """Publish a text as JSON."""
        try:
            answer = await self._http.post("/api/publish", json={"channel": channel, "data": data.decode()})
        except httpx.HTTPError as error:
            raise PublishUnconfirmed(repr(error)) from None
        told = answer.json()
        if "error" in told:
            raise PublishUnconfirmed(f"{answer.status_code} {told['error']}")
        return Position(told["result"]["offset"], told["result"]["epoch"])

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.aclose()


class Census(NamedTuple):
    """What one worker holds."""

    clients: int
    #: Open files and sockets beside those of clients.
    files: int


async def census(server: Server) -> dict[int, Census]:
    """Return what every worker holds, by its process."""

    def ask() -> dict[int, Census]:
        nodes = server.http.post("/api/info", json={}, headers=KEY).json()["result"]["nodes"]
        found = {int(node["name"].rpartition("_")[2]): node.get("num_clients", 0) for node in nodes}
        return {pid: Census(count, open_files(pid) - count) for pid, count in found.items() if _is_there(pid)}

    return await asyncio.to_thread(ask)


def open_files(pid: int) -> int:
    """Return how many files and sockets a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def _is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}/fd").exists()


class Crowd:
    """Followers and chatters of a server; each of two ledgers remembers what was published to one kind."""

    def __init__(self, server: Server, *, followers: int = 10, chatters: int = 3, has_holes: bool = False) -> None:
        self._server = server
        self._has_holes = has_holes
        self.followers = [Follower(server, f"follower {number}") for number in range(followers)]
        self.chatters = [Chatter(server) for _ in range(chatters)]
        self._api = ApiPublisher(server)
        self.api = Ledger(self._api, CHANNEL)
        self.ledgers = [self.api, Ledger(self.chatters[0], ROOM)] if self.chatters else [self.api]

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Let everybody follow for as long as the block lasts."""
        async with asyncio.TaskGroup() as group:
            everybody = [*self.followers, *self.chatters]
            tasks = [group.create_task(client.follow()) for client in everybody]
            async with asyncio.timeout(20):
                for client in everybody:
                    await client.joined.wait()
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await self._api.aclose()

    @contextlib.asynccontextmanager
    async def publishing(self, tasks: int = 2, pause: float = 0.02) -> AsyncIterator[None]:
        """Publish to everybody for as long as the block lasts."""
        async with contextlib.AsyncExitStack() as stack:
            for ledger in self.ledgers:
                await stack.enter_async_context(ledger.publishing(tasks, pause))
            yield

    async def succeeds(self, count: int = 20, within: float = 15.0) -> None:
        """Wait until so many further publishes were acknowledged on every way."""
        wanted = [len(ledger.kept) + count for ledger in self.ledgers]
        await wait_until(
            lambda: all(len(ledger.kept) >= many for ledger, many in zip(self.ledgers, wanted, strict=True)),
            within,
            "publishing works",
        )

    async def all_hear(self, within: float) -> float:
        """Wait until all followers were shown something that is published from now on; returns how long that took."""
        start, count = time.monotonic(), len(self.api.kept)
        await wait_until(lambda: len(self.api.kept) > count + 2, within, "publishing works")
        mark = self.api.last
        await wait_until(
            lambda: all(follower.has(mark) for follower in self.followers),
            start + within - time.monotonic(),
            "everybody is back",
        )
        return time.monotonic() - start

    async def present(self) -> dict[str, str]:
        """Return who is in the channel: connections and their users."""

        def ask() -> dict[str, str]:
            answer = self._server.http.post("/api/presence", json={"channel": CHANNEL}, headers=KEY).json()
            return {client: info["user"] for client, info in answer["result"]["presence"].items()}

        return await asyncio.to_thread(ask)

    async def publish_fails(self, within: float, *, after: float = 1.0, times: int = 3) -> None:
        """Wait until a publish fails, and see that the next ones fail at once, or after so many seconds."""
        await self._wait_failure(within)
        for _ in range(times):
            assert await self._wait_failure(after + 1.0) < after, "publishing fails in time while the store is away"

    async def _wait_failure(self, within: float) -> float:
        count = len(self.api.failures)

        async def has_failed() -> bool:
            await self.api.publish()
            return len(self.api.failures) > count

        await wait_until(has_failed, within, "publishing fails")
        return self.api.failures[-1][1]

    async def readiness(self, status: int, within: float) -> None:
        """Wait until every request to /readyz is answered so for a while: by each worker, that is."""
        async with httpx.AsyncClient(base_url=self._server.http.base_url, timeout=5.0) as http:

            async def is_so() -> bool:
                answers = [await http.get("/readyz", headers={"Connection": "close"}) for _ in range(8)]
                return {answer.status_code for answer in answers} == {status}

            await wait_until(is_so, within, f"/readyz says {status}")

    async def presence_is_true(self, within: float) -> None:
        """Wait until presence lists every follower once, and nobody else."""
        users = sorted(follower.user for follower in self.followers)

        async def is_true() -> bool:
            await asyncio.sleep(0.2)
            with contextlib.suppress(KeyError, json.JSONDecodeError):
                return sorted((await self.present()).values()) == users
            return False

        await wait_until(is_true, within, "presence is what is there")

    async def check(self, *, told: bool = False, within: float = 20.0) -> None:
        """What was acknowledged was received exactly once, in order, or everybody was told of the gap."""
        for follower in self.followers:
            await received(follower, self.api, CHANNEL, within)
            check(follower, self.api, channel=CHANNEL, told=told, has_holes=self._has_holes)
        for chatter in self.chatters:
            await received(chatter, self.ledgers[1], ROOM, within)
            check(chatter, self.ledgers[1], channel=ROOM, told=told, has_holes=self._has_holes)

    async def nothing_is_left(self, before: dict[int, Census], within: float = 15.0) -> None:
        """Wait until every worker holds the clients that there are, and no more files than it did."""
        expected = len(self.followers) + len(self.chatters)
        most = max(count.files for count in before.values()) + 8

        async def is_clean() -> bool:
            await asyncio.sleep(0.2)
            try:
                now = await census(self._server)
            except KeyError:  # a node that has just gone does not answer
                return False
            return sum(count.clients for count in now.values()) == expected and all(
                count.files <= most for count in now.values()
            )

        await wait_until(is_clean, within, f"{expected} clients and at most {most} files")
