"""Versions that only grow, where publications come between them and where two nodes publish at once."""

from __future__ import annotations

import asyncio

from engine.support import FailingBroker, open_node, run, turns
from tidewire.http_api import models as m
from tidewire.http_api.publish import Publishing


def versioned(version: int) -> m.PublishRequest:
    request: m.PublishRequest = m.PublishRequest.parse(b'{"channel": "a", "data": 1, "version": %d}' % version)
    return request


BARE = m.PublishRequest.parse(b'{"channel": "a", "data": 1}')


def test_what_has_no_version_does_not_hide_the_newest_one() -> None:
    async def main() -> None:
        async with open_node() as node:
            publishing = Publishing(node, node.options.of)
            for asked, kept in ((versioned(5), 1), (BARE, 2), (BARE, 3), (versioned(4), 0), (versioned(6), 4)):
                assert ((await publishing.publish("a", asked)).offset or 0) == kept
                await turns()

    run(main())


def test_the_same_version_from_two_nodes_is_published_once() -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker) as node:
            nodes = [Publishing(node, node.options.of) for _ in range(2)]
            broker.history_gate.clear()
            both = [asyncio.create_task(one.publish("a", versioned(1))) for one in nodes]
            await turns(3)
            broker.history_gate.set()
            await asyncio.gather(*both)
            assert (await node.broker.history("a")).top.offset == 1

    run(main())
