"""States that are shared: one is given only to those for whom it is not too old."""

from __future__ import annotations

import asyncio

from engine.support import FailingBroker, connect, open_node, publish, run
from tidewire.engine.subscribing import Prepared
from tidewire.testing import wait_until


def test_a_store_that_lost_the_channel_meanwhile_costs_one_more_question() -> None:
    """The state was to reach a position of the epoch before, which none does: the application was asked for ever."""

    async def main() -> None:
        broker, gate, calls = FailingBroker(), asyncio.Event(), 0

        async def make() -> tuple[int, bytes]:
            nonlocal calls
            calls += 1
            await gate.wait()
            return calls, b"%d" % calls

        async with open_node(broker) as node:
            node.options.ask_states_by(lambda channel: make)
            clients = [await connect(node), await connect(node)]

            async def subscribe(number: int) -> Prepared:
                prepared = await node.subscriptions.prepare(clients[number].connection, "a", with_state=True)
                await node.subscriptions.go_live(prepared)
                return prepared

            await publish(node, "one")
            first = asyncio.create_task(subscribe(0))
            await wait_until(lambda: calls == 1)
            await publish(node, "two")
            second = asyncio.create_task(subscribe(1))  # is too late for the state that the first one waits for
            await wait_until(
                lambda: "a" in clients[1].subscriptions and node.registry.channels["a"].position.offset == 2
            )
            broker.forget()
            await publish(node, "three")
            gate.set()
            async with asyncio.timeout(10):
                assert (await first).answer.state == 1
                answer = (await second).answer
            assert (answer.state, answer.position.epoch) == (2, "new")
            assert calls == 2
            await publish(node, "four")
            await wait_until(lambda: clients[1].offsets()[-1:] == [2])

    run(main())
