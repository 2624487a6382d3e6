"""What operators do to single stores: a lame duck, and a session that listens inside of an endless transaction."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from backends.nats.helpers import nats_node
from backends.postgres.helpers import client_of, postgres_node
from engine.support import connect, run
from helpers.ledger import Ledger, check, received
from helpers.stores import Daemon, postgres_database, start_nats
from tidewire.testing import wait_until


def test_a_nats_server_that_is_a_lame_duck_and_its_replacement(tmp_path: Path) -> None:
    """It sends its clients away one after the other and lets nobody in; then another one has its data."""

    async def scenario(server: Daemon) -> None:
        # one is sent away seconds before the other, which publishes on: more than a gap may hold by default
        many = {"gap_messages": 1_000_000, "gap_bytes": 1_000_000_000}
        async with nats_node(server, **many) as node, nats_node(server, **many) as other:
            near, far = await connect(node, channel="a"), await connect(other, channel="a")
            ledger = Ledger(node)
            async with ledger.publishing():
                await wait_until(lambda: len(ledger.kept) > 50)
                duck = server.process
                assert duck is not None
                duck.send_signal(signal.SIGUSR2)
                await wait_until(lambda: duck.poll() is not None, 30, "the lame duck has ended")
                await ledger.fails()
                assert not near.link.is_closed
                await asyncio.to_thread(server.start)
                await ledger.succeeds(50)
            for client in (near, far):
                await received(client, ledger)
                check(client, ledger, has_holes=True)
            await wait_until(lambda: not node.tasks.degraded, 15)

    quick = 'lame_duck_duration: "30s"\nlame_duck_grace_period: "1s"'
    with start_nats(tmp_path, configuration=quick) as server:
        run(scenario(server), 80)


def test_a_session_that_listens_in_an_endless_transaction_holds_up_nobody_and_is_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PostgreSQL keeps all notifications for it, up to 8 GiB; here 14 MiB stand for them."""
    monkeypatch.setattr("tidewire.backends.postgres.broker._QUEUE_USED", 0.001)

    async def scenario(url: str) -> None:
        async with postgres_node(url) as node, postgres_node(url) as other, client_of(url) as listener:
            client = await connect(other, channel="a")
            ledger = Ledger(node)
            await listener.execute("LISTEN tidewire; LISTEN others")
            async with listener.transaction():
                await listener.execute("SELECT 1")
                async with client_of(url) as noisy, ledger.publishing():
                    await ledger.succeeds(50, 20)
                    await noisy.execute(
                        "SELECT pg_notify('others', n || repeat('x', 7000)) FROM generate_series(1, 2000) AS n"
                    )
                    await ledger.succeeds(50, 20)
                assert not ledger.failures
                await received(client, ledger)
                told = [text for text in await node.broker.advise() if "notification queue" in text]  # type: ignore[attr-defined]
                assert told, "an operator learns who fills the queue"
            await ledger.publish(20)
            await received(client, ledger)
            check(client, ledger)

    run(scenario(postgres_database()), 60)
