"""NATS killed, frozen, emptied, full, and cutting us off: nothing is lost in silence, and nothing needs a restart."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import threading
from functools import partial
from pathlib import Path
from typing import Any

import nats
import pytest

from engine.support import connect, open_node, run
from helpers.frozen import check_frozen_then_thawed
from helpers.ledger import Ledger, check_outage_told, received
from helpers.ledger import check as check_all
from helpers.stores import Daemon, start_nats
from tidewire.backends.nats import NatsAddress, NatsBroker, NatsPresence
from tidewire.backends.nats.publication_stream import Stream
from tidewire.backends.nats.removals import RemovalWatch
from tidewire.errors import ConfigurationError, NotPublished, StoreUnavailable
from tidewire.limits import Limits
from tidewire.messages import Format, HistoryRequest, Member, Position
from tidewire.testing import wait_until

from .helpers import nats_node

check = partial(check_all, has_holes=True)


async def ask(server: Daemon, what: str, **asked: object) -> dict[str, object]:
    """Ask the JetStream API on a connection of its own."""
    client = await nats.connect(f"nats://127.0.0.1:{server.port}")
    try:
        answer = await client.request(f"$JS.API.{what}", json.dumps(asked).encode() if asked else b"")
        found: dict[str, object] = json.loads(answer.data)
        return found
    finally:
        await client.close()


def test_killed_and_restarted_with_its_data_nothing_is_lost_and_nobody_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(server: Daemon) -> None:
        async with nats_node(server, publish_seconds=5.0) as node, nats_node(server) as other:
            near, far = await connect(node, channel="a"), await connect(other, channel="a")
            ledger = Ledger(node)
            async with ledger.publishing():
                await wait_until(lambda: len(ledger.kept) > 100)
                server.kill()
                await ledger.fails()
                assert not near.link.is_closed
                server.start()
                await ledger.succeeds(50)
            assert len({epoch for epoch, _ in ledger.kept}) == 1
            for client in (near, far):
                await received(client, ledger)
                check(client, ledger)
            assert all(seconds < 4 for _, seconds in ledger.failures)  # none waited for `publish_seconds`

    caplog.set_level(logging.WARNING, "tidewire")
    with start_nats(tmp_path) as server:
        run(scenario(server), 30)
    check_outage_told(caplog.records, f"NATS at 127.0.0.1:{server.port}", 2)


def test_restarted_without_its_data_subscribers_are_told(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        async with nats_node(server) as node:
            client = await connect(node, channel="a")
            ledger = Ledger(node)
            await ledger.publish(20)
            before = ledger.last
            server.kill()
            await ledger.fails()
            shutil.rmtree(tmp_path / "data")
            server.start()
            await ledger.succeeds(20)
            await received(client, ledger)
            check(client, ledger, told=True)
            assert ledger.last.epoch != before.epoch
            back = await connect(node)
            assert (await back.subscribe("a", since=before)).recovered is False
            recent = Position(sorted(offset for _, offset in ledger.kept)[-6], ledger.last.epoch)
            again = await connect(node)
            assert (await again.subscribe("a", since=recent)).recovered is not None

    with start_nats(tmp_path) as server:
        run(scenario(server), 30)


def test_older_data_begins_a_new_epoch_and_gives_no_offset_twice(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        async with nats_node(server) as node, nats_node(server) as other:
            client = await connect(node, channel="a")
            await connect(other, channel="a")
            ledger = Ledger(node)
            await ledger.publish(10)
            server.stop()
            await ledger.fails()
            shutil.copytree(tmp_path / "data", tmp_path / "older")
            server.start()
            await ledger.succeeds(5)
            await received(client, ledger)
            before = ledger.last
            server.kill()
            await ledger.fails()
            shutil.rmtree(tmp_path / "data")
            (tmp_path / "older").rename(tmp_path / "data")
            server.start()
            await ledger.succeeds(5)
            await received(client, ledger)
            check(client, ledger, told=True)
            assert ledger.last.epoch != before.epoch

            async def do_agree() -> bool:
                try:
                    tops = [await one.broker.positions(["a"]) for one in (node, other)]
                except StoreUnavailable:
                    return False
                return tops[0] == tops[1] == {"a": ledger.last}

            await wait_until(do_agree, 10, "all nodes agree, however many came back at once")

    with start_nats(tmp_path) as server:
        run(scenario(server), 40)


@pytest.mark.parametrize("seconds", [2.5, pytest.param(30.0, marks=pytest.mark.slow)])
def test_frozen_then_thawed(tmp_path: Path, seconds: float) -> None:
    async def scenario(server: Daemon) -> None:
        async with nats_node(server, publish_seconds=0.5) as node:
            await check_frozen_then_thawed(server, node, seconds, tasks=50, has_holes=True)

    with start_nats(tmp_path) as server:
        try:
            run(scenario(server), 60)
        finally:
            server.thaw()


def test_cut_off_as_a_slow_client_reads_what_it_missed(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        async with nats_node(server) as node, nats_node(server) as other:
            client = await connect(node, channel="a")
            ledger = Ledger(other)
            async with ledger.publishing():
                for _ in range(5):
                    await ledger.succeeds(20)
                    node.broker._connection.fail("cut for the test")  # type: ignore[attr-defined]
                    await wait_until(lambda: node.broker._connection.is_up)  # type: ignore[attr-defined]
            await received(client, ledger)
            node.broker._connection.fail("cut once more, so that the end is missed")  # type: ignore[attr-defined]
            await ledger.publish(3)
            assert not ledger.failures
            await received(client, ledger, within=5)
            check(client, ledger)

    with start_nats(tmp_path) as server:
        run(scenario(server), 30)


def test_the_server_cuts_off_who_does_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It lets 1 MiB wait for a client; this process stands still while another publishes more."""

    async def flood(port: int, subject: str) -> None:
        client = await nats.connect(f"nats://127.0.0.1:{port}")
        for number in range(400):
            await client.request(subject, b"%60000d" % number, timeout=20)
        await client.close()

    async def scenario(server: Daemon) -> None:
        async with nats_node(server, outbox_bytes=50_000_000, gap_bytes=50_000_000) as node:
            client = await connect(node, channel="a")
            ledger = Ledger(node)
            await ledger.publish(10)
            subject = node.broker._stream.stored("a")  # type: ignore[attr-defined]
            flooding = threading.Thread(target=lambda: asyncio.run(flood(server.port, subject)))
            flooding.start()
            flooding.join()  # the loop stands still: that is the fault
            await ledger.succeeds(5, 15)
            await received(client, ledger)
            check(client, ledger)
            assert len(client.offsets("a")) >= 415

    with start_nats(tmp_path, configuration='max_pending: 1048576\nwrite_deadline: "1s"') as server:
        run(scenario(server), 40)
        assert "Slow Consumer" in (tmp_path / "server.log").read_text()


def test_more_than_this_process_can_take_is_read_from_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidewire.backends.nats.session.PENDING_COUNT", 5)

    async def scenario(server: Daemon) -> None:
        async with nats_node(server) as node, nats_node(server, publish_seconds=10.0) as other:
            client = await connect(node, channel="a")
            ledger = Ledger(other)
            await asyncio.gather(*(ledger.publish() for _ in range(500)))
            await received(client, ledger)
            check(client, ledger)
            assert node.statistics().limits_reached["deliveries_waiting"]

    with start_nats(tmp_path) as server:
        run(scenario(server), 30)


def test_a_stream_that_is_removed_while_it_is_used_begins_a_new_epoch(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        async with nats_node(server) as node:
            client = await connect(node, channel="a")
            ledger = Ledger(node)
            await ledger.publish(10)
            before = ledger.last
            for stream in ("TIDEWIRE", "TIDEWIRE_PRESENCE"):
                assert (await ask(server, f"STREAM.DELETE.{stream}"))["success"] is True
            await ledger.succeeds(10)
            assert ledger.were_sure
            await received(client, ledger)
            check(client, ledger, told=True)
            assert ledger.last.epoch != before.epoch

            async def is_present() -> bool:
                try:
                    return (await node.presence.join("a", Member("1", "ann"))).first
                except StoreUnavailable:
                    return False

            await wait_until(is_present, 10)

    with start_nats(tmp_path) as server:
        run(scenario(server), 30)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"max_msg_size": 10}, "max-msg-size=-1"),
        ({"max_msgs": 5, "discard": "new"}, "raise its limits"),
        ({"sealed": True, "deny_delete": True, "deny_purge": True}, "remove the stream"),
    ],
    ids=["size", "full", "sealed"],
)
def test_a_stream_that_refuses_messages_says_how_to_mend_it(
    tmp_path: Path, change: dict[str, object], match: str
) -> None:
    async def scenario(server: Daemon) -> None:
        async with nats_node(server) as node:
            client = await connect(node, channel="a")
            ledger = Ledger(node)
            await ledger.publish(5)
            before: Any = (await ask(server, "STREAM.INFO.TIDEWIRE"))["config"]
            assert (await ask(server, "STREAM.UPDATE.TIDEWIRE", **before | change))["config"]
            with pytest.raises(NotPublished, match=match):
                await node.publish("a", b"more than ten bytes")
            assert (await node.broker.history("a")).top == ledger.last
            if "sealed" in change:
                assert any("is sealed" in line for line in await node.broker.advise())
                await ask(server, "STREAM.DELETE.TIDEWIRE")
            else:
                await ask(server, "STREAM.UPDATE.TIDEWIRE", **before)
            await ledger.succeeds(5)
            await received(client, ledger)
            check(client, ledger, told="sealed" in change)

    with start_nats(tmp_path) as server:
        run(scenario(server), 30)


#: What an operator removes of the stream: the call, and what it asks for.
REMOVALS = (
    ("PURGE.TIDEWIRE", {"keep": 2}),
    ("PURGE.TIDEWIRE", {}),
    ("MSG.DELETE.TIDEWIRE", {"seq": 6}),
    ("MSG.DELETE.TIDEWIRE", {"seq": 10}),
)


@pytest.mark.parametrize(("call", "asked"), REMOVALS)
def test_messages_that_an_operator_removes_are_a_new_epoch_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, asked: dict[str, object]
) -> None:
    monkeypatch.setattr("tidewire.backends.nats.connection.PROBE_SECONDS", 0.2)

    async def scenario(server: Daemon) -> None:
        async with nats_node(server) as node, nats_node(server) as other:
            near, far = await connect(node, channel="a"), await connect(other, channel="a")
            ledger = Ledger(node)
            await ledger.publish(10)
            for client in (near, far):
                await received(client, ledger)
            before = ledger.last
            await ask(server, f"STREAM.{call}", **asked)
            for client in (near, far):  # though nothing is published
                await wait_until(lambda client=client: "i a" in client.shown, 10)  # type: ignore[misc]
            await ledger.succeeds(10)
            for client in (near, far):
                await received(client, ledger)
                check(client, ledger, told=True)
            assert ledger.last.epoch != before.epoch
            assert not (await node.broker.history("a", since=Position(5, before.epoch))).complete
            assert not await node.broker._stream.last(f"TIDEWIRE.s.{before.epoch}.*")  # type: ignore[attr-defined]
            watch = RemovalWatch()
            for _ in range(3):  # and one epoch is enough
                assert not await watch.is_foreign(node.broker._stream)  # type: ignore[attr-defined]

    with start_nats(tmp_path) as server:
        run(scenario(server), 30)


def test_a_recovery_from_what_is_no_longer_stored_is_not_complete(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        async with nats_node(server) as node:
            ledger = Ledger(node)
            await ledger.publish(10)
            epoch = ledger.last.epoch
            assert (await node.broker.history("a", since=Position(5, epoch))).complete
            await ask(server, "STREAM.PURGE.TIDEWIRE", keep=2)
            assert not (await node.broker.history("a", since=Position(5, epoch))).complete
            assert (await node.broker.history("a", since=Position(9, epoch))).complete

    with start_nats(tmp_path) as server:
        run(scenario(server))


def test_what_tidewire_itself_removes_is_no_new_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidewire.backends.nats.connection.PROBE_SECONDS", 0.1)

    async def scenario(server: Daemon) -> None:
        async with nats_node(server) as node, nats_node(server) as other:
            for _ in range(40):
                await node.publish("a", b"1", Format.TEXT)
                await other.publish("b", b"1", Format.TEXT)
                last = await node.publish("b", b"1", Format.TEXT)
                await asyncio.gather(node.broker.remove_history("a"), other.broker.remove_history("b"))
            await asyncio.sleep(0.5)  # several looks
            assert (await other.publish("b", b"1", Format.TEXT)).epoch == last.epoch
            watch = RemovalWatch()
            for _ in range(2):
                assert not await watch.is_foreign(node.broker._stream)  # type: ignore[attr-defined]
            await ask(server, "STREAM.PURGE.TIDEWIRE", keep=1)
            assert [await watch.is_foreign(node.broker._stream) for _ in range(2)] == [False, True]  # type: ignore[attr-defined]

    with start_nats(tmp_path) as server:
        run(scenario(server), 30)


def test_a_node_that_dies_while_it_removes_begins_no_new_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidewire.backends.nats.connection.PROBE_SECONDS", 0.1)

    async def scenario(server: Daemon) -> None:
        async with nats_node(server) as node, nats_node(server) as other:
            stream: Stream = node.broker._stream  # type: ignore[attr-defined]
            for _ in range(10):
                await node.publish("a", b"1", Format.TEXT)
                last = await node.publish("b", b"1", Format.TEXT)
            purge = Stream.purge

            async def unanswered(stream: Stream, subject: str, **asked: int) -> int:
                await purge(stream, subject, **asked)
                raise StoreUnavailable("the answer does not come")

            monkeypatch.setattr(Stream, "purge", unanswered)
            with pytest.raises(StoreUnavailable):
                await node.broker.remove_history("a")
            monkeypatch.setattr(Stream, "purge", purge)
            watch = RemovalWatch()
            for _ in range(3):
                assert not await watch.is_foreign(stream)
            monkeypatch.setattr("tidewire.backends.nats.removals.SETTLE_SECONDS", 0.0)
            await watch.is_foreign(stream)
            assert (await other.publish("b", b"1", Format.TEXT)).epoch == last.epoch
            assert len((await other.broker.read(HistoryRequest("b"))).publications) == 11
            monkeypatch.setattr("tidewire.backends.nats.connection.PROBE_SECONDS", 60.0)
            await ask(server, "STREAM.PURGE.TIDEWIRE", filter=stream.stored("b"))
            assert [await watch.is_foreign(stream) for _ in range(2)] == [False, True]

    with start_nats(tmp_path) as server:
        run(scenario(server), 30)


def test_a_stream_that_is_made_again_under_the_same_epoch_gives_no_offset_twice(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        async with nats_node(server) as node:
            client = await connect(node, channel="a")
            ledger = Ledger(node)
            await ledger.publish(10)
            before = ledger.last
            config = (await ask(server, "STREAM.INFO.TIDEWIRE"))["config"]
            await ask(server, "STREAM.DELETE.TIDEWIRE")
            await ask(server, "STREAM.CREATE.TIDEWIRE", **config)
            await ledger.succeeds(10)
            await received(client, ledger)
            check(client, ledger, told=True)
            assert ledger.last.epoch != before.epoch

    with start_nats(tmp_path) as server:
        run(scenario(server), 30)


def test_members_join_again_when_another_node_has_made_the_stream_of_presence_anew(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        async with nats_node(server) as node, nats_node(server) as other:
            client = await connect(node, user="ann")
            await client.subscribe("a", present=True)
            assert (await ask(server, "STREAM.DELETE.TIDEWIRE_PRESENCE"))["success"] is True

            async def is_listed() -> bool:
                try:
                    return [member.user for member in await other.presence.members("a")] == ["ann"]
                except StoreUnavailable:
                    return False

            # the other one makes it anew, and this one's lease comes into the new stream before it is loaded
            await wait_until(is_listed, 15)

    with start_nats(tmp_path) as server:
        run(scenario(server), 30)


def test_what_was_begun_while_it_is_away_works_when_it_is_back(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        async with nats_node(server) as node:
            ledger = Ledger(node)
            server.kill()
            await ledger.fails()
            with pytest.raises(StoreUnavailable):
                await connect(node, channel="a")
            with pytest.raises(StoreUnavailable):
                await node.presence.members("a")
            server.start()
            await ledger.succeeds()
            client = await connect(node, channel="a")
            await ledger.publish(10)
            await received(client, ledger)
            await wait_until(lambda: not node.tasks.degraded, 10)

    with start_nats(tmp_path) as server:
        run(scenario(server), 30)


def test_presence_is_true_again_after_an_outage(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        async with nats_node(server) as node, nats_node(server) as other:
            for number, one in enumerate((node, other)):
                client = await connect(one, user=f"user {number}")
                await client.subscribe("a", present=True)
            server.kill()
            await Ledger(node).fails()
            server.start()

            async def is_true() -> bool:
                try:
                    found = [await one.presence.members("a") for one in (node, other)]
                except StoreUnavailable:
                    return False
                return all(sorted(member.user for member in members) == ["user 0", "user 1"] for members in found)

            await wait_until(is_true, 10, "both are listed again")

    with start_nats(tmp_path) as server:
        run(scenario(server), 30)


def test_a_full_server_refuses_and_reading_goes_on_until_there_is_more_room(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        async with nats_node(server) as node:
            client = await connect(node, channel="a")
            ledger = Ledger(node)
            await ledger.publish(5)

            async def fill() -> None:
                for _ in range(200):
                    await node.publish("b", b"x" * 60_000)

            with pytest.raises(NotPublished, match="refused"):
                await fill()
            assert (await node.broker.history("a")).top == ledger.last
            server.stop()
            file = tmp_path / "nats.conf"
            file.write_text(file.read_text().replace("5242880", "52428800"))
            server.start()
            await ledger.succeeds(5)
            await received(client, ledger)
            check(client, ledger)

    with start_nats(tmp_path, jetstream="max_file_store: 5242880") as server:
        run(scenario(server), 30)


def test_a_start_without_a_server_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    async def scenario(dead: Daemon) -> None:
        with pytest.raises(StoreUnavailable, match=r"cannot be reached .*; see that it runs there"):
            async with nats_node(dead):
                pass

    with start_nats(tmp_path) as server:
        pass
    run(scenario(server))


def test_a_server_without_jetstream_is_a_wrong_configuration(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        with pytest.raises(ConfigurationError, match="start nats-server with -js"):
            async with nats_node(server):
                pass

    with start_nats(tmp_path, jetstream=None) as server:
        run(scenario(server))


def test_a_wrong_password_is_a_wrong_configuration_and_is_not_shown(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        address = NatsAddress.from_url(f"nats://ann:s3cret@127.0.0.1:{server.port}")
        with pytest.raises(ConfigurationError, match="does not let this user in") as raised:
            await NatsBroker(address, Limits()).start(lambda _: None)
        assert "s3cret" not in str(raised.value)
        right = NatsBroker(NatsAddress.from_url(f"nats://ann:right@127.0.0.1:{server.port}"), Limits())
        await right.start(lambda _: None)
        await right.aclose()

    users = 'authorization { users: [{user: "ann", password: "right"}] }'
    with start_nats(tmp_path, configuration=users) as server:
        run(scenario(server))


def test_the_rights_that_the_page_names_are_enough(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    page = Path(__file__).parents[3] / "docs" / "howto" / "nats.md"
    permissions = page.read_text().split("\npermissions ")[1].split("```")[0]
    users = f'authorization {{ users: [{{user: "ann", password: "right", permissions: {permissions} }}] }}'

    async def scenario(server: Daemon) -> None:
        address = NatsAddress.from_url(f"nats://ann:right@127.0.0.1:{server.port}")
        broker, presence = NatsBroker(address, Limits()), NatsPresence(address, Limits())
        async with open_node(broker, presence) as node:
            client = await connect(node, user="ann")
            await client.subscribe("a", present=True)
            ledger = Ledger(node)
            await ledger.publish(50)
            await received(client, ledger)
            assert len((await broker.history("a")).publications) == 50
            await broker.remove_history("a")
            await broker._trimmer.trim(broker._stream)
            for number in range(2_000):  # more than the server sends before it asks whether it may go on
                await presence.join("b", Member(str(number), "ann", b"x" * 500))
            assert await presence.count("b") == 2_000

    with start_nats(tmp_path, configuration=users) as server:
        run(scenario(server), 30)
        assert not [record for record in caplog.records if record.levelname == "ERROR"]
        assert "Violation" not in (tmp_path / "server.log").read_text()
