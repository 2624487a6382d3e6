"""One client: its inbox, its rate, its end."""

from __future__ import annotations

import asyncio
import os

import pytest

from helpers.counting import reached
from tidewire.engine.connection import Connection
from tidewire.errors import ConfigurationError, ConnectionClosed, Disconnect
from tidewire.limits import Limits
from tidewire.messages import WireMessage
from tidewire.protocols.close_codes import FORCED, GONE, NORMAL
from tidewire.protocols.plain import PLAIN
from tidewire.testing import FakeLink, wait_until

from .support import run, turns


def connection(**limits: float) -> tuple[Connection, FakeLink]:
    link = FakeLink()
    made = Connection(link, PLAIN, user="", address="", limits=Limits(**limits))  # type: ignore[arg-type]
    link.listen(made)
    return made, link


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_forked_processes_give_ids_of_their_own() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, connection()[0].id.encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs, ours = os.read(reader, 100).decode(), connection()[0].id
    os.close(reader)
    os.close(writer)
    assert theirs.partition("-")[0] != ours.partition("-")[0]


def test_messages_are_received_in_their_order_then_the_end() -> None:
    async def main() -> None:
        client, link = connection()
        link.receive("a")
        link.receive(b"b")
        assert client.has_messages
        assert [await client.receive(), await client.receive()] == ["a", b"b"]
        assert not client.has_messages
        link.receive("last")
        link.vanish(Disconnect(4001, "bye"))
        assert await client.receive() == "last"
        for _ in range(2):
            with pytest.raises(ConnectionClosed) as caught:
                await client.receive()
            assert caught.value.disconnect == Disconnect(4001, "bye")

    run(main())


def test_reading_pauses_at_the_limit_and_goes_on_below_it() -> None:
    async def main() -> None:
        client, link = connection(inbox_bytes=1_000)
        for _ in range(5):
            link.receive(b"x" * 200)
        assert not link.is_reading
        assert list(reached().elements()) == ["inbox_bytes"]
        while not link.is_reading:
            await client.receive()
        assert client.has_messages

    run(main())


def test_empty_messages_fill_the_inbox_too() -> None:
    async def main() -> None:
        client, link = connection(inbox_bytes=6_400, burst=1_000)
        for _ in range(101):
            link.receive("")
        assert not link.is_reading
        await client.receive()
        assert link.is_reading

    run(main())


@pytest.mark.parametrize(
    ("message", "is_over"), [("x" * 100, False), ("x" * 101, True), ("é" * 51, True), ("é" * 50, False)]
)
def test_the_size_of_a_message_is_counted_in_bytes(message: str, is_over: bool) -> None:
    async def main() -> None:
        client, link = connection(message_size=100)
        link.receive(message)
        assert list(reached().elements()) == ["message_size"] * is_over
        assert link.closed_with == ((1009, "message too big") if is_over else None)
        assert client.has_messages is not is_over

    run(main())


def test_who_sends_too_fast_is_told_then_disconnected() -> None:
    async def main() -> None:
        client, link = connection(rate=0.001, burst=5)
        for number in range(20):
            link.receive(str(number))
        assert [await client.receive() for _ in range(5)] == list("01234")
        assert len(link.sent) == 5
        assert "too many messages" in link.data[0].decode()
        assert link.closed_with is not None
        assert link.closed_with[0] == 1008
        assert set(reached()) == {"rate"}

    run(main())


def test_a_large_message_counts_as_one_for_each_4_kib_of_it() -> None:
    async def main() -> None:
        client, link = connection(rate=0.001, burst=5)
        for _ in range(3):
            link.receive("x" * (3 * 4_096 - 1))
        assert [len(await client.receive()) for _ in range(2)] == [3 * 4_096 - 1] * 2
        assert "too many messages" in link.data[0].decode()
        assert not client.has_messages

    run(main())


def test_the_allowance_comes_back_with_time() -> None:
    async def main() -> None:
        client, link = connection(rate=1_000_000.0, burst=1)
        for _ in range(50):
            link.receive("x")
            await asyncio.sleep(0.0001)
        assert not reached()
        assert client.disconnect is None

    run(main())


def test_an_end_of_ours_wakes_who_receives_at_once() -> None:
    async def main() -> None:
        client, link = connection()
        link.answers_close = False
        waiting = asyncio.create_task(client.receive())
        await turns()
        client.end(FORCED)
        with pytest.raises(ConnectionClosed) as caught:
            await waiting
        assert caught.value.disconnect is FORCED
        assert client.is_closed
        client.end(NORMAL)
        assert link.closed_with == (FORCED.code, FORCED.reason)
        link.receive("too late")
        assert not client.has_messages

    run(main())


def test_our_reason_counts_more_than_what_the_link_says() -> None:
    async def main() -> None:
        client, link = connection()
        ended: list[Connection] = []
        client.attach(closed=ended.append, drained=lambda _: None)
        client.end(FORCED)
        link.vanish(GONE)
        link.vanish(GONE)
        assert (await client.wait_closed(), ended) == (FORCED, [client])

    run(main())


@pytest.mark.parametrize(("left", "clean"), [(GONE, True), (Disconnect(1006, "connection lost"), False)])
def test_a_client_has_left_when_what_it_sent_before_is_taken(left: Disconnect, clean: bool) -> None:
    async def main() -> None:
        client, link = connection()
        ended: list[Connection] = []
        client.attach(closed=ended.append, drained=lambda _: None)
        link.receive("a")
        link.receive("b")
        link.vanish(left, clean=clean)
        assert await client.receive() == "a"
        assert await client.receive() == "b"
        assert (client.is_closed, ended) == (False, [])
        client.write(WireMessage(b"to nobody"))
        with pytest.raises(ConnectionClosed):
            await client.receive()
        assert (client.disconnect, client.clean, ended) == (left, clean, [client])

    run(main())


def test_a_client_has_left_when_what_was_taken_last_is_handled() -> None:
    async def main() -> None:
        client, link = connection()
        link.receive("a")
        assert client.receive_nowait(handles=True) == "a"
        link.vanish(GONE, clean=True)
        assert not client.is_closed
        assert client.receive_nowait() is None
        assert client.disconnect == GONE

    run(main())


def test_who_does_not_take_what_a_client_sent_learns_in_time_that_it_left() -> None:
    async def main() -> None:
        client, link = connection(leaving_seconds=0.02)
        ended: list[Connection] = []
        client.attach(closed=ended.append, drained=lambda _: None)
        link.receive("a")
        link.vanish(GONE, clean=True)
        await wait_until(lambda: client.is_closed)
        assert (ended, list(reached())) == ([client], ["leaving_seconds"])
        assert await client.receive() == "a"
        assert await client.wait_closed() == GONE

    run(main())


def test_who_waits_for_the_end_throws_away_what_a_client_sent_before_it_left() -> None:
    async def main() -> None:
        client, link = connection()
        link.receive("a")
        link.vanish(GONE, clean=True)
        assert await client.wait_closed() == GONE

    run(main())


def test_an_end_of_ours_does_not_wait_for_what_a_client_sent_before_it_left() -> None:
    async def main() -> None:
        client, link = connection()
        ended: list[Connection] = []
        client.attach(closed=ended.append, drained=lambda _: None)
        link.receive("a")
        link.vanish(GONE, clean=True)
        client.end(FORCED)
        assert (client.disconnect, ended, list(reached())) == (GONE, [client], [])

    run(main())


def test_a_faulty_end_waits_for_nothing() -> None:
    async def main() -> None:
        client, link = connection()
        link.receive("a")
        link.vanish(Disconnect(1007, "no UTF-8"))
        assert client.disconnect == Disconnect(1007, "no UTF-8")

    run(main())


def test_a_code_that_cannot_be_sent_leaves_the_connection_as_it_is() -> None:
    async def main() -> None:
        client, link = connection()
        with pytest.raises(ConfigurationError, match="999"):
            client.end(Disconnect(999, ""))
        assert not client.is_closed
        client.end(NORMAL)
        assert link.closed_with == (1000, "")

    run(main())


def test_two_who_wait_do_not_end_with_each_other() -> None:
    async def main() -> None:
        client, link = connection()
        first, second = asyncio.create_task(client.receive()), asyncio.create_task(client.receive())
        await turns(2)
        first.cancel()
        await turns(3)
        assert not second.done()
        link.receive("a")
        assert await second == "a"
        third, fourth = asyncio.create_task(client.receive()), asyncio.create_task(client.receive())
        await turns(2)
        fourth.cancel()
        link.receive("b")
        assert await third == "b"

    run(main())


def test_a_cancelled_receive_loses_nothing() -> None:
    async def main() -> None:
        client, link = connection()
        for number in range(20):
            waiting = asyncio.create_task(client.receive())
            await turns()
            link.receive(str(number))
            waiting.cancel()
            await turns()
            if not waiting.cancelled() and waiting.done():
                assert waiting.result() == str(number)
            else:
                assert await client.receive() == str(number)

    run(main())


def test_waiting_for_the_end_throws_away_what_comes() -> None:
    async def main() -> None:
        client, link = connection(inbox_bytes=100)
        waiting = asyncio.create_task(client.wait_closed())
        for _ in range(10):
            link.receive("x" * 90)
            await turns(2)
            assert link.is_reading
        link.vanish(clean=True)
        assert await waiting is GONE
        assert client.clean

    run(main())


def test_nothing_is_written_after_the_end() -> None:
    async def main() -> None:
        client, link = connection()
        client.write(WireMessage(b"a"))
        client.write()
        link.vanish()
        client.write(WireMessage(b"b"))
        assert link.data == [b"a"]
        assert link.writes == 1

    run(main())
