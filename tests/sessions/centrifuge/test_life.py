"""How a session goes on and ends: pings, expiry, refresh, limits, and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from typing import Any, cast

import pytest

from engine.support import FailingBroker, run, turns
from sessions.centrifuge.support import JSON, PROTOBUF, begin, connect, names, open_sessions
from tidewire.channel_options import ChannelOptions
from tidewire.errors import Disconnect
from tidewire.links.bytes_ahead import BytesAhead
from tidewire.protocols.centrifuge.encoding import CentrifugeJson, CentrifugeProtocol
from tidewire.protocols.close_codes import INTERNAL_ERROR, NORMAL, SHUTDOWN, SLOW
from tidewire.rules.base import Grant, Identity
from tidewire.sessions.centrifuge import session_orders
from tidewire.sessions.centrifuge.directory import Sessions
from tidewire.testing import FakeLink, wait_until

both = pytest.mark.parametrize("protocol", [JSON, PROTOBUF], ids=["json", "protobuf"])


# Pings.


@both
def test_pings_come_on_schedule_and_want_their_answer(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions(ping_seconds=0.5, protocol_pong_seconds=0.3) as node:
            client = await connect(node, protocol=protocol)
            for count in (1, 2):
                await wait_until(lambda count=count: client.all.count({}) == count)  # type: ignore[misc]
                client.send({})
            assert client.link.closed_with is None
            await client.wait_closed(3012)
            assert client.all.count({}) >= 3
            assert node.statistics().limits_reached["protocol_pong_seconds"] == 1

    run(main())


@both
def test_a_pong_that_answers_nothing_ends_the_connection(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await connect(node, protocol=protocol)
            client.send({})
            assert await client.wait_closed(3501) == "bad request"

    run(main())


def test_a_client_whose_answers_we_do_not_read_is_not_ended_for_them() -> None:
    async def main() -> None:
        async with open_sessions(ping_seconds=0.3, protocol_pong_seconds=0.3) as node:
            broker = node.broker
            assert isinstance(broker, FailingBroker)
            client = await connect(node)
            broker.publish_gate.clear()
            client.send({"id": 5, "publish": {"channel": "history:a", "data": 1}})
            client.send({"id": 6, "subscribe": {"channel": "plain"}})
            client.send({"id": 7, "unsubscribe": {"channel": "plain"}})
            await wait_until(lambda: client.all.count({}) >= 3)
            assert client.link.closed_with is None
            broker.publish_gate.set()
            await wait_until(lambda: client.reply(7) is not None)
            await client.wait_closed(3012)

    run(main())


class SlowLink(FakeLink):
    """The link of a client that has other bytes to take before the last ones."""

    __slots__ = ("are_taken", "is_taking")

    def __init__(self) -> None:
        super().__init__()
        self.is_taking = True
        self.are_taken = False

    def bytes_ahead(self) -> BytesAhead:
        return cast(BytesAhead, self)

    def have_moved(self) -> bool:
        return self.is_taking


@pytest.mark.parametrize("stops", ["is_taking", "are_taken"])
def test_a_client_is_not_ended_for_a_ping_behind_bytes_that_it_takes_slowly(
    stops: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with open_sessions(ping_seconds=0.3, protocol_pong_seconds=0.1) as node:
            monkeypatch.setattr("sessions.centrifuge.support.FakeLink", SlowLink)
            client = await connect(node)
            link = client.link
            assert isinstance(link, SlowLink)
            await wait_until(lambda: client.all.count({}) >= 3)
            assert link.closed_with is None
            setattr(link, stops, not getattr(link, stops))
            await client.wait_closed(3012)

    run(main())


def test_without_pings_the_client_is_told_so() -> None:
    async def main() -> None:
        async with open_sessions(ping_seconds=0.3) as node:
            client = await connect(node, pings=False)
            assert not {"ping", "pong"} & set(client.all[0]["connect"])
            await asyncio.sleep(0.7)
            assert {} not in client.all

    run(main())


def test_who_never_connects_is_sent_away() -> None:
    async def main() -> None:
        async with open_sessions(auth_seconds=0.1) as node:
            client, failed, connected = await begin(node), await begin(node), await connect(node)
            await failed.ask("connect", token="expired")
            await client.wait_closed(3502)
            await failed.wait_closed(3502)
            assert connected.link.closed_with is None
            assert node.statistics().limits_reached["auth_seconds"] == 2

    run(main())


# Expiry.


@both
def test_a_connection_that_is_not_refreshed_ends_after_the_grace(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions(expiry_grace_seconds=0.5) as node:
            client, refreshed = [await connect(node, "user:ann ttl:0.2", protocol=protocol) for _ in range(2)]
            reply = await refreshed.ask("refresh", token="user:ann ttl:60")
            assert reply.pop("version")
            assert reply == {"client": refreshed.connection.id, "expires": True, "ttl": 60}
            await asyncio.sleep(0.3)
            assert client.link.closed_with is None
            assert await client.wait_closed(3005) == "connection expired"
            assert refreshed.link.closed_with is None
            assert not {"expires", "ttl"} & set(await refreshed.ask("refresh", token="user:ann"))

    run(main())


@both
def test_publications_name_the_publisher_as_it_is_after_a_refresh(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await connect(node, 'user:ann ttl:60 info:{"n":1}', channel="a", protocol=protocol)
            for token in ('user:ann ttl:60 info:{"n":2}', "user:ann"):
                for data in (1, 2):
                    await client.ask("publish", channel="a", data=data)
                await client.ask("refresh", token=token)
            await client.ask("publish", channel="a", data=1)
            infos = [push["pub"]["info"].get("conn_info") for push in await client.wait_pushes("pub", 5)]
            assert infos == [{"n": 1}, {"n": 1}, {"n": 2}, {"n": 2}, None]

    run(main())


@pytest.mark.parametrize(
    ("token", "code"), [("expired", 3005), ("bad", 3500), ("user:bob", 3500), ("user:ann subs:history:b", 3010)]
)
def test_a_refresh_that_cannot_be_ends_the_connection(token: str, code: int) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await connect(node, "user:ann ttl:60")
            client.send({"id": 2, "refresh": {"token": token}})
            await client.wait_closed(code)

    run(main())


@both
def test_a_subscription_that_is_not_refreshed_ends_after_the_grace(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions(expiry_grace_seconds=0.3) as node:
            client = await connect(node, protocol=protocol)
            reply = await client.ask("subscribe", channel="history:a", token="ttl:0.2")
            assert reply == {"expires": True, "ttl": 1}
            await client.ask("subscribe", channel="history:b", token="ttl:0.2")
            await client.ask("subscribe", channel="history:c", token="ttl:0.2")
            assert await client.ask("sub_refresh", channel="history:b", token="ttl:60") == {"expires": True, "ttl": 60}
            assert await client.ask("sub_refresh", token="ttl:60 channel:history:c") is not None
            [told] = await client.wait_pushes("unsubscribe")
            assert told == {"channel": "history:a", "unsubscribe": {"code": 2501, "reason": "subscription expired"}}
            client.send({"id": 60, "sub_refresh": {"channel": "history:b", "token": "expired"}})
            assert (await client.wait_pushes("unsubscribe", 2))[1]["channel"] == "history:b"
            assert client.reply(60) is None

    run(main())


@pytest.mark.parametrize("jump", [-3_600, 2 * 86_400])
def test_a_jump_of_the_wall_clock_moves_no_expiry(monkeypatch: pytest.MonkeyPatch, jump: int) -> None:
    async def main() -> None:
        async with open_sessions(expiry_grace_seconds=0.5) as node:
            short, long = [await connect(node, f"user:ann ttl:{ttl}") for ttl in (0.2, 60)]
            subscribed = await connect(node, "user:bob")
            await subscribed.ask("subscribe", channel="history:b", token="ttl:0.2")
            true = time.time
            monkeypatch.setattr(time, "time", lambda: true() + jump)
            assert await short.wait_closed(3005) == "connection expired"
            assert (await subscribed.wait_pushes("unsubscribe"))[0]["unsubscribe"]["code"] == 2501
            await asyncio.sleep(1)
            assert long.link.closed_with is None

    run(main())


def test_a_subscription_of_the_server_that_expires_ends_the_connection() -> None:
    async def main() -> None:
        async with open_sessions(expiry_grace_seconds=0.1) as node:
            client = await connect(node, "user:ann")
            await session_orders.subscribe(node, "ann", "history:a", Grant(ChannelOptions(), expires_at=1.0))
            assert await client.wait_closed(3006) == "subscription expired"

    run(main())


def test_the_application_refreshes_and_expires_connections() -> None:
    async def main() -> None:
        async with open_sessions(expiry_grace_seconds=0.1) as node:
            client = await connect(node, "user:ann ttl:0.1")
            await session_orders.refresh(node, "ann")
            assert (await client.wait_pushes("refresh"))[0] == {"refresh": {}}
            await asyncio.sleep(0.6)
            assert client.link.closed_with is None
            await session_orders.refresh(node, "ann", expired=True)
            await client.wait_closed(3005)

    run(main())


def test_an_identity_that_has_expired_is_told_so() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await begin(node, identity=Identity("ann", expires_at=1.0))
            assert (await client.ask("connect"))["error"] == {"code": 110, "message": "expired"}

    run(main())


# Limits.


def test_commands_of_one_frame_count_for_the_rate() -> None:
    async def main() -> None:
        async with open_sessions(rate=1.0, burst=10) as node:
            client = await connect(node)
            client.send(*({"id": n, "rpc": {"method": "echo"}} for n in range(2, 30)))
            client.send({"id": 30, "rpc": {"method": "echo"}}, {"id": 31, "rpc": {"method": "echo"}})
            await wait_until(lambda: client.reply(31) is not None)
            await wait_until(lambda: client.reply(29) is not None)
            client.send({"id": 32, "rpc": {"method": "echo"}})
            await wait_until(lambda: client.reply(32) is not None)
            error = {"code": 111, "message": "too many requests", "temporary": True}
            assert client.reply(32) == {"error": error}
            assert client.link.closed_with is None

    run(main())


@both
def test_what_a_client_says_right_before_it_leaves_is_done_and_then_it_leaves(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            follower = await connect(node, channel="recovery:a")
            client = await begin(node, protocol=protocol)
            client.send({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "recovery:a"}})
            client.send(*({"id": n, "publish": {"channel": "recovery:a", "data": n}} for n in range(3, 6)))
            client.send({"id": 6, "publish": {"channel": "recovery:a", "data": 6}})
            client.link.vanish(NORMAL, clean=True)
            await follower.wait_pushes("leave")
            assert names(follower.pushes())[-6:] == ["join", "pub", "pub", "pub", "pub", "leave"]
            assert follower.data("recovery:a") == [3, 4, 5, 6]
            assert client.connection.is_closed

    run(main())


@both
def test_publishes_wait_for_the_store_together_and_keep_their_order(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions(publishes_in_flight=4) as node:
            broker = node.broker
            assert isinstance(broker, FailingBroker)
            client = await connect(node, channel="history:a", protocol=protocol)
            broker.publish_gate.clear()
            client.send(*({"id": n, "publish": {"channel": "history:a", "data": n}} for n in range(10, 20)))
            client.send({"id": 20, "rpc": {"method": "echo"}})
            await wait_until(lambda: len(client.session.queue.publishes) == 4)
            await turns(5)
            assert client.reply(20) is None
            broker.publish_gate.set()
            await client.wait_pushes("pub", 10)
            assert client.data() == list(range(10, 20))
            await wait_until(lambda: client.reply(20) is not None)
            ids = [message["id"] for message in client.all if "id" in message]
            assert ids == [1, 2, *range(10, 21)]
            assert node.statistics().limits_reached["publishes_in_flight"] > 0

    run(main())


def test_a_store_that_is_away_is_told_as_temporary() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            broker = node.broker
            assert isinstance(broker, FailingBroker)
            client = await connect(node)
            broker.away()
            for method in ("publish", "subscribe", "history"):
                data = {"data": 1} if method == "publish" else {}
                error = (await client.ask(method, channel="history:a", **data))["error"]
                assert error == {"code": 100, "message": "internal server error", "temporary": True}
            broker.back()
            assert await client.ask("publish", channel="history:a", data=1) == {}

    run(main())


def test_too_many_connections_of_a_user_are_told_to_come_later() -> None:
    async def main() -> None:
        async with open_sessions(connections_per_user=1) as node:
            await connect(node, "user:ann")
            client = await begin(node)
            client.send({"id": 1, "connect": {"token": "user:ann"}})
            await client.wait_closed(1013)

    run(main())


# Ends.


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (SHUTDOWN, 3001),
        (SLOW, 3008),
        (INTERNAL_ERROR, 3004),
        (Disconnect(4321, "mine"), 4321),
        (Disconnect(3011, "x"), 3011),
    ],
)
def test_reasons_of_the_server_have_the_codes_of_the_protocol(end: Disconnect, code: int) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await connect(node)
            client.connection.end(end)
            await client.wait_closed(code)

    run(main())


def test_a_reason_is_never_json() -> None:
    for reason in ('{"a":1}', "12", "true", '"x"', "[1]"):
        assert JSON.close_code(Disconnect(4001, reason)) == (4001, f"({reason})")


def test_a_one_way_client_is_told_everything_as_bare_pushes() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await begin(node, protocol=CentrifugeJson(one_way=True))
            client.send({"id": 1, "connect": {"token": "user:ann subs:history:a"}})
            await wait_until(lambda: client.all != [])
            [told] = client.all
            assert told["connect"]["session"] == client.session.secret
            assert told["connect"]["ping"] == 25
            assert "pong" not in told["connect"]
            await node.publish("history:a", b"1")
            await wait_until(lambda: len(client.all) == 2)
            assert client.all[1] == {"channel": "history:a", "pub": {"data": 1, "offset": 1}}

    run(main())


def test_nothing_is_left_of_a_session() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            sessions = Sessions.of(node)
            client = await connect(node, "user:ann", channel="recovery:a")
            reference = weakref.ref(client.session)
            assert sessions.of_connection(client.session.connection.id) is client.session
            assert client.session.secret == "", "nobody else may act for a client on a WebSocket of its own"
            assert sessions.get("") is None
            client.link.vanish()
            await client.wait_gone()
            assert len(sessions) == 0
            gc.collect()
            gc.disable()
            try:
                del client
                await turns(3)
            finally:
                gc.enable()
            assert reference() is None

    run(main())


@both
@pytest.mark.parametrize("method", ["connect", "subscribe"])
def test_who_leaves_while_a_subscribe_waits_is_no_fault(
    protocol: CentrifugeProtocol, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            broker = node.broker
            assert isinstance(broker, FailingBroker)
            client = await begin(node, protocol=protocol) if method == "connect" else await connect(node)
            broker.subscribe_gate.clear()
            request = {"token": "subs:recovery:a"} if method == "connect" else {"channel": "recovery:a"}
            client.send({"id": 9, method: request})
            await wait_until(
                lambda: "recovery:a" in node.registry.subscriptions(client.connection), what="the store is asked"
            )
            client.link.vanish()
            broker.subscribe_gate.set()
            await wait_until(lambda: not client.session.queue.is_running, what="the session has ended")
            await client.wait_gone()
            assert not client.session.subscriptions.channels
            assert not await node.presence.members("recovery:a")
            assert await (await connect(node)).ask("subscribe", channel="recovery:a")

    run(main())
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_an_idle_session_has_no_task_and_no_timer_of_its_own() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            before = len(asyncio.all_tasks())
            clients: list[Any] = [await connect(node, channel="recovery:a") for _ in range(20)]
            await turns(5)
            assert len(asyncio.all_tasks()) == before
            assert len(clients) == 20

    run(main())
