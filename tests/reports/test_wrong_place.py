"""A verb that is called from the wrong loop or thread says so at once (reports of "attached to a different loop")."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio
from fastapi import FastAPI, WebSocket

from helpers.hubs import receive, run, serving
from tidewire import BadRequest, CommandError, ConfigurationError, Hub, TidewireError


async def in_thread(work: Callable[[], Any]) -> Any:
    """Return the result of a call in a thread, or its exception."""
    found: list[Any] = []

    def do() -> None:
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=do)
    thread.start()
    await asyncio.to_thread(thread.join, 5)
    return found[0]


@pytest.mark.parametrize(
    "call",
    [
        lambda hub: hub.publish("a", "x"),
        lambda hub: hub.send_to_user("ann", "x"),
        lambda hub: hub.broadcast("x"),
        lambda hub: hub.disconnect(user="ann"),
        lambda hub: hub.history("a"),
        lambda hub: hub.presence("a"),
        lambda hub: hub.users("a"),
        lambda hub: hub.is_online("ann"),
        lambda hub: hub.inbox("ann"),
        lambda hub: hub.remove_history("a"),
        lambda hub: hub.set("m", "k", 1),
        lambda hub: hub.unset("m", "k"),
        lambda hub: hub.entries("m"),
        lambda hub: hub.position("a"),
        lambda hub: hub.publish(["a", "b"], 1),
        lambda hub: hub.unsubscribe("ann", "a"),
        lambda hub: hub.revoke(user="ann"),
        lambda hub: hub.dead_events(),
        lambda hub: hub.listen("a").__aenter__(),
    ],
)
def test_every_verb_on_another_loop_says_so_and_does_nothing(call: Callable[[Hub], Any]) -> None:
    async def main() -> None:
        async with Hub() as hub:
            error = await in_thread(lambda: asyncio.run(call(hub)))
            assert isinstance(error, ConfigurationError)
            assert "from_thread" in str(error)
            assert not (await hub.history("a")).publications

    run(main())


def test_waiting_on_the_loop_itself_raises_instead_of_standing_still() -> None:
    async def main() -> None:
        async with Hub() as hub:
            with pytest.raises(ConfigurationError, match=r"await hub\.publish"):
                hub.publish_threadsafe("a", "x").result()
            with pytest.raises(ConfigurationError, match=r"await hub\.publish"):
                hub.publish_threadsafe("a", "x").exception()
            with pytest.raises(ConfigurationError, match=r"await hub\.users"):
                hub.from_thread(hub.users, "a")
            assert (await asyncio.wrap_future(hub.publish_threadsafe("a", "x"))).offset == 3

    run(main())


def test_every_verb_works_from_a_thread() -> None:
    async def main() -> None:
        async with Hub() as hub:
            assert (await in_thread(lambda: hub.from_thread(hub.publish, "a", "x", key="k"))).offset == 1
            assert (await in_thread(lambda: hub.from_thread(hub.history, "a", limit=1))).top.offset == 1
            assert await in_thread(lambda: hub.from_thread(hub.users, "a")) == []
            assert isinstance(await in_thread(lambda: hub.from_thread(hub.publish, "", "x")), BadRequest)
            assert await in_thread(lambda: hub.degraded) is False
            assert (await in_thread(hub.statistics)).connections == 0

    run(main())


def test_what_cannot_be_called_from_a_thread_says_so_and_does_not_wait_for_ever() -> None:
    """Each of these stood still for good: an exception on the loop, before there was anything to await."""

    async def main() -> None:
        async with Hub() as hub:
            call: Any = hub.from_thread
            wrong: list[tuple[Callable[[], Any], str]] = [
                (lambda: call(hub.statistics), "Statistics"),
                (lambda: call(hub.listen, "a"), "hub.listen is for the event loop"),
                (lambda: hub.listen("a"), "outside of the event loop"),
                (lambda: call(hub.publish("a", 1)), "the function and its arguments"),
                (lambda: call(None), "the function and its arguments"),
                (lambda: call(hub.publish), "argument"),
                (lambda: hub.publish_threadsafe("a", object()).result(5), "cannot be sent as JSON"),
            ]
            for work, problem in wrong:
                assert problem in str(await in_thread(work))
            assert (await in_thread(lambda: call(hub.set, "m", "k", 1))).value == 1

    run(main())


def test_a_connection_in_a_thread() -> None:
    async def main() -> None:
        hub = Hub()
        errors: list[Any] = []

        async def endpoint(websocket: WebSocket) -> None:
            async with hub.connect(websocket, user="ann") as connection:
                for use in (
                    lambda: connection.tell(CommandError("x")),
                    lambda: connection.expire_at(1.0),
                    lambda: asyncio.run(connection.send_text("x")),
                    lambda: asyncio.run(connection.set("m", "k", 1)),
                    lambda: asyncio.run(connection.unset("m", "k")),
                ):
                    errors.append(await in_thread(use))
                await in_thread(lambda: hub.from_thread(connection.send_text, f"to {connection.user}"))
                await connection.wait_closed()

        async with serving(hub, endpoint) as running, running.open() as client:
            assert await receive(client) == "to ann"
            assert [type(error) for error in errors] == [ConfigurationError] * 5

    run(main())


def test_after_the_loop_has_ended_nothing_hangs() -> None:
    hub = Hub()

    async def main() -> None:
        await hub.__aenter__()

    asyncio.run(main())
    with pytest.raises(ConfigurationError, match="has ended"):
        hub.publish_threadsafe("a", "x")
    with pytest.raises(ConfigurationError, match="has ended"):
        hub.from_thread(hub.publish, "a", "x")


def test_another_loop_is_told_a_way_that_works() -> None:
    """A notebook with its server in a thread: each of two errors named the other one's way."""

    async def main() -> None:
        async with Hub() as hub:

            async def cell() -> Any:
                with pytest.raises(ConfigurationError, match=r"asyncio\.to_thread\(hub\.from_thread"):
                    hub.from_thread(hub.publish, "a", "x")
                with pytest.raises(ConfigurationError, match=r"asyncio\.to_thread\(hub\.from_thread"):
                    await hub.publish("a", "x")
                return await asyncio.to_thread(hub.from_thread, hub.publish, "a", "x")

            assert (await in_thread(lambda: asyncio.run(cell()))).offset == 1

    run(main())


def test_a_forked_child_is_told_and_does_not_wait_for_ever() -> None:
    """A hub that was opened before `fork` has an event loop there that does not run (celery/kombu#2204)."""
    context = multiprocessing.get_context("fork")
    said: Any = context.SimpleQueue()

    def child(hub: Hub) -> None:
        try:
            hub.from_thread(hub.publish, "a", "x")
        except ConfigurationError as error:
            said.put(str(error))

    async def main() -> None:
        async with Hub() as hub:
            process = context.Process(target=child, args=(hub,))
            process.start()
            try:
                await in_thread(lambda: process.join(20))
                assert not process.is_alive()
            finally:
                process.kill()
            assert "forked" in said.get()
            assert (await hub.publish("a", "y")).offset == 1

    run(main())


def test_trio_is_told_what_it_cannot_run() -> None:
    """ "no running event loop" (hypercorn's `--worker-class trio`, anyio's tests on both backends)."""

    async def main() -> None:
        with pytest.raises(ConfigurationError, match="asyncio"):
            async with Hub():
                pass

    trio.run(main)


def test_forms_that_people_write() -> None:
    async def main() -> None:
        hub = Hub(limits={"rate": 7.0})
        assert hub.limits.rate == 7.0
        wrong: list[tuple[Any, str]] = [({"rat": 7}, "no limit 'rat'"), ({"rate": "7"}, "no number"), (7, "Limits")]
        for limits, problem in wrong:
            with pytest.raises(ConfigurationError, match=problem):
                Hub(limits=limits)
        app = FastAPI(lifespan=hub.lifespan())
        user: Any = 7

        @app.websocket("/")
        async def endpoint(websocket: WebSocket) -> None:
            with pytest.raises(BadRequest, match="user 7"):
                hub.connect(websocket, user=user)
            with pytest.raises(TidewireError, match="async with"):
                await hub.connect(websocket)
            async with hub.connect(websocket) as connection:
                with pytest.raises(TidewireError, match="iter_text"):
                    async for _ in connection:  # as of a connection of websockets
                        pass
                with pytest.raises(BadRequest, match="user 7"):
                    await hub.disconnect(user=user)
                await connection.send_text("in")
                await connection.wait_closed()

        async with serving(hub, app) as running, running.open() as client:
            assert await receive(client) == "in"

    run(main())


def test_what_is_entered_tells_how() -> None:
    """Taking from a reader outside of its block waited for ever; `await hub.listen(…)` was a TypeError."""

    async def main() -> None:
        async with Hub() as hub:
            for make in (lambda: hub.listen("a"), lambda: hub.stream("a")):
                made: Any = make()
                with pytest.raises(TidewireError, match="async with hub"):
                    await made
                with pytest.raises(TidewireError, match="async with hub"), made:
                    pass
                with pytest.raises(TidewireError, match="async with hub"):
                    iter(made)
            with pytest.raises(TidewireError, match="not entered"):
                async with asyncio.timeout(10):
                    await anext(hub.listen("a"))
            publications = hub.listen("a")
            async with publications:
                await hub.publish("a", "one")
                assert (await anext(publications)).data == b"one"
            with pytest.raises(StopAsyncIteration):
                await anext(publications)

    run(main())


def test_a_middleware_that_wants_the_messages_removes_the_link() -> None:
    async def main() -> None:
        hub, seen = Hub(), list[str]()

        class Counting:
            def __init__(self, app: Any) -> None:
                self.app = app

            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                async def counted(event: Any) -> None:
                    seen.append(event["type"])
                    await send(event)

                scope.get("extensions", {}).pop("tidewire.link", None)
                await self.app(scope, receive, counted)

        app = FastAPI(lifespan=hub.lifespan)
        app.add_middleware(Counting)

        @app.websocket("/")
        async def endpoint(websocket: WebSocket) -> None:
            async with hub.connect(websocket) as connection:
                await connection.send_text("in")
                await connection.wait_closed()

        async with serving(hub, app) as running, running.open() as client:
            assert await receive(client) == "in"
        assert "websocket.send" in seen

    run(main())


def test_a_hub_of_a_mounted_application_says_where_to_open_it() -> None:
    async def main() -> None:
        hub = Hub()
        with pytest.raises(ConfigurationError, match="mounted"):
            await hub.publish("a", "x")

    run(main())
