"""A channel of which an older copy is put back while nodes are connected."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.support import run
from helpers.stores import Daemon, start_redis

from .helpers import Ledger, ask, connect, received, redis_node, wait_until


@pytest.mark.parametrize("publishes", [True, False])
def test_a_channel_that_is_put_back_from_a_backup_is_told(tmp_path: Path, publishes: bool) -> None:
    """Its offsets would be given again in the same epoch, whether this node has published there or only reads."""

    async def scenario(server: Daemon) -> None:
        async with (
            redis_node(f"redis://127.0.0.1:{server.port}") as node,
            redis_node(f"redis://127.0.0.1:{server.port}") as other,
        ):
            near, far = await connect(node, channel="a"), await connect(other, channel="a")
            ledger = Ledger(node)
            await ledger.publish(4)
            for key in ("meta", "stream"):
                assert ask(server.port, "COPY", f"tidewire:{{a}}:{key}", f"copy:{key}") == b":1\r\n"
            await ledger.publish(6)
            for client in (near, far):
                await received(client, ledger)
            before = ledger.last
            await other.broker.positions(["a"])  # as a node asks now and then
            for key in ("meta", "stream"):
                assert ask(server.port, "RENAME", f"copy:{key}", f"tidewire:{{a}}:{key}") == b"+OK\r\n"

            async def is_told() -> bool:
                return (await node.broker.positions(["a"]))["a"].epoch != before.epoch

            if publishes:
                assert (await node.publish("a", b"1")).offset == 5
                await wait_until(is_told)
            else:
                assert (await other.broker.positions(["a"]))["a"].epoch != before.epoch
            await ledger.publish(10)
            assert ledger.last.epoch != before.epoch
            for client in (near, far):
                await received(client, ledger)
                assert "i a" in client.shown

    with start_redis(tmp_path) as server:
        run(scenario(server), 30)
