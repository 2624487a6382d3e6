"""The Python client of the Centrifuge protocol and the real server: cuts, restarts, tokens that end, slow readers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from websockets.asyncio.server import ServerConnection, serve

from clients.serving import Cuttable, Service, connection_token, serving, subscription_token
from tidewire.client import Client, Subscription, backoff
from tidewire.client import client_subscription as subscription_module
from tidewire.client.map_subscription import MapSubscription
from tidewire.errors import (
    BadRequest,
    CommandError,
    ConnectionClosed,
    NotAvailable,
    NotPublished,
    PermissionDenied,
    PublishUnconfirmed,
    TidewireError,
    UnknownChannel,
    Unrecoverable,
)
from tidewire.messages import Position
from tidewire.protocols.centrifuge import messages as m
from tidewire.testing import wait_until

pytestmark = pytest.mark.xdist_group("clients")

T = TypeVar("T")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "_LONGEST_DELAY", 0.3)


def run(work: Awaitable[T], seconds: float = 30.0) -> T:
    async def limited() -> T:
        async with asyncio.timeout(seconds):
            result = await work
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks are left: {left}"
        return result

    return asyncio.run(limited())


async def numbers(subscription: Subscription, count: int) -> list[int]:
    """Return the next so many numbers of a channel."""
    found: list[int] = []
    while len(found) < count:
        found.append((await anext(subscription)).data["n"])
    return found


def test_what_a_client_asks_for(service: Service) -> None:
    async def main() -> None:
        token = connection_token("ann", info={"name": "Ann"})
        async with Client(service.websocket, token=token) as client, client.subscribe("news:ask") as room:
            await room.wait_subscribed()
            await client.publish("news:ask", {"n": 1})
            publication = await anext(room)
            assert (publication.data, publication.channel) == ({"n": 1}, "news:ask")
            assert publication.position == room.position
            assert publication.publisher is not None
            assert publication.publisher.connection_info == {"name": "Ann"}
            (member,) = await client.presence("news:ask")
            assert (member.user, member.client) == ("ann", publication.publisher.client)
            assert await client.presence_stats("news:ask") == (1, 1)
            history = await client.history("news:ask")
            assert [found.data for found in history.publications] == [{"n": 1}]
            assert history.position == room.position
            assert (await client.history("news:ask", limit=0)).publications == ()

    run(main())


def test_what_the_server_refuses_is_an_exception(service: Service) -> None:
    async def main() -> None:
        async with Client(service.websocket) as client:
            with pytest.raises(UnknownChannel):
                await client.publish("nowhere:1", {})
            with pytest.raises(PermissionDenied):
                await client.publish("secret:1", {})
            with pytest.raises(NotAvailable):
                await client.rpc("anything")
            with pytest.raises(BadRequest, match="JSON"):
                await client.publish("news:1", object())
            secret = client.subscribe("secret:1")
            with pytest.raises(PermissionDenied):
                await secret.wait_subscribed()
            with pytest.raises(PermissionDenied):
                await anext(secret)
            again = client.subscribe("secret:1")
            with pytest.raises(TidewireError, match="already"):
                client.subscribe("secret:1")
            again.close()

    run(main())


def test_the_position_of_an_earlier_run_brings_what_was_missed(service: Service) -> None:
    async def main() -> None:
        async with Client(service.websocket) as client, client.subscribe("news:since") as room:
            await room.wait_subscribed()
            start = room.position
            assert start is not None
            await asyncio.to_thread(service.publish, "news:since", 1, 2, 3)
            assert await numbers(room, 2) == [1, 2]
            reached = room.position
        async with Client(service.websocket) as client, client.subscribe("news:since", since=reached) as room:
            assert await numbers(room, 1) == [3]
            await client.publish("news:since", {"n": 4})
            assert await numbers(room, 1) == [4]
        async with Client(service.websocket) as client:
            other = client.subscribe("news:since", since=Position(1, "another"))
            with pytest.raises(Unrecoverable, match="news:since"):
                await anext(other)
            await client.publish("news:since", {"n": 5})
            assert await numbers(other, 1) == [5]

    run(main())


@pytest.mark.parametrize("channel", ["news:cut", "asked:cut"])
def test_a_cut_costs_nothing(service: Service, channel: str) -> None:
    async def main(relay: Cuttable) -> None:
        url = f"ws://127.0.0.1:{relay.port}/connection/websocket"
        async with Client(url) as client, client.subscribe(channel) as room, client.subscribe("bare:cut") as bare:
            await room.wait_subscribed()
            await bare.wait_subscribed()
            for number in range(0, 20, 4):
                await asyncio.to_thread(service.publish, channel, number, number + 1)
                relay.is_cut = True
                relay.cut()
                await asyncio.to_thread(service.publish, channel, number + 2, number + 3)
                relay.is_cut = False
                assert await numbers(room, 4) == list(range(number, number + 4))
            heard: list[int] = []
            while not heard:  # before it is subscribed again nothing comes, and nothing is recovered there
                await asyncio.to_thread(service.publish, "bare:cut", 7)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        heard = await numbers(bare, 1)
            assert heard == [7]

    with Cuttable(service.server.port) as relay:
        run(main(relay))


def test_more_than_is_kept_is_told(service: Service) -> None:
    async def main(relay: Cuttable) -> None:
        async with Client(f"ws://127.0.0.1:{relay.port}/connection/websocket") as client:
            room = client.subscribe("short:1")
            await room.wait_subscribed()
            await asyncio.to_thread(service.publish, "short:1", 1)
            assert await numbers(room, 1) == [1]
            relay.is_cut = True
            relay.cut()
            await asyncio.to_thread(service.publish, "short:1", 2, 3, 4, 5)
            relay.is_cut = False
            with pytest.raises(Unrecoverable):
                await anext(room)
            await asyncio.to_thread(service.publish, "short:1", 6)
            assert await numbers(room, 1) == [6]

    with Cuttable(service.server.port) as relay:
        run(main(relay))


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_restart_costs_nothing(tmp_path: Path, workers: int) -> None:
    with serving(tmp_path, workers=workers, limits={"drain_seconds": 0.5}) as service:

        async def main() -> None:
            async with contextlib.AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(Client(service.websocket)) for _ in range(4)]
                rooms = [client.subscribe("news:r") for client in clients]
                for room in rooms:
                    await room.wait_subscribed()
                await asyncio.to_thread(service.publish, "news:r", 1, 2)
                await asyncio.to_thread(service.server.kill)
                await asyncio.to_thread(service.server.start)
                await asyncio.to_thread(service.publish, "news:r", 3)
                for room in rooms:
                    assert await numbers(room, 3) == [1, 2, 3]
                await asyncio.to_thread(service.server.stop)
                await asyncio.to_thread(service.server.start)
                for number, client in enumerate(clients, 4):
                    await client.publish("news:r", {"n": number})
                for room in rooms:
                    assert sorted(await numbers(room, 4)) == [4, 5, 6, 7]

        run(main(), 60.0)


def test_tokens_are_fetched_and_refreshed(service: Service) -> None:
    fetched: list[str] = []

    async def connection() -> str:
        fetched.append("connection")
        return connection_token("ann", seconds=1.5)

    async def subscription(channel: str) -> str:
        fetched.append(channel)
        return subscription_token("ann", channel, seconds=1.5)

    async def main() -> None:
        async with Client(service.websocket, get_token=connection) as client:
            secret = client.subscribe("secret:t", get_token=subscription)
            await secret.wait_subscribed()
            await wait_until(lambda: fetched.count("connection") >= 3 and fetched.count("secret:t") >= 3, 15.0)
            await asyncio.to_thread(service.publish, "secret:t", 1)
            assert await numbers(secret, 1) == [1]

    run(main())


def test_a_token_that_has_expired_is_fetched_anew(service: Service) -> None:
    tokens = [connection_token("ann", seconds=300), connection_token("ann", seconds=-10)]

    async def connection() -> str:
        return tokens.pop()

    async def main() -> None:
        async with Client(service.websocket, get_token=connection) as client:
            with pytest.raises(NotAvailable):
                await client.rpc("anything")
            assert tokens == []

    run(main())


def test_who_is_not_wanted_does_not_come_back(service: Service) -> None:
    async def main() -> None:
        async with Client(service.websocket, token="nonsense") as client:
            room = client.subscribe("news:1")
            with pytest.raises(ConnectionClosed) as caught:
                await anext(room)
            assert caught.value.disconnect.code == 3500
            with pytest.raises(ConnectionClosed):
                await client.publish("news:1", {})
            with pytest.raises(ConnectionClosed):
                await anext(client.subscribe("news:2"))

        async def nothing() -> str:
            raise PermissionDenied("logged out")

        async with Client(service.websocket, get_token=nothing) as client:
            with pytest.raises(PermissionDenied, match="logged out"):
                await client.publish("news:1", {})

    run(main())


def test_the_server_ends_a_subscription_or_a_client(service: Service) -> None:
    async def main() -> None:
        async with Client(service.websocket, token=connection_token("eve")) as client:
            one, two, own = (client.subscribe(channel) for channel in ("news:1", "news:2", "#eve"))
            for subscription in (one, two, own):
                await subscription.wait_subscribed()
            await asyncio.to_thread(service.publish, "#eve", 1)
            assert await numbers(own, 1) == [1]
            await asyncio.to_thread(service.api, "unsubscribe", user="eve", channel="news:1")
            with pytest.raises(PermissionDenied, match="2000"):
                await anext(one)
            await asyncio.to_thread(service.api, "disconnect", user="eve")
            with pytest.raises(ConnectionClosed) as caught:
                await anext(two)
            assert caught.value.disconnect.code == 3503

    run(main())


def test_a_slow_application_gets_all_of_it_in_order(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription_module, "WAITING", 20)

    async def main() -> None:
        async with Client(service.websocket) as client:
            room, bare = client.subscribe("news:slow"), client.subscribe("bare:slow")
            await room.wait_subscribed()
            await bare.wait_subscribed()
            await asyncio.to_thread(service.publish, "news:slow", *range(100))
            await asyncio.to_thread(service.publish, "bare:slow", *range(30))
            assert await numbers(room, 100) == list(range(100))
            with pytest.raises(Unrecoverable, match="keeps no history"):
                await numbers(bare, 30)
            await bare.wait_subscribed()
            assert len(room._waiting) == 0

    run(main())


def test_a_state_whose_loading_ends_slowly_is_loaded_again_after_a_cut(service: Service) -> None:
    """The loading was cancelled, and the subscribe on the next WebSocket waited for it: it was never asked for."""
    loads = 0

    async def main(relay: Cuttable) -> None:
        may_end, is_loading = asyncio.Event(), asyncio.Event()

        async def get_state(channel: str) -> Position:
            nonlocal loads
            loads += 1
            if loads > 1:
                assert other.position is not None
                return other.position
            try:
                is_loading.set()
                await asyncio.Event().wait()
            finally:
                await may_end.wait()  # a connection to a database is given back
            raise AssertionError("it was cancelled")

        url = f"ws://127.0.0.1:{relay.port}/connection/websocket"
        async with Client(url) as client, Client(service.websocket) as another:
            other = another.subscribe("news:slow-end")
            await other.wait_subscribed()
            room = client.subscribe("news:slow-end", get_state=get_state)
            await is_loading.wait()
            await wait_until(client._connection.is_ready.is_set)
            relay.cut()
            await wait_until(lambda: not client._connection.is_ready.is_set())
            await wait_until(client._connection.is_ready.is_set)
            with contextlib.suppress(CommandError):
                await client.rpc("none")  # is answered behind the connect
            may_end.set()
            await room.wait_subscribed()
            assert loads == 2

    with Cuttable(service.server.port) as relay:
        run(main(relay))


def test_nothing_is_loaded_any_more_for_a_subscription_that_was_closed(service: Service) -> None:
    """A state or a token that could not be fetched was fetched again and again, as long as the client lived."""
    fetched: dict[str, int] = {}

    async def fail(channel: str) -> Any:
        fetched[channel] = fetched.get(channel, 0) + 1
        raise OSError("away")

    async def main() -> None:
        async with Client(service.websocket) as client:
            closed = [
                client.subscribe("news:no-state", get_state=fail),
                client.subscribe("news:no-token", get_token=fail),
            ]
            client.subscribe("news:open", get_state=fail)
            await wait_until(lambda: len(fetched) == 3)
            for one in closed:
                one.close()
            before = fetched.copy()
            await wait_until(lambda: fetched["news:open"] >= before["news:open"] + 8)
            # one that was due at that moment may still have begun
            assert all(fetched[name] <= before[name] + 1 for name in ("news:no-state", "news:no-token"))

    run(main())


def test_a_token_that_is_refused_late_ends_no_later_subscription(service: Service) -> None:
    """The one that was made after the first was closed had no publication any more, and no error."""

    async def main() -> None:
        is_asked, may_fail = asyncio.Event(), asyncio.Event()

        async def get_token(channel: str) -> str:
            is_asked.set()
            await may_fail.wait()
            raise PermissionDenied("not you")

        async with Client(service.websocket) as client:
            first = client.subscribe("news:late-no", get_token=get_token)
            await is_asked.wait()
            first.close()
            async with client.subscribe("news:late-no") as room:
                await room.wait_subscribed()
                may_fail.set()
                await wait_until(lambda: first._ended is not None)
                await client.publish("news:late-no", {"n": 1})
                assert await numbers(room, 1) == [1]

    run(main())


class FakeClient:
    """A client that records the calls of its subscription."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def request_subscribe(self, subscription: Subscription) -> None:
        self.asked.append("subscribe")

    def request_unsubscribe(self, subscription: Subscription, *, is_over: bool) -> None:
        self.asked.append("unsubscribe")


def test_a_reply_is_taken_whole_though_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription_module, "WAITING", 3)

    async def main() -> None:
        client = FakeClient()
        room = Subscription(client, "room", since=None, token="", get_token=None, data=None)
        room.subscribed(m.SubscribeResult(recoverable=True, epoch="e"))
        pubs = [m.Publication(m.raw(b'{"n":%d}' % offset), offset=offset) for offset in range(1, 7)]
        for pub in pubs[:3]:
            room.published(pub)
        request = room.request()  # the connection was lost, and is there again
        assert (request.recover, request.offset) == (True, 3)
        assert request.recoverable  # otherwise other servers of the protocol do not recover it
        result = m.SubscribeResult(recoverable=True, recovered=True, epoch="e", offset=5, publications=pubs[3:5])
        room.subscribed(result)
        assert client.asked == []
        room.published(pubs[5])
        assert client.asked == ["unsubscribe"]
        assert await numbers(room, 5) == [1, 2, 3, 4, 5]
        assert room.request().offset == 5

    run(main())


def test_a_large_map_that_nobody_keeps_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription_module, "WAITING", 3)

    async def publish(request: m.PublishRequest) -> None:
        raise AssertionError("nobody publishes here")

    async def main() -> None:
        def answer(board: MapSubscription, entries: list[m.Publication]) -> None:
            board.request()
            result = m.SubscribeResult(type=1, state=entries)
            assert board.next_page(result) is None
            board.subscribed(result)

        client = FakeClient()
        board = MapSubscription(client, "board", token="", get_token=None, data=None, publish=publish)
        entries = [m.Publication(m.raw(b"1"), key=f"k{number}") for number in range(4)]
        answer(board, entries)
        board.published(m.Publication(key="k0", removed=True))
        reading = asyncio.create_task(_take(board, 5))
        await wait_until(lambda: client.asked == ["unsubscribe", "subscribe"])
        answer(board, entries[1:])
        await reading
        assert board.entries == {"k1": 1, "k2": 1, "k3": 1}

    run(main())


async def _take(board: MapSubscription, count: int) -> None:
    for _ in range(count):
        await anext(board)


def test_nothing_is_shown_behind_a_hole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription_module, "WAITING", 3)

    async def main() -> None:
        client = FakeClient()
        room = Subscription(client, "room", since=None, token="", get_token=None, data=None)
        room.subscribed(m.SubscribeResult(recoverable=True, epoch="e"))

        def publish(*offsets: int) -> None:
            for offset in offsets:
                room.published(m.Publication(m.raw(b'{"n":%d}' % offset), offset=offset))

        publish(1, 2, 3, 4)
        assert client.asked == ["unsubscribe"]
        assert await numbers(room, 2) == [1, 2]
        publish(5)  # it was under way when the server was asked to stop
        assert await numbers(room, 1) == [3]
        reading = asyncio.create_task(numbers(room, 3))
        await wait_until(lambda: client.asked == ["unsubscribe", "subscribe"])
        request = room.request()
        publish(6)  # this one, too: it belongs to the subscription that was ended
        assert (request.recover, request.offset, request.epoch) == (True, 3, "e")
        missed = [m.Publication(m.raw(b'{"n":%d}' % offset), offset=offset) for offset in (4, 5)]
        room.subscribed(
            m.SubscribeResult(
                recoverable=True, was_recovering=True, recovered=True, epoch="e", offset=3, publications=missed
            )
        )
        publish(6)
        assert await reading == [4, 5, 6]

    run(main())


def test_a_publish_says_what_became_of_it() -> None:
    async def silent(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send('{"id":1,"connect":{"client":"c","version":"v"}}')
        async for _ in socket:
            pass

    async def main() -> None:
        async with serve(silent, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            async with Client(f"ws://127.0.0.1:{port}", seconds=0.3) as client:
                with pytest.raises(PublishUnconfirmed):
                    await client.publish("x", {})
                with pytest.raises(CommandError) as caught:
                    await client.presence("x")
                assert caught.value.temporary
        async with Client(f"ws://127.0.0.1:{port}", seconds=0.3) as client:
            with pytest.raises(NotPublished, match="not connected"):
                await client.publish("x", {})

    run(main())


def test_a_store_that_failed_has_perhaps_kept_it() -> None:
    async def failing(socket: ServerConnection) -> None:
        async for frame in socket:
            for command in str(frame).splitlines():
                number = json.loads(command)["id"]
                answer: dict[str, Any] = {"connect": {"client": "c", "version": "v"}}
                if "publish" in command:
                    answer = {"error": {"code": 100, "message": "internal server error", "temporary": True}}
                await socket.send(json.dumps({"id": number, **answer}))

    async def main() -> None:
        async with serve(failing, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            async with Client(f"ws://127.0.0.1:{port}", seconds=5) as client:
                with pytest.raises(PublishUnconfirmed, match="internal server error"):
                    await client.publish("x", {})

    run(main())


def test_a_server_that_falls_silent_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidewire.client.client._PING_GRACE", 0.2)
    greeted, pongs = 0, 0

    async def silent(socket: ServerConnection) -> None:
        nonlocal greeted, pongs
        greeted += 1
        await socket.recv()
        await socket.send('{"id":1,"connect":{"client":"c","version":"v","ping":1,"pong":true}}')
        await socket.send("{}")
        pongs += await socket.recv() == "{}"
        await socket.wait_closed()

    async def main() -> None:
        async with serve(silent, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            async with Client(f"ws://127.0.0.1:{port}", seconds=0.5):
                await wait_until(lambda: greeted >= 2, 10.0)
        assert pongs

    run(main())


def test_a_client_that_is_closed_ends_what_iterates(service: Service) -> None:
    async def main() -> None:
        client = Client(service.websocket)
        async with client:
            room = client.subscribe("news:end")
            await room.wait_subscribed()
            reading: asyncio.Task[list[Any]] = asyncio.create_task(_all(room))
        assert await reading == []
        with pytest.raises(TidewireError, match="entered before"):
            await client.__aenter__()

    run(main())


async def _all(room: Subscription) -> list[Any]:
    return [publication async for publication in room]


def test_back_off_is_full_jitter_under_a_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "_LONGEST_DELAY", 20.0)
    for draw, expected in ((lambda low, high: low, [0.0] * 8), (lambda low, high: high, [0.5, 1, 2, 4, 8, 16, 20, 20])):
        _draw: Callable[[float, float], float] = draw
        monkeypatch.setattr(random, "uniform", _draw)
        assert [backoff.delay(attempt) for attempt in range(8)] == expected


@pytest.mark.parametrize("channel", ["board:py", "brief:py", "fleeting:py"])
def test_a_map_has_its_entries_whatever_was_missed(service: Service, channel: str) -> None:
    async def main(relay: Cuttable) -> None:
        url = f"ws://127.0.0.1:{relay.port}/connection/websocket"
        many = {f"k{number:04}": number for number in range(1_001)} if channel == "board:py" else {"k": 1}
        first = {**many, "a": {"x": 1}, "b": 2}
        await asyncio.to_thread(service.set, channel, **first)
        async with Client(url) as client, client.map(channel) as board:
            seen: list[tuple[str, Any, bool]] = []

            async def follow() -> None:
                async for change in board:
                    seen.append((change.key, change.data, change.removed))

            following = asyncio.create_task(follow())
            await wait_until(lambda: board.entries == first, 15)
            assert len(seen) == len(first)
            relay.refuse()
            await asyncio.to_thread(service.set, channel, a=None, b=3, c=4, d=5, e=6)
            relay.admit()
            rest = {**many, "b": 3, "c": 4, "d": 5, "e": 6}
            await wait_until(lambda: board.entries == rest, 15)
            assert sorted(key for key, _, _ in seen[len(first) :]) == list("abcde")
            following.cancel()
            await asyncio.wait([following])

    with Cuttable(service.server.port) as relay:
        run(main(relay), 60)


def test_entries_are_set_and_removed_where_that_is_allowed(service: Service) -> None:
    async def main() -> None:
        async with Client(service.websocket) as client, client.map("board:set") as board:
            await board.set("a", [1])
            await board.remove("a")
            await board.set("b", None or 0)
            found = [(change.key, change.data, change.removed) for change in [await anext(board) for _ in range(3)]]
            assert found == [("a", [1], False), ("a", None, True), ("b", 0, False)]
            assert board.entries == {"b": 0}
            brief = client.map("brief:set")
            with pytest.raises(PermissionDenied):
                await brief.set("a", 1)
            with pytest.raises(TidewireError, match="already"):
                client.map("brief:set")
            with pytest.raises(NotAvailable):
                await anext(client.map("news:1"))

    run(main())
