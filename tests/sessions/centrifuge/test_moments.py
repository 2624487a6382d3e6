"""What falls into the same moment: an end during a connect, a subscribe during a publish, more than a client takes."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.support import FailingBroker, run, turns
from helpers.counting import reached
from sessions.centrifuge.authority import WordAuthority
from sessions.centrifuge.support import Client, begin, connect, open_sessions
from sessions.centrifuge.test_deltas import publish, rebuilt
from tidewire.backends import open_backend
from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.limits import Limits
from tidewire.links.stream import LINES, StreamLink
from tidewire.messages import Position
from tidewire.protocols.centrifuge.messages import SubscribeRequest
from tidewire.rules.base import Caller, ConnectAttempt, Identity
from tidewire.sessions.centrifuge import emulation
from tidewire.sessions.centrifuge.directory import Sessions
from tidewire.sessions.centrifuge.session import Session
from tidewire.sessions.centrifuge.websocket_route import JSON
from tidewire.testing import wait_until


class SlowAuthority(WordAuthority):
    """Decides when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.asked = 0

    async def connect(self, attempt: ConnectAttempt, identity: Identity | None) -> Identity:
        self.asked += 1
        await self.gate.wait()
        return await super().connect(attempt, identity)


def test_who_leaves_while_it_connects_leaves_nothing() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            for token in ("", "user:ann", "subs:history:a"):
                authority = SlowAuthority()
                client = await begin(node, authority)
                client.send({"id": 1, "connect": {"token": token}})
                await wait_until(lambda authority=authority: authority.asked == 1)  # type: ignore[misc]
                client.link.vanish()
                authority.gate.set()
                await turns(10)
                assert not len(Sessions.of(node)), token
                assert not client.session.subscriptions.channels

    run(main())


def test_a_difference_is_only_sent_to_who_was_given_its_base() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            values = [{"text": "abc" * 50, "n": n} for n in range(3)]
            client = await connect(node)
            other = await connect(node, channel="delta:a")
            # delivered, and not yet written when the subscribe is answered
            channel = node.registry.channels["delta:a"]
            await publish(node, values[0], channel="delta:a")
            assert channel.pending
            ready = await client.session.subscriptions.prepare(*await _wish(client))
            assert channel.pending
            assert ready.prepared.answer.position == Position(1, channel.position.epoch)
            await client.session.subscriptions.go_live(ready, (), client.session.credentials.identity)
            for value in values[1:]:
                await turns(3)
                await publish(node, value, channel="delta:a")
            await client.wait_pushes("pub", 2)
            await other.wait_pushes("pub", 3)
            assert [msgspec.json.decode(data) for data in rebuilt(client, "delta:a")] == values[1:]

    run(main())


async def _wish(client: Client) -> tuple[Any, ...]:
    session = client.session
    grant = await WordAuthority().subscribe(Caller("", session.credentials.identity), "delta:a", "", b"")
    return "delta:a", grant, SubscribeRequest("delta:a", delta="fossil"), session.credentials.identity


def test_who_takes_no_answers_is_given_no_more_of_them() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            for _ in range(50):
                await publish(node, "x" * 10_000)
            client = await connect(node)
            client.link.stall()
            client.send(*({"id": n, "history": {"channel": "history:a", "limit": 50}} for n in range(10, 40)))
            for n in range(40, 60):
                client.send({"id": n, "history": {"channel": "history:a", "limit": 50}})
            await turns(200)
            size, _ = client.link.worst_backlog
            assert 500_000 < size < 5_000_000
            client.link.take()
            await wait_until(lambda: client.reply(59) is not None)

    run(main())


def test_what_is_held_for_a_slow_client_is_what_its_filter_wants() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            wanted = {"key": "kind", "cmp": "eq", "val": "wanted"}
            client = await connect(node)
            for channel in ("newest:a", "dropped:a"):
                await client.ask("subscribe", channel=channel, tf=wanted)
            client.link.stall()
            for channel in ("newest:a", "dropped:a"):
                await publish(node, "x" * 70_000, channel=channel, tags={"kind": "wanted"})
                await turns(3)
                await publish(node, 1, channel=channel, tags={"kind": "wanted"})
                await publish(node, 2, channel=channel, tags={"kind": "other"})
                await turns(3)
            client.link.take()
            assert client.data("newest:a")[1:] == [1]
            [told] = [push["message"]["data"] for push in client.pushes("message")]
            assert told == {"type": "dropped", "channel": "dropped:a", "count": 2}
            assert (node.statistics().superseded, node.statistics().dropped) == (0, 2)

    run(main())


def test_a_slow_call_holds_nothing_else_back() -> None:
    async def main() -> None:
        async with open_sessions(calls_in_flight=2) as node:
            broker = node.broker
            assert isinstance(broker, FailingBroker)
            client = await connect(node)
            authority = client.authority
            assert isinstance(authority, WordAuthority)
            client.send({"id": 11, "rpc": {"method": "wait", "data": 11}})
            for method, request in (
                ("subscribe", {"channel": "history:a"}),
                ("publish", {"channel": "history:a", "data": 1}),
                ("unsubscribe", {"channel": "history:a"}),
            ):
                assert "error" not in await client.ask(method, **request)
            # what is read was asked for behind a publish, and sees it
            broker.publish_gate.clear()
            client.send(
                {"id": 12, "publish": {"channel": "history:a", "data": 2}},
                {"id": 13, "history": {"channel": "history:a", "limit": -1}},
                {"id": 14, "rpc": {"method": "wait", "data": 14}},
            )
            await turns(5)
            assert not client.reply(13)
            broker.publish_gate.set()
            await wait_until(lambda: client.reply(13) is not None)
            found = client.reply(13)
            assert found is not None
            assert [pub["data"] for pub in found["history"]["publications"]] == [1, 2]
            client.send({"id": 15, "rpc": {"method": "wait", "data": 15}}, {"id": 16, "rpc": {"method": "echo"}})
            await wait_until(lambda: reached()["calls_in_flight"] > 0)
            assert [n for n in (11, 14, 15, 16) if client.reply(n)] == []
            authority.answers.set()
            await wait_until(lambda: all(client.reply(n) for n in (11, 14, 15, 16)))

    run(main())


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("rpc", {"method": "boom"}),
        ("subscribe", {"channel": "boom"}),
        ("publish", {"channel": "boom", "data": 1}),
        ("history", {"channel": "boom"}),
        ("presence", {"channel": "boom"}),
        ("presence_stats", {"channel": "boom"}),
    ],
)
def test_a_bug_of_the_application_answers_its_command_alone(
    method: str, request_: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await connect(node, channel="history:a")
            reply = await client.ask(method, **request_)
            assert reply["error"] == {"code": 100, "message": "internal server error", "temporary": True}
            assert "ZeroDivisionError" in caplog.text or "a bug of the application" in caplog.text
            assert await client.ask("rpc", method="echo", data=1) == {"data": 1}
            assert not client.connection.is_closed
            assert client.session.subscriptions.channels

    run(main())


def test_a_bug_in_a_message_without_answer_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await connect(node)
            client.send({"send": {"data": "boom"}})
            assert await client.ask("rpc", method="echo", data=1) == {"data": 1}
            assert "ZeroDivisionError" in caplog.text

    run(main())


def test_a_bug_in_the_connect_is_a_temporary_error(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await begin(node)
            reply = await client.ask("connect", token="boom")
            assert reply["error"]["code"] == 100
            assert "ZeroDivisionError" in caplog.text

    run(main())


def test_a_history_reply_has_a_limit_in_bytes() -> None:
    async def main() -> None:
        async with open_sessions(reply_bytes=1_200) as node:
            for number in range(5):
                await publish(node, [number, "x" * 300])
            before = reached()["reply_bytes"]
            client = await connect(node)
            found = await client.ask("history", channel="history:a", limit=-1)
            assert [pub["data"][0] for pub in found["publications"]] == [0, 1, 2]
            assert found["offset"] == 5
            found = await client.ask("history", channel="history:a", limit=-1, reverse=True)
            assert [pub["data"][0] for pub in found["publications"]] == [4, 3, 2]
            assert reached()["reply_bytes"] == before + 2

    run(main())


def test_made_up_nodes_are_asked_for_so_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            monkeypatch.setattr(emulation, "_SECONDS", 0.2)
            asked = [emulation.Emulation.of(node).deliver(f"{number:012x}", "s", "{}") for number in range(40)]
            assert Counter(await asyncio.gather(*asked)) == {404: 16, 429: 24}
            assert reached()["relays"] == 24
            assert await emulation.Emulation.of(node).deliver("gone", "s", "{}") == 404

    run(main())


def test_a_session_that_reads_no_more_is_not_told_as_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulation, "_TAKING_SECONDS", 0.1)

    async def main() -> None:
        nodes = [Node(*open_backend(f"sqlite:///{tmp_path}/a.db", Limits()), limits=Limits()) for _ in range(2)]
        near, far = nodes
        for node in nodes:
            await node.start()
            emulation.Emulation.of(node)
        link = StreamLink(_never, _ignore, far.limits, LINES, last_message=JSON.encode_disconnect)
        connection = Connection(link, JSON, user="", address="", limits=far.limits)
        await far.attach(connection)
        session = Session(far, WordAuthority(), connection, identity=None, emulated=True)
        session.start()
        connection.message_received('{"id":1,"connect":{}}')
        await wait_until(lambda: len(Sessions.of(far)) == 1)
        link.pause_reading()
        deliver = emulation.Emulation.of(near).deliver
        assert await deliver(far.id, session.secret, '{"id":2,"rpc":{"method":"echo"}}') == 429
        link.resume_reading()
        before = link.backlog()[1]
        assert await deliver(far.id, session.secret, '{"id":3,"rpc":{"method":"echo"}}') == 204
        await wait_until(lambda: link.backlog()[1] == before + 1)
        link.abort()
        for node in nodes:
            await node.aclose()

    run(main())


async def _never() -> Any:
    await asyncio.Event().wait()


async def _ignore(event: Any) -> None:
    return


class LargeAnswers(WordAuthority):
    """Answers with much, after a while; counts how many answers it makes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.running = self.most = 0
        self.gate = asyncio.Event()

    async def rpc(self, caller: Caller, method: str, data: bytes) -> bytes:
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.wait_for(self.gate.wait(), 20)
        self.running -= 1
        return b'"' + b"x" * (70_000 if method == "large" else 10) + b'"'


@pytest.mark.parametrize(("method", "most"), [("large", 1), ("small", 16)])
def test_the_first_burst_of_a_call_waits_for_one_answer(method: str, most: int) -> None:
    """Of large answers one is made at a time for each client, also before anybody knew that they are large."""

    async def main() -> None:
        async with open_sessions() as node:
            authority = LargeAnswers()
            client = await begin(node, authority)
            await client.ask("connect", token="user:ann")
            client.send(*({"id": number, "rpc": {"method": method}} for number in range(10, 30)))
            await turns(20)
            assert authority.most == 1
            authority.gate.set()
            await wait_until(lambda: all(client.reply(number) for number in range(10, 30)))
            authority.gate.clear()
            authority.most = 0
            client.send(*({"id": number, "rpc": {"method": method}} for number in range(30, 50)))
            await turns(20)
            assert authority.most == most
            authority.gate.set()
            await wait_until(lambda: all(client.reply(number) for number in range(30, 50)))

    run(main())


def test_a_call_that_takes_its_time_holds_up_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidewire.sessions.reply_budget._FIRST_SECONDS", 0.05)

    async def main() -> None:
        async with open_sessions() as node:
            authority = LargeAnswers()
            client = await begin(node, authority)
            await client.ask("connect", token="user:ann")
            client.send(*({"id": number, "rpc": {"method": "small"}} for number in range(10, 13)))
            await wait_until(lambda: authority.most == 3)
            authority.gate.set()
            await wait_until(lambda: all(client.reply(number) for number in range(10, 13)))

    run(main())
