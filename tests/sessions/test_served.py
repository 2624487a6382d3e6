"""Commands of a served protocol: one at a time, each answered, none lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from engine.support import Client, FailingBroker, OffsetProtocol, connect, open_node, run, turns
from helpers.counting import reached
from tidewire import Hub
from tidewire.channel_options import ChannelOptions
from tidewire.errors import BadRequest
from tidewire.messages import Format, Position, WireMessage
from tidewire.protocols.native_commands import Ping, Publish, Subscribe, Unsubscribe
from tidewire.rules.base import Identity
from tidewire.sessions.access import Access
from tidewire.sessions.served import ServedCommands
from tidewire.testing import wait_until


class Commands(OffsetProtocol):
    """JSON arrays: ["publish", channel, text], ["subscribe", channel], ["unsubscribe", channel], ["ping"]."""

    def decode(self, message: str | bytes) -> Sequence[Any]:
        if message == "bug":
            raise ZeroDivisionError("a bug in a protocol")
        try:
            name, *rest = json.loads(message)
        except ValueError:
            raise BadRequest("expected an array") from None
        if name == "publish":
            return (Publish(rest[1].encode(), Format.TEXT, rest[0]),)
        if name == "both":
            return (Subscribe(rest[0]), Publish(b"x", Format.TEXT, rest[0]))
        return ({"subscribe": Subscribe, "unsubscribe": Unsubscribe}[name](*rest),) if rest else (Ping(),)

    def encode_pong(self) -> WireMessage | None:
        return WireMessage(b"pong")


def serve(node: Any, client: Client, channel: str = "") -> None:
    access = Access(node, Hub().authority, Identity(), client.connection)
    ServedCommands(node, client.connection, access, channel).start()


async def served(node: Any, channel: str = "") -> Client:
    client = await connect(node, Commands())
    serve(node, client, channel)
    return client


def kinds(client: Client) -> list[str]:
    return [" ".join(text.split(" ")[:3:2] if text[0] == "p" else text.split(" ")[:2]) for text in client.shown]


def test_commands_are_handled_in_their_order() -> None:
    async def main() -> None:
        async with open_node() as node:
            client = await served(node)
            for command in (["ping"], ["subscribe", "a"], ["publish", "a", "1"], ["both", "b"], ["ping"]):
                client.link.receive(json.dumps(command))
            await wait_until(lambda: client.shown.count("pong") == 2)
            assert kinds(client) == ["pong", "s a", "p 1", "s b", "p 1", "pong"]
            client.link.receive('["unsubscribe", "a"]')
            client.link.receive('["publish", "a", "2"]')
            client.link.receive('["ping"]')
            await wait_until(lambda: client.shown.count("pong") == 3)
            assert client.offsets() == [1]
            client.link.vanish()

    run(main())


def test_what_came_before_is_handled_too() -> None:
    async def main() -> None:
        async with open_node() as node:
            client = await connect(node, Commands())
            client.link.receive('["ping"]')
            await turns(3)
            assert client.shown == []
            serve(node, client)
            await wait_until(lambda: client.shown == ["pong"])
            client.link.vanish()

    run(main())


def test_an_idle_connection_has_no_task() -> None:
    async def main() -> None:
        async with open_node() as node:
            before = len(asyncio.all_tasks())
            clients = [await served(node) for _ in range(20)]
            for client in clients:
                client.link.receive('["ping"]')
            await wait_until(lambda: all(client.shown for client in clients))
            await turns(3)
            assert len(asyncio.all_tasks()) == before
            for client in clients:
                client.link.vanish()

    run(main())


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("nonsense", "bad_request"),
        ('["subscribe", "$user:ann"]', "permission_denied"),
        ('["publish", "$control", "x"]', "permission_denied"),
        ('["unsubscribe", "$user:ann"]', "permission_denied"),
        ('["subscribe", "closed"]', "permission_denied"),
        ('["publish", "closed", "x"]', "permission_denied"),
        ('["subscribe", ""]', "bad_request"),
        ('["subscribe", " "]', "bad_request"),
        ('["publish", "", "x"]', "bad_request"),
    ],
)
def test_a_refused_command_is_answered_and_the_connection_lives_on(command: str, code: str) -> None:
    async def main() -> None:
        rules = {"closed": ChannelOptions(subscribe=False, publish=False)}
        async with open_node(rules=rules) as node:
            client = await served(node)
            client.link.receive(command)
            client.link.receive('["ping"]')
            await wait_until(lambda: client.shown == [f"e {code}", "pong"])
            client.link.vanish()

    run(main())


def test_an_outage_is_answered_as_temporary() -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker) as node:
            client = await served(node)
            broker.away()
            for command in ('["publish", "a", "1"]', '["subscribe", "a"]', '["ping"]'):
                client.link.receive(command)
            await wait_until(lambda: client.shown == ["e unavailable", "e unavailable", "pong"])
            broker.back()
            client.link.receive('["subscribe", "a"]')
            await wait_until(lambda: kinds(client)[-1] == "s a")
            client.link.vanish()

    run(main())


def test_a_bug_costs_its_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with open_node() as node:
            client, other = await served(node), await served(node)
            client.link.receive("bug")
            client.link.receive('["ping"]')
            await wait_until(lambda: client.link.closed_with == (1011, "internal error"))
            assert client.connection.failed
            other.link.receive('["ping"]')
            await wait_until(lambda: other.shown == ["pong"])
            assert client.shown == []
            other.link.vanish()

    run(main())
    assert "a bug in a protocol" in caplog.text


def test_the_routes_channel_is_meant_where_none_is_named() -> None:
    async def main() -> None:
        async with open_node() as node:
            client = await served(node, "a")
            await client.subscribe("a")
            client.link.receive('["publish", "", "1"]')
            await wait_until(lambda: client.offsets() == [1])
            client.link.vanish()

    run(main())


def test_a_client_recovers_by_itself() -> None:
    class Recovering(Commands):
        def decode(self, message: str | bytes) -> Sequence[Any]:
            offset, epoch = str(message).split(" ")
            return (Subscribe("a", Position(int(offset), epoch)),)

    async def main() -> None:
        async with open_node() as node:
            keeper = await connect(node, channel="a")
            for number in range(5):
                await node.publish("a", b"%d" % number, Format.TEXT)
            client = await connect(node, Recovering())
            serve(node, client)
            client.link.receive(f"2 {node.registry.channels['a'].position.epoch}")
            await wait_until(lambda: client.offsets() == [3, 4, 5])
            assert client.shown[0].split(" ")[4] == "True"
            for each in (client, keeper):
                each.link.vanish()

    run(main())


def test_publishes_wait_for_the_store_together_and_keep_their_order() -> None:
    async def main() -> None:
        async with open_node(publishes_in_flight=3) as node:
            broker = node.broker
            assert isinstance(broker, FailingBroker)
            client = await served(node, "a")
            client.link.receive('["subscribe", "a"]')
            await wait_until(lambda: kinds(client) == ["s a"])
            broker.publish_gate.clear()
            for number in range(6):
                client.link.receive(json.dumps(["publish", "a", str(number)]))
            client.link.receive('["ping"]')
            await wait_until(lambda: reached()["publishes_in_flight"] == 1)
            assert "pong" not in client.shown
            broker.publish_gate.set()
            await wait_until(lambda: "pong" in client.shown)
            assert [text.rsplit(" ", 1)[1] for text in client.shown if text.startswith("p ")] == list("012345")
            assert client.shown[-1] == "pong"
            client.link.vanish()

    run(main())
