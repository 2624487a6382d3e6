"""The test kit: what it shows, how it fails, and that it is the application that runs."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, WebSocket
from pydantic import BaseModel

from tidewire import Hub, Permissions
from tidewire.errors import ConfigurationError, NotPublished, PublishUnconfirmed
from tidewire.testing import CommandRefused, HandshakeRefused, Realtime, connected_user


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


class Text(BaseModel):
    text: str


async def current_user(websocket: WebSocket) -> str:
    return websocket.query_params.get("token", "")


def make() -> FastAPI:
    hub = Hub("redis://nobody.invalid:1")  # the kit brings its own store
    app = FastAPI(lifespan=hub.lifespan)

    @app.websocket("/ws/{room}")
    async def room(websocket: WebSocket, room: str, user: Annotated[str, Depends(current_user)]) -> None:
        async with hub.connect(websocket, user=user) as connection:
            name = f"room:{room}"
            await connection.subscribe(name, join={"joined": user}, leave={"left": connection.user})
            async for text in connection.iter_text():
                if text == "boom":
                    raise ValueError("the handler is broken")
                if text == "think":
                    await asyncio.Event().wait()
                if text == "later":
                    await asyncio.sleep(0.1)
                if text != "silence":
                    await connection.publish(name, {"text": text})

    @app.post("/notify/{user}")
    async def notify(user: str) -> None:
        await hub.publish("room:1", {"text": f"for {user}"})

    @app.post("/plain/{user}")
    def plain(user: str) -> None:
        hub.from_thread(hub.publish, "room:1", {"text": f"for {user}"})

    @hub.channel("room:{room}", presence=True, join_leave=True)
    async def may_enter(room: int, user: str) -> bool | Permissions:
        if user == "bug":
            raise KeyError("the rule is broken")
        return Permissions(publish=user == "ann") if user != "eve" else False

    @hub.rpc("add")
    async def add(data: list[int], user: str) -> int:
        return sum(data)

    app.include_router(hub.client_router())
    return app


def test_the_code_of_the_manual(realtime: Realtime) -> None:
    async def test() -> None:
        async with realtime(make()) as rt:
            ann, bob = await rt.connect("/ws/1", user="ann"), await rt.subscriber("room:1", user="bob")
            await ann.send("hello")
            await bob.expect({"text": "hello"})
            await bob.expect_nothing()
            bob.cut()
            await ann.send("again")
            await bob.back()
            await bob.expect({"text": "again"}, recovered=True)
            await rt.advance(40)
            await ann.send("still here")
            await bob.expect(Text(text="still here"), recovered=False)

    run(test)


def test_a_failed_expectation_prints_what_happened(realtime: Realtime) -> None:
    async def test() -> None:
        async with realtime(make(), seed=7) as rt:
            ann, bob = await rt.connect("/ws/1", user="ann"), await rt.subscriber("room:1", user="bob")
            await ann.send("helo")
            loop = asyncio.get_running_loop()
            began = loop.time()
            with pytest.raises(AssertionError) as failure:
                await bob.expect({"text": "hello"})
            assert 0.5 < loop.time() - began < 10
            printed = str(failure.value)
            assert "bob did not get {'text': 'hello'}" in printed
            assert 'room:1: {"text": "helo"}' in printed  # what came
            assert "ann: 'helo'" in printed  # what was sent
            assert 'room:1 #1: {"text": "helo"}' in printed.replace("#2", "#1")  # what was published
            assert "room:1, user 'bob': the rule for 'room:{room}' allows subscribe, history, presence" in printed
            assert "realtime(app, seed=7)" in printed

    run(test)


def test_a_client_is_called_by_the_user_that_its_endpoint_finds(realtime: Realtime) -> None:
    """And an application that asks no rule reads nothing about rules."""
    with realtime(make()) as rt:
        ann = rt.connect("/ws/1", params={"token": "ann"})
        ann.send("helo")
        with pytest.raises(AssertionError, match=r"^ann did not get 'hello'\n  ann got:\n") as failure:
            ann.expect("hello")
        assert "ann: 'helo'" in str(failure.value)
        assert "decided" not in str(failure.value)
        tab = rt.connect("/ws/1", params={"token": "ann"})
        assert (ann.name, tab.name) == ("ann", "client 2")
        ann.back()
        assert ann.name == "ann"
        assert rt.connect("/ws/1", params={"token": "7"}).name == "user 7"
        assert rt.connect("/ws/1", params={"token": "carl"}, name="phone").name == "phone"


def test_a_path_is_written_as_a_browser_writes_it(realtime: Realtime) -> None:
    hub = Hub()
    app = FastAPI(lifespan=hub.lifespan)

    @app.websocket("/say/{text}")
    async def say(websocket: WebSocket, text: str) -> None:
        async with hub.connect(websocket) as connection:
            await connection.send_text(f"{text} {websocket.query_params['q']}")
            await connection.wait_closed()

    with realtime(app) as rt:
        rt.connect("/say/grüne küche%21?q=a b").expect("grüne küche! a b")


@pytest.mark.parametrize("text", ["silence", "think"])
def test_a_handler_that_answers_nothing_fails_in_a_second(realtime: Realtime, text: str) -> None:
    async def test() -> None:
        async with realtime(make()) as rt:
            ann = await rt.connect("/ws/1", user="ann")
            await ann.send(text)
            with pytest.raises(AssertionError, match="ann did not get"):
                await ann.expect({"text": "an answer"})

    run(test)


def test_what_an_endpoint_sends_again_is_no_recovery(realtime: Realtime) -> None:
    async def test() -> None:
        async with realtime(make()) as rt:
            ann, bob = await rt.connect("/ws/1", user="ann"), await rt.subscriber("room:1", user="bob")
            await ann.send("hello")
            with pytest.raises(
                AssertionError, match=r"it came with recovered=False\. rt\.connect speaks your endpoint's"
            ):
                await ann.expect({"text": "hello"}, recovered=True, within=0.1)
            with pytest.raises(AssertionError, match=r"it came with recovered=False$"):
                await bob.expect({"text": "hello"}, recovered=True, within=0.1)
            bob.cut()
            await bob.back()
            with pytest.raises(AssertionError) as failed:
                await bob.expect("nothing", within=0.1)
            assert "cut by the test" in str(failed.value)
            assert "connection lost" not in str(failed.value), "it ended once"

    run(test)


def test_the_history_comes_once_and_before_what_is_live(realtime: Realtime) -> None:
    async def test() -> None:
        async with realtime(make()) as rt:

            async def feed() -> None:
                for number in itertools.count():
                    await rt.publish("room:1", number)
                    await asyncio.sleep(0.002)

            feeding = asyncio.create_task(feed())
            for _ in range(5):
                late = await rt.subscriber("room:1", user="bob", history=True)
                came = [message.value for message in late.received]
                assert came == list(range(came[0], came[0] + len(came)))
            feeding.cancel()

    run(test)


def test_a_store_that_is_away_is_told_to_the_client_of_an_endpoint(realtime: Realtime) -> None:
    async def test() -> None:
        async with realtime(make()) as rt:
            ann = await rt.connect("/ws/1", user="ann")
            rt.store.away()
            await ann.send("hello")
            await ann.expect(lambda told: "not published" in told)
            with pytest.raises(AssertionError, match=r"clients got:\n(.*\n)*.*ann: 'error: not published"):
                await rt.expect_error(NotPublished)

    run(test)


def test_what_comes_late_is_waited_for_and_what_handlers_do_too(realtime: Realtime) -> None:
    async def test() -> None:
        async with realtime(make()) as rt:
            ann, bob = await rt.connect("/ws/1", user="ann"), await rt.subscriber("room:1", user="bob")
            await ann.send("later")
            with pytest.raises(AssertionError, match=r'was to get nothing, and got {"text": "later"}'):
                await bob.expect_nothing()

    run(test)


def test_an_exception_in_a_handler_reaches_the_test(realtime: Realtime) -> None:
    async def test() -> None:
        async with realtime(make()) as rt:
            ann = await rt.connect("/ws/1", user="ann")
            await ann.send("boom")
            with pytest.raises(ValueError, match="the handler is broken"):
                await ann.expect({"text": "boom"})
        with pytest.raises(ValueError, match="the handler is broken"):
            async with realtime(make()) as rt:
                await (await rt.connect("/ws/1")).send("boom")
        with pytest.raises(KeyError, match="the rule is broken"):
            async with realtime(make()) as rt:
                await rt.subscriber("room:1", user="bug")
        async with realtime(make()) as rt:
            ann = await rt.connect("/ws/1")
            await ann.send("boom")
            assert str(await rt.expect_error(ValueError)) == "the handler is broken"
            assert (await ann.expect_closed(1011)).code == 1011

    run(test)


def test_rules_decide_and_refusals_say_which(realtime: Realtime) -> None:
    async def test() -> None:
        async with realtime(make()) as rt:
            with pytest.raises(CommandRefused, match=r"'eve': the rule for 'room:{room}' allows nothing") as refusal:
                await rt.subscriber("room:1", user="eve")
            assert refusal.value.number == 103
            bob = await rt.subscriber("room:1", user="bob")
            with pytest.raises(CommandRefused, match="publishing in 'room:1' was refused"):
                await bob.publish({"text": "hi"})
            ann = await rt.subscriber("room:1", user="ann")
            await bob.expect_join("ann")
            await ann.publish(Text(text="hi"))
            assert await bob.expect(Text) == Text(text="hi")
            assert await bob.presence() == ["ann", "bob"]
            assert await ann.rpc("add", [1, 2, 3]) == 6
            assert await ann.history() == [{"text": "hi"}]
            with pytest.raises(CommandRefused, match="unknown channel"):
                await rt.subscriber("elsewhere", user="ann")

    run(test)


def test_dependencies_can_be_overridden(realtime: Realtime) -> None:
    async def test() -> None:
        app = make()
        app.dependency_overrides[current_user] = connected_user
        async with realtime(app) as rt:
            ann = await rt.connect("/ws/1", user="ann")
            bob = await rt.connect("/ws/1", params={"token": "never read"}, user="bob")
            await ann.expect({"joined": "bob"})
            bob.cut()
            await ann.expect({"left": "bob"})

    run(test)


def test_dependencies_of_rules_can_be_overridden(realtime: Realtime) -> None:
    async def test() -> None:
        hub = Hub()

        def nobody() -> bool:
            return False

        @hub.channel("news")
        def rule(may: bool = Depends(nobody)) -> bool:
            return may

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            async with hub:
                yield

        app = FastAPI(lifespan=lifespan)
        app.dependency_overrides[nobody] = lambda: True
        async with realtime(app) as rt:
            await rt.subscriber("news", user="ann")

    run(test)


def test_other_routes_and_threads_publish(realtime: Realtime) -> None:
    async def test() -> None:
        async with realtime(make()) as rt:
            bob = await rt.subscriber("room:1", user="bob")
            for path in ("notify", "plain"):
                assert (await rt.http.post(f"/{path}/bob")).status_code == 200
                await bob.expect({"text": "for bob"})
            await rt.hub.publish("room:1", "from the test")
            await bob.expect("from the test")

    run(test)


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_two_workers_and_a_killed_one(realtime: Realtime, seed: int | None) -> None:
    async def test() -> None:
        async with realtime(make(), workers=2, seed=seed) as rt:
            ann = await rt.connect("/ws/1", user="ann", worker=0)
            bob = await rt.subscriber("room:1", user="bob", worker=1)
            for number in range(20):
                await ann.send(str(number))
            for number in range(20):
                await bob.expect({"text": str(number)})
            carl = await rt.connect("/ws/1", user="carl", params={"token": "carl"}, worker=0)
            await bob.expect({"joined": "carl"})
            await rt.kill(0)
            assert carl.disconnect is not None
            await bob.expect_nothing()  # the lease of the dead worker has not ended
            await rt.advance(20)
            await bob.expect({"left": "carl"})
            await carl.back()
            await carl.send("here again")
            await bob.expect({"text": "here again"})
            assert await rt.start_worker() == 2

    run(test)


def test_a_restart_of_the_whole_server_loses_nothing(realtime: Realtime) -> None:
    with realtime(make(), workers=2) as rt:
        ann, bob = rt.connect("/ws/1", params={"token": "ann"}), rt.subscriber("room:1", user="bob")
        ann.send("before")
        bob.expect({"text": "before"})
        rt.kill(0)
        rt.kill(1)
        bob.expect_closed(1006)
        rt.start_worker()
        ann.back()
        ann.send("after")
        bob.back()
        bob.expect({"text": "after"}, recovered=True)


def test_a_factory_makes_an_application_for_each_worker(realtime: Realtime) -> None:
    async def test() -> None:
        async with realtime(make, workers=2) as rt:
            assert rt.workers[0].app is not rt.workers[1].app
            ann, bob = await rt.connect("/ws/1", worker=0), await rt.subscriber("room:1", user="bob", worker=1)
            await ann.send("hello")
            await bob.expect({"text": "hello"})

    run(test)


def test_the_store_goes_away_and_loses_its_data(realtime: Realtime) -> None:
    async def test() -> None:
        async with realtime(make()) as rt:
            ann, bob = await rt.connect("/ws/1", user="ann"), await rt.subscriber("room:1", user="bob")
            await ann.send("one")
            await bob.expect({"text": "one"})
            rt.store.away()
            with pytest.raises(NotPublished, match="away"):
                await rt.publish("room:1", "lost")
            await bob.expect_nothing()
            rt.store.back()
            rt.store.away(silent=True)
            with pytest.raises(PublishUnconfirmed):
                await rt.publish("room:1", {"text": "perhaps"})
            rt.store.back()
            await bob.expect({"text": "perhaps"})
            bob.cut()
            await rt.store.lose()
            await rt.publish("room:1", {"text": "new"})
            await bob.back()
            assert bob.recovered == {"room:1": False}
            await rt.publish("room:1", {"text": "newer"})
            await bob.expect({"text": "newer"}, recovered=False)

    run(test)


def test_a_frozen_client_is_gone_after_ping_and_pong(realtime: Realtime) -> None:
    async def test() -> None:
        async with realtime(make()) as rt:
            ann = await rt.connect("/ws/1", user="ann")
            bob = await rt.connect("/ws/1", user="bob", params={"token": "bob"})
            await ann.expect({"joined": "bob"})
            bob.freeze()
            await rt.advance(5)
            await ann.expect_nothing()
            await rt.advance(40)
            await ann.expect({"left": "bob"})

    run(test)


def test_history_expires(realtime: Realtime) -> None:
    hub = Hub()
    app = FastAPI(lifespan=hub.lifespan)

    @hub.channel("a", history_seconds=60)
    async def rule(user: str) -> bool:
        return True

    async def test() -> None:
        async with realtime(app) as rt:
            await rt.publish("a", 1)
            await rt.advance(50)
            await rt.publish("a", 2)
            assert [p.data for p in (await rt.hub.history("a")).publications] == [b"1", b"2"]
            await rt.advance(20)
            assert [p.data for p in (await rt.hub.history("a")).publications] == [b"2"]

    run(test)


def test_a_plain_test_needs_no_event_loop(realtime: Realtime) -> None:
    with realtime(make()) as rt:
        ann, bob = rt.connect("/ws/1", user="ann"), rt.subscriber("room:1", user="bob")
        ann.send("hello")
        assert bob.expect({"text": ...}) == {"text": "hello"}
        bob.expect_nothing()
        bob.cut()
        ann.send("again")
        bob.back()
        bob.expect({"text": "again"}, recovered=True)
        rt.advance(40)
        assert rt.http.post("/notify/bob").status_code == 200
        bob.expect({"text": "for bob"})
        rt.store.away()
        rt.store.back()
        ann.close()


def test_an_endpoint_without_a_hub_can_be_tested_and_refuse(realtime: Realtime) -> None:
    app = FastAPI()

    @app.websocket("/echo")
    async def echo(websocket: WebSocket) -> None:
        if "key" not in websocket.query_params:
            await websocket.close()
            return
        await websocket.accept(subprotocol="chat")
        while True:
            await websocket.send_text(f"{websocket['user'].display_name}: {await websocket.receive_text()}")

    async def test() -> None:
        async with realtime(app) as rt:
            with pytest.raises(HandshakeRefused, match=r"at '/echo' was refused with HTTP 403"):
                await rt.connect("/echo")
            with pytest.raises(HandshakeRefused, match="at '/eco' was refused with HTTP 404"):
                await rt.connect("/eco")
            for act in (rt.kill(1), rt.connect("/echo", worker=2)):
                with pytest.raises(ConfigurationError, match=r"no worker [12]: this application has 1, from 0"):
                    await act
            ann = await rt.connect("echo", user="ann", params={"key": 1}, subprotocols=["chat"])
            assert ann.subprotocol == "chat"
            await ann.send("hi")
            await ann.expect("ann: hi")
            await ann.close()

    run(test)
