"""Events: who came and went, once and in order, also when workers are killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.requests import HTTPConnection

from contract.serving import free_port
from helpers.hubs import serving
from tidewire import ConfigurationError, Event, Hub
from tidewire.channels import HAPPENED, watched
from tidewire.client import Client
from tidewire.errors import StoreUnavailable
from tidewire.events import event_handlers, watcher
from tidewire.events.event_handlers import DeadEvent
from tidewire.events.hub_events import HubEvents
from tidewire.rules.dependency_overrides import Overrides
from tidewire.testing import wait_until

from .workers import Process, Receiver, logged

HERE = Path(__file__).parent


async def user(connection: HTTPConnection) -> str | None:
    return connection.query_params.get("user")


class World:
    """A served hub, and what it was told."""

    def __init__(self, url: str = "memory://", grace: float = 0.3) -> None:
        self.hub = Hub(url, limits={"grace_seconds": grace})
        self.events: list[Event] = []
        self.base = ""

        @self.hub.channel("room:{room}")
        async def room(room: int) -> bool:
            return True

    def note(self, *kinds: str) -> None:
        async def note(event: Event) -> None:
            self.events.append(event)

        for kind in kinds:
            self.hub.on(kind, "" if "connected" in kind else "room:{room}")(note)

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(event.kind, event.user or event.channel) for event in self.events]

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = FastAPI(lifespan=self.hub.lifespan)
        app.include_router(self.hub.client_router(user=user))
        async with serving(self.hub, app) as server:
            self.base = f"ws://127.0.0.1:{server.port}/connection/websocket"
            yield

    def client(self, name: str | None) -> Client:
        return Client(self.base + ("" if name is None else f"?user={name}"))


def test_who_comes_and_goes_is_announced_once_and_in_order(url: str) -> None:
    async def main() -> None:
        world = World(url)
        world.note("joined", "left", "occupied", "vacated", "connected", "disconnected")
        async with world.serving():
            async with world.client("ann") as first, world.client("ann") as second, world.client(None) as nobody:
                for client in (first, second, nobody):
                    await client.subscribe("room:1").wait_subscribed()
                await wait_until(lambda: len(world.events) >= 4)
            await wait_until(lambda: len(world.events) >= 8)
            assert sorted(world.told[:4]) == [
                ("connected", "ann"),
                ("joined", "ann"),
                ("joined", "room:1"),  # by nobody known
                ("occupied", "room:1"),
            ]
            assert sorted(world.told[4:]) == [
                ("disconnected", "ann"),
                ("left", "ann"),
                ("left", "room:1"),
                ("vacated", "room:1"),
            ]
            assert len({event.id for event in world.events}) == 8

    asyncio.run(main())


def test_who_is_back_within_the_grace_never_was_away() -> None:
    async def main() -> None:
        world = World(grace=1.0)
        world.note("joined", "left", "connected", "disconnected")
        async with world.serving():
            async with world.client("ann") as client:
                subscription = client.subscribe("room:1")
                await subscription.wait_subscribed()
                await wait_until(lambda: len(world.events) == 2)
                for _ in range(3):
                    subscription.close()
                    subscription = client.subscribe("room:1")
                    await subscription.wait_subscribed()
            async with world.client("ann") as client:
                await client.subscribe("room:1").wait_subscribed()
                async with world.client("bob") as marker:
                    await marker.subscribe("room:1").wait_subscribed()
                await wait_until(lambda: ("left", "bob") in world.told)
                assert [kind for kind, name in world.told if name == "ann"] in (
                    ["connected", "joined"],
                    ["joined", "connected"],
                )

    asyncio.run(main())


@pytest.mark.parametrize("others", [0, 1])
def test_an_end_whose_answer_is_lost_is_told_once(url: str, others: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store has removed the member, or another node has claimed it: nobody is there, though it was not the last.

    Or another device leaves at the same moment, so that each one sees the other.
    """
    monkeypatch.setattr(watcher, "_RETRY_SECONDS", 0.05)
    is_alone = watcher.Watcher._is_alone

    async def main() -> None:
        world = World(url)
        world.note("joined", "left")
        async with world.serving():
            presence, answers = world.hub.node.presence, iter([False])
            leave = presence.leave

            async def leave_unheard(channel: str, connection: str) -> bool:
                was_last = await leave(channel, connection)
                if channel != watched("joined:room:1") or next(answers, True):
                    return was_last
                raise StoreUnavailable("the answer is lost")

            async def is_alone_or_not(self: watcher.Watcher, watched_: Any) -> bool:
                return not others and await is_alone(self, watched_)

            monkeypatch.setattr(watcher.Watcher, "_is_alone", is_alone_or_not)
            monkeypatch.setattr(presence, "leave", leave_unheard)
            async with world.client("ann") as client:
                await client.subscribe("room:1").wait_subscribed()
                await wait_until(lambda: len(world.events) == 1)
            await wait_until(lambda: len(world.events) == 2)
            async with world.client("bob") as marker:
                await marker.subscribe("room:1").wait_subscribed()
            await wait_until(lambda: ("left", "bob") in world.told)
            page = await world.hub.node.broker.history(HAPPENED)
            kept = [json.loads(one.data) for one in page.publications]
            assert [one["kind"] for one in kept if one["user"] == "ann"] == ["joined", "left"]

    asyncio.run(main())


def test_a_user_whom_a_dead_worker_has_not_told_is_told_where_it_is_now(
    kept_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker dies between adding its member and telling it; the user is back before that member is claimed."""
    tell = watcher.Watcher._tell

    async def main() -> None:
        first, second = World(kept_url), World(kept_url)
        for world in (first, second):
            world.note("joined", "left")
        async with second.serving():
            async with first.serving():

                async def tell_or_die(self: watcher.Watcher, event: Any, key: str) -> None:
                    if self._node is first.hub.node:
                        await asyncio.sleep(3600)
                    await tell(self, event, key)

                monkeypatch.setattr(watcher.Watcher, "_tell", tell_or_die)
                async with first.client("ann") as client:
                    await client.subscribe("room:1").wait_subscribed()
                    await wait_until(lambda: _is_noted(second.hub, "ann"))
                    for _ in range(2):
                        async with second.client("ann") as back:
                            await back.subscribe("room:1").wait_subscribed()
                            await wait_until(lambda: ("joined", "ann") in second.told + first.told)
            assert [one for one in second.told + first.told if one == ("joined", "ann")] == [("joined", "ann")]

    asyncio.run(main())


async def _is_noted(hub: Hub, user: str) -> bool:
    return await hub.node.presence.count(watched("joined:room:1"), user) > 0


def test_a_node_whose_lease_was_lost_tells_again_who_is_there(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has stalled, another node has claimed its members and told that they left, and it goes on."""

    async def main() -> None:
        world = World(url)
        world.note("joined", "left")
        async with world.serving():
            node = world.hub.node
            async with world.client("ann") as client, world.client("ann") as other, world.client("bob") as bob:
                for one in (client, other, bob):
                    await one.subscribe("room:1").wait_subscribed()
                await wait_until(lambda: len(world.events) == 2)
                end = {"kind": "left", "channel": "room:1", "user": "ann", "member": "ann"}
                await node.publish(HAPPENED, json.dumps(end).encode(), ephemeral=False)
                await wait_until(lambda: len(world.events) == 3)
                node.memberships.lost_leases += 1
                await wait_until(lambda: len(world.events) == 4)
            await wait_until(lambda: len(world.events) == 6)
            assert [kind for kind, name in world.told if name == "ann"] == ["joined", "left", "joined", "left"]
            assert [kind for kind, name in world.told if name == "bob"] == ["joined", "left"]
            page = await node.broker.history(HAPPENED)
            again = [one["user"] for one in map(json.loads, (one.data for one in page.publications)) if "again" in one]
            assert sorted(again) == ["ann", "bob"]

    asyncio.run(main())


def test_a_handler_takes_parameters_and_is_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_handlers, "BACKOFF", (0.01, 0.01))
    calls: list[Any] = []
    is_broken = True

    async def main() -> None:
        world = World()

        @world.hub.on("joined", "room:{room}")
        async def flaky(room: int, user: str, event: Event) -> None:
            calls.append((room, user, event.id))
            if len(calls) < 3:
                raise ValueError("not yet")

        @world.hub.on("left", "room:{room}")
        def broken(room: int, channel: str) -> None:
            if is_broken:
                raise ValueError("never")
            calls.append((room, channel))

        async with world.serving():
            async with world.client("ann") as client:
                await client.subscribe("room:7").wait_subscribed()
                await wait_until(lambda: len(calls) == 3)
                assert calls == [calls[0]] * 3
                assert calls[0][:2] == (7, "ann")
            await wait_until(lambda: _count(world.hub, 1))
            (dead,) = await world.hub.dead_events()
            assert (dead.event.kind, dead.event.user, dead.error) == ("left", "ann", "ValueError: never")
            with pytest.raises(ValueError, match="never"):
                await world.hub.repeat_event(dead.event.id)
            nonlocal is_broken
            is_broken = False
            await world.hub.repeat_event(dead.event.id)
            assert calls[-1] == (7, "room:7")
            assert await world.hub.dead_events() == []
            with pytest.raises(ConfigurationError, match="no dead event"):
                await world.hub.repeat_event(dead.event.id)

    is_broken = True
    asyncio.run(main())


def test_each_handler_that_refuses_an_event_is_repeated_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two handlers are called alike: one of them has handled the event, which the other one and a third refuse."""
    monkeypatch.setattr(event_handlers, "BACKOFF", (0.01,))
    calls: list[str] = []
    broken = {"second", "third"}

    def handler(name: str) -> Any:
        async def told(user: str) -> None:
            calls.append(name)
            if name in broken:
                raise ValueError(name)

        return told

    async def main() -> None:
        world = World()
        for name in ("first", "second", "third"):
            world.hub.on("joined", "room:{room}")(handler(name))
        async with world.serving():
            async with world.client("ann") as client:
                await client.subscribe("room:7").wait_subscribed()
                await wait_until(lambda: _count(world.hub, 2))
            one, other = await world.hub.dead_events()
            assert (one.event, one.handler != other.handler) == (other.event, True)
            calls.clear()
            with pytest.raises(ValueError, match="second") as raised:
                await world.hub.repeat_event(one.event.id)
            assert (calls, "ValueError: third" in str(raised.value.__notes__)) == (["second", "third"], True)
            broken.remove("third")
            with pytest.raises(ValueError, match="second"):
                await world.hub.repeat_event(one.event.id)
            broken.clear()
            calls.clear()
            await world.hub.repeat_event(one.event.id)
            assert (calls, await world.hub.dead_events()) == (["second"], [])

    asyncio.run(main())


def test_a_dead_event_finds_its_handler_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """One function for two events was named by the order: the other one was looked up, and nobody called in silence."""
    monkeypatch.setattr(event_handlers, "BACKOFF", ())
    calls: list[str] = []

    async def told(user: str, event: Event) -> None:
        calls.append(event.kind)
        if len(calls) == 1:
            raise ValueError("not yet")

    def on(world: World, *kinds: str) -> HubEvents:
        events = HubEvents(world.hub._options, Overrides())
        for kind in kinds:
            events.add(kind, "room:{room}", told)
        return events

    async def main() -> None:
        world = World()
        world.hub.on("left", "room:{room}")(told)
        world.hub.on("joined", "room:{room}")(told)
        async with world.serving():
            async with world.client("ann") as client:
                await client.subscribe("room:7").wait_subscribed()
                await wait_until(lambda: _count(world.hub, 1))
            await wait_until(lambda: calls == ["joined", "left"])
            (dead,) = await world.hub.dead_events()
            for kinds in ((), ("left",)):
                with pytest.raises(ConfigurationError, match="no handler is called"):
                    await on(world, *kinds).repeat(world.hub.node, dead.event.id)
            await on(world, "joined", "left").repeat(world.hub.node, dead.event.id)
            assert (calls, await world.hub.dead_events()) == (["joined", "left", "joined"], [])

    asyncio.run(main())


def test_a_dead_event_is_known_by_the_function_alone_where_an_older_version_kept_it() -> None:
    calls: list[str] = []

    async def told(user: str, event: Event) -> None:
        calls.append(event.kind)

    async def main() -> None:
        world = World()
        for kind in ("left", "joined"):
            world.hub.on(kind, "room:{room}")(told)
        async with world.serving():
            node, name = world.hub.node, f"{told.__module__}.{told.__qualname__}"
            for id_, channel in (("a", "room:7"), ("b", "elsewhere")):
                await event_handlers._keep_dead(node, DeadEvent(Event(id_, "joined", channel, "ann", 1.0), name, "x"))
            await world.hub.repeat_event("a")
            with pytest.raises(ConfigurationError, match="no handler is called"):
                await world.hub.repeat_event("b")
            assert (calls, [one.event.id for one in await world.hub.dead_events()]) == (["joined"], ["b"])

    asyncio.run(main())


class Abandoned(BaseException):
    """As some libraries end what they do."""


class Untold(Exception):
    """Whose text cannot be read."""

    def __str__(self) -> str:
        raise ValueError


class Misspelt(Exception):
    """With half a character, as in the name of a file."""

    def __str__(self) -> str:
        return "\ud800" + 2_000 * "x"


ODD = (asyncio.CancelledError, SystemExit, Abandoned, Untold, Misspelt)


@pytest.mark.parametrize("error", ODD, ids=lambda error: error.__name__)
@pytest.mark.parametrize("is_plain", [False, True], ids=["async", "thread"])
def test_whatever_a_handler_raises_later_events_are_handled(
    error: type[BaseException], is_plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An awaited task that was cancelled, `sys.exit` in a library: tried again, then dead, and others go on."""
    monkeypatch.setattr(event_handlers, "BACKOFF", (0.01,))
    # a report of pytest cannot hold half a character
    monkeypatch.setattr(event_handlers, "logger", logging.Logger("unheard", logging.CRITICAL))
    ended: list[str] = []

    async def main() -> None:
        world = World(grace=0.0)
        world.note("left")

        def refuse(user: str) -> None:
            raise error(user)

        async def refuse_later(user: str) -> None:
            await asyncio.sleep(0)
            raise error(user)

        @world.hub.on("left")
        async def left(user: str) -> None:
            ended.append(user)

        world.hub.on("joined")(refuse if is_plain else refuse_later)
        async with world.serving():
            for number in (1, 2):
                async with world.client("ann") as client:
                    await client.subscribe("room:1").wait_subscribed()
                await wait_until(lambda number=number: len(ended) == number)  # type: ignore[misc]
            dead = await world.hub.dead_events()
            assert [one.event.kind for one in dead] == ["joined", "joined"]
            assert error.__name__ in dead[0].error

    asyncio.run(main())


async def _count(hub: Hub, number: int) -> bool:
    return len(await hub.dead_events()) == number


def test_what_cannot_work_is_refused_where_it_is_written() -> None:
    hub = Hub()

    async def takes(size: dict[str, int]) -> None: ...

    for kind, pattern in (("came", ""), ("connected", "room:{room}"), ("joined", "room:{")):
        with pytest.raises(ConfigurationError):
            hub.on(kind, pattern)(lambda: None)

    async def open_first() -> None:
        async with Hub() as opened:
            with pytest.raises(ConfigurationError, match="is open"):
                opened.on("connected")(lambda: None)

    asyncio.run(open_first())
    with pytest.raises(ConfigurationError, match="'size'"):
        hub.on("joined", "room:{room}")(takes)
    hub.webhook("https://example.org/in", secret="s", events=["joined"])
    for url, secret, events in (
        ("ftp://example.org", "s", ["joined"]),
        ("https://example.org", "", ["joined"]),
        ("https://example.org", "s", []),
        ("https://example.org", "s", "joined"),
        ("https://example.org", "s", ["came"]),
        ("https://example.org/in", "other", ["left"]),  # is there: two of one URL would share their place
    ):
        with pytest.raises(ConfigurationError):
            hub.webhook(url, secret=secret, events=events)


def test_a_webhook_gets_all_of_what_it_wants_in_order() -> None:
    async def main() -> None:
        receiver, port = Receiver(), free_port()
        world = World()
        events = ["joined room:{room}", "left room:{room}", "connected"]
        world.hub.webhook(f"http://127.0.0.1:{port}/in?x=1", secret="s3cret", events=events, allow_private=True)
        private = World()
        private.hub.webhook(f"http://127.0.0.1:{port}/in", secret="s3cret", events=["joined"])
        async with world.serving(), private.serving():
            for name in ("ann", "bob"):
                for place in (world, private):
                    async with place.client(name) as client:
                        await client.subscribe("room:1").wait_subscribed()
            # it was down until now
            async with await asyncio.start_server(receiver.answer, "127.0.0.1", port):
                await wait_until(lambda: len(receiver.events) >= 6, 20.0)
                for name in ("ann", "bob"):
                    kinds = [event["kind"] for event in receiver.events if event["user"] == name]
                    assert sorted(kinds) == ["connected", "joined", "left"]
                    assert kinds.index("joined") < kinds.index("left")
                assert len({event["id"] for event in receiver.events}) == 6
                assert receiver.refusals

    asyncio.run(main())


def test_the_events_of_a_killed_worker_come_from_another(tmp_path: Path) -> None:
    workers = [Process(tmp_path, f"sqlite:///{tmp_path}/store.db") for _ in range(2)]

    def has(*event: str) -> bool:
        return any(one[1:4] == [*event] for one in logged(tmp_path))

    async def main() -> None:
        async with workers[1].client("bob") as bob:
            await bob.subscribe("room:1").wait_subscribed()
            async with workers[0].client("ann") as ann:
                await ann.subscribe("room:1").wait_subscribed()
                await wait_until(lambda: len(logged(tmp_path)) >= 5, 20.0)
                workers[0].kill()  # the one that has handled all until now
                began = time.monotonic()
                await wait_until(
                    lambda: [True for one in logged(tmp_path) if one[1:4] == ["left", "room:1", "ann"]], 30.0
                )
                assert time.monotonic() - began < 25
        for event in (("vacated", "room:1", ""), ("left", "room:1", "bob"), ("disconnected", "", "bob")):
            await wait_until(lambda event=event: has(*event), 20.0)  # type: ignore[misc]

    try:
        asyncio.run(main())
        once = {one[0]: one for one in logged(tmp_path)}.values()  # what is repeated has the same id
        seen = {name: [one[1] for one in once if one[3] == name] for name in ("ann", "bob")}
        for kinds in seen.values():
            assert sorted(kinds) == ["connected", "disconnected", "joined", "left"]
            assert kinds.index("joined") < kinds.index("left")
    finally:
        for worker in workers:
            worker.kill()
