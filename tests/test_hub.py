"""The hub as an application uses it, with a real server and real clients in the same loop."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from typing import Any

import pytest
from fastapi import WebSocket
from starlette.exceptions import HTTPException
from websockets.exceptions import InvalidStatus

from helpers.hubs import application, code_of, receive, run, serving
from tidewire import (
    BadRequest,
    ChannelOptions,
    ConfigurationError,
    Hub,
    Limits,
    NotPublished,
    PermissionDenied,
    Position,
    TidewireError,
    choose_subprotocol,
)
from tidewire import ConnectionClosed as Ended
from tidewire.backends.checked import CheckedBroker
from tidewire.links.uvicorn import WebSocketProtocol
from tidewire.messages import PublishRequest
from tidewire.protocols.json import JSON
from tidewire.testing import wait_until


async def refuse(websocket: WebSocket) -> None:
    await websocket.close()


def test_a_hub_is_used_while_it_is_open() -> None:
    async def main() -> None:
        hub = Hub()
        with pytest.raises(ConfigurationError, match="not open"):
            await hub.publish("a", "x")
        with pytest.raises(ConfigurationError, match="not open"):
            hub.publish_threadsafe("a", "x")
        async with hub:
            with pytest.raises(ConfigurationError, match="open already"):
                await hub.__aenter__()
            assert (await hub.publish("a", "x")).offset == 1
            assert not hub.degraded
        with pytest.raises(ConfigurationError):
            await hub.publish("a", "x")
        async with hub.lifespan():
            assert (await hub.publish("a", "x")).offset == 1

    run(main())


@pytest.mark.parametrize("url", ["", "nothing://", "memory", "sqlite://", "http://user:secret@host/x"])
def test_a_bad_url_fails_where_it_is_written(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Hub(url)
    assert "secret" not in str(caught.value)


def test_names_that_an_application_may_not_use() -> None:
    async def main() -> None:
        async with Hub() as hub:
            for name in ("$control", "$user:ann"):
                with pytest.raises(PermissionDenied):
                    await hub.publish(name, "x")
                with pytest.raises(PermissionDenied):
                    await hub.remove_history(name)
            for name in ("", " ", "x" * 300):
                with pytest.raises(BadRequest):
                    await hub.publish(name, "x")
            with pytest.raises(BadRequest, match="JSON"):
                await hub.publish("a", object())

    run(main())


def test_history_and_keys() -> None:
    async def main() -> None:
        async with Hub(channels={"short": ChannelOptions(history_size=2)}) as hub:
            for number in range(4):
                await hub.publish("short", {"n": number})
            page = await hub.history("short")
            assert [publication.data for publication in page.publications] == [b'{"n":2}', b'{"n":3}']
            assert (await hub.history("short", since=Position(3, page.top.epoch))).complete
            assert not (await hub.history("short", since=Position(1, page.top.epoch))).complete
            assert await hub.publish("a", "x", key="k") == await hub.publish("a", "x", key="k")
            await hub.remove_history("short")
            assert (await hub.history("short")).publications == ()
            assert (await hub.history("short")).top == page.top

    run(main())


def test_a_thread_publishes() -> None:
    async def main() -> None:
        async with Hub() as hub:
            results: list[Position] = []

            def work() -> None:
                results.append(hub.publish_threadsafe("a", "from a thread").result(5))

            thread = threading.Thread(target=work)
            thread.start()
            await asyncio.to_thread(thread.join)
            assert results[0].offset == 1

    run(main())


def test_users_are_sent_to_listed_and_disconnected() -> None:
    async def main() -> None:
        hub = Hub()

        async def handler(websocket: WebSocket, user: str) -> None:
            async with hub.connect(websocket, user=user, info={"from": "test"}) as connection:
                await connection.subscribe("a", presence=True, info={"seat": 1})
                await connection.send_text("ready")
                await connection.wait_closed()

        async with serving(hub, handler) as app:
            async with app.open("/?user=ann") as ann, app.open("/?user=ann") as tablet, app.open("/?user=bob") as bob:
                for client in (ann, tablet, bob):
                    assert await receive(client) == "ready"
                assert await hub.users("a") == ["ann", "bob"]
                assert [member.info for member in await hub.presence("a")] == [b'{"seat":1}'] * 3
                assert await hub.is_online("ann")
                assert not await hub.is_online("cid")
                await hub.send_to_user("ann", {"n": 1})
                await hub.broadcast("to all")
                assert [await receive(ann), await receive(tablet)] == ['{"n":1}'] * 2
                for client in (ann, tablet, bob):
                    assert await receive(client) == "to all"
                assert [p.data for p in (await hub.inbox("ann")).publications] == [b'{"n":1}']
                await hub.disconnect(user="ann", reason="goodbye")
                assert [await code_of(ann), await code_of(tablet)] == [4503, 4503]
                await hub.disconnect(user="bob", reconnect=True)
                assert await code_of(bob) == 4000
            await wait_until(lambda: hub.statistics().users == 0)
            assert await hub.users("a") == []

    run(main())


def test_every_way_to_receive() -> None:
    async def main() -> None:
        hub, seen = Hub(), list[Any]()

        @dataclasses.dataclass
        class Point:
            x: int

        async def handler(websocket: WebSocket) -> None:
            async with hub.connect(websocket, protocol=JSON) as connection:
                seen.append(await connection.receive())
                seen.append(await connection.receive_text())
                seen.append(await connection.receive_bytes())
                seen.append(await connection.receive_json())
                for wrong in (connection.receive_text, connection.receive_json):
                    try:
                        await wrong()
                    except BadRequest as error:
                        seen.append(type(error))
                async for point in connection.iter_json(Point):
                    seen.append(point)
                    break
                async for text in connection.iter_text():
                    seen.append(text)
                    break
                async for data in connection.iter_bytes():
                    seen.append(data)
                    break
                async for command in connection.iter_commands():
                    seen.append(command.data)
                seen.append("over")

        async with serving(hub, handler) as app, app.open() as client:
            wrong = [b"\xff", "{", '{"x": "no"}']
            for message in (b"1", b"text", "bytes", "[1]", *wrong, '{"x": 2}', b"\xff", "t", "b", "{}"):
                await client.send(message)
            for _ in range(2):
                assert "bad_request" in await receive(client)
            await client.send("nonsense")
            assert "bad_request" in await receive(client)
            await client.close()
            await wait_until(lambda: "over" in seen)
            assert seen == [b"1", "text", b"bytes", [1], BadRequest, BadRequest, Point(2), "t", b"b", b"{}", "over"]

    run(main())


def test_an_outage_does_not_end_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        hub, results = Hub(), list[Any]()

        async def handler(websocket: WebSocket) -> None:
            async with hub.connect(websocket) as connection:
                async for text in connection.iter_text():
                    results.append(await connection.publish("a", text))

        async def failing(self: CheckedBroker, request: PublishRequest) -> Position:
            raise NotPublished("the disk is full")

        async with serving(hub, handler) as app, app.open() as client:
            with monkeypatch.context() as patched:
                patched.setattr(CheckedBroker, "publish", failing)
                await client.send("1")
                assert await receive(client) == "error: not published: the store cannot keep this now; try again"
                with pytest.raises(NotPublished):
                    await hub.publish("a", "x")
                assert hub.degraded
            await client.send("2")
            await wait_until(lambda: results == [False, True])
            assert not hub.degraded

    run(main())


def test_an_endpoint_may_accept_by_itself() -> None:
    async def main() -> None:
        hub = Hub()

        async def handler(websocket: WebSocket) -> None:
            await websocket.accept()
            assert await websocket.receive_text() == "token"
            async with hub.connect(websocket) as connection:
                await connection.identify("ann")
                with pytest.raises(BadRequest):
                    await connection.identify("bob")
                await connection.send_text(f"hello {connection.user} {len(connection.id) > 5}")
                await connection.wait_closed()

        for ws in (WebSocketProtocol, "websockets-sansio"):
            async with serving(hub, handler, ws=ws) as app, app.open() as client:
                await client.send("token")
                assert await receive(client) == "hello ann True"
                await hub.send_to_user("ann", "hi")
                assert await receive(client) == "hi"

    run(main())


def test_a_connection_is_used_inside_its_block_and_once() -> None:
    async def main() -> None:
        hub, errors = Hub(), list[Exception]()

        async def handler(websocket: WebSocket) -> None:
            made = hub.connect(websocket)
            with pytest.raises(TidewireError, match="not accepted yet"):
                await made.send_text("too early")
            async with made as connection:
                with pytest.raises(TidewireError, match="entered before"):
                    await made.__aenter__()
                await connection.close(4001, "bye")
                for use in (
                    lambda: connection.send_text("late"),
                    connection.receive,
                    lambda: connection.subscribe("a"),
                ):
                    try:
                        await use()
                    except Ended as error:
                        errors.append(error)

        async with serving(hub, handler) as app, app.open() as client:
            assert await code_of(client) == 4001
            await wait_until(lambda: len(errors) == 3)
            assert {error.disconnect.code for error in errors} == {4001}  # type: ignore[attr-defined]

    run(main())


def test_an_impossible_close_code_is_the_callers_error() -> None:
    async def main() -> None:
        hub = Hub()

        async def handler(websocket: WebSocket) -> None:
            async with hub.connect(websocket) as connection:
                with pytest.raises(ConfigurationError, match="999"):
                    await connection.close(999)
                await connection.send_text("still here")
                await connection.close(4000, "x" * 500)

        for ws in (WebSocketProtocol, "websockets-sansio"):
            async with serving(hub, handler, ws=ws) as app, app.open() as client:
                assert await receive(client) == "still here"
                assert await code_of(client) == 4000

    run(main())


def test_origins_that_may_connect() -> None:
    async def main() -> None:
        hub = Hub(origins=["https://friend.example", "http://localhost:*"])

        async def handler(websocket: WebSocket) -> None:
            async with hub.connect(websocket) as connection:
                await connection.send_text("in")

        async with serving(hub, handler) as app:
            own = f"http://127.0.0.1:{app.port}"
            for origin in (None, own, "https://friend.example", "http://localhost:3000", "http://localhost"):
                async with app.open(origin=origin) as client:
                    assert await receive(client) == "in"
            for origin in ("https://evil.example", "http://localhost.evil.example", "null", f"{own}0"):
                with pytest.raises(InvalidStatus) as caught:
                    async with app.open(origin=origin):
                        pass
                assert caught.value.response.status_code == 403

    run(main())


def test_a_cancelled_connect_leaves_nothing() -> None:
    async def main() -> None:
        hub, waiting = Hub(), asyncio.Event()

        async def handler(websocket: WebSocket) -> None:
            subscribe = hub.node.broker.subscribe

            async def slow(channel: str) -> Position:
                waiting.set()
                await asyncio.sleep(0.2)
                return await subscribe(channel)

            hub.node.broker.subscribe = slow  # type: ignore[method-assign]
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_later(0.05, task.cancel)
            try:
                async with hub.connect(websocket, user="ann"):
                    raise AssertionError("the connect was not cancelled")
            finally:
                hub.node.broker.subscribe = subscribe  # type: ignore[method-assign]

        for ws in (WebSocketProtocol, "websockets-sansio"):
            async with serving(hub, handler, ws=ws) as app, app.open() as client:
                assert await code_of(client) in (1012, 1006)
                await wait_until(lambda: hub.statistics().connections == 0)
                assert not await hub.is_online("ann")
                assert not hub.node.registry.counts.own

    run(main())


def test_a_served_route_authenticates_and_keeps_to_its_rules() -> None:
    async def main() -> None:
        async def authenticate(websocket: WebSocket) -> str:
            user = websocket.query_params.get("user", "")
            if not user:
                raise HTTPException(401, "who are you?")
            return user

        hub = Hub(channels={"closed:*": ChannelOptions(subscribe=False)}, limits=Limits(connections_per_user=1))
        served = application(hub, refuse)
        served.include_router(hub.protocol_router("/served/{channel}", JSON, user=authenticate, history=5))
        async with serving(hub, served) as app:
            for path, status in [
                ("/served/a", 401),
                ("/served/$user:bob?user=ann", 403),
                ("/served/closed:1?user=ann", 403),
            ]:
                with pytest.raises(InvalidStatus) as caught:
                    async with app.open(path):
                        pass
                assert caught.value.response.status_code == status
            async with app.open("/served/a?user=ann") as client:
                await client.send('{"n": 1}')
                assert '"n": 1' in await receive(client)
                with pytest.raises(InvalidStatus) as caught:
                    async with app.open("/served/a?user=ann"):
                        pass
                assert caught.value.response.status_code == 503

    run(main())


def test_choosing_a_subprotocol() -> None:
    assert choose_subprotocol(["x", "b", "a"], ["a", "b"]) == "b"
    assert choose_subprotocol([], ["a"]) is None
