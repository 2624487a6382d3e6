"""Lists of all nodes: exact, and no more of them travels than a page needs."""

from __future__ import annotations

from pathlib import Path

from engine.support import connect, run
from tidewire.backends import open_backend
from tidewire.channels import CONTROL
from tidewire.engine.node import Node
from tidewire.limits import Limits
from tidewire.observe.overview import Overview
from tidewire.observe.rows import Query
from tidewire.observe.survey import Survey

CHANNELS = 300


async def begin(url: str) -> tuple[Node, Overview]:
    node = Node(*open_backend(url, Limits(channels=CHANNELS)), limits=Limits(channels=CHANNELS))
    await node.start()
    survey = Survey(node)
    await survey.start()
    return node, Overview(node, survey, None)


def test_a_page_of_channels_is_exact_over_all_nodes_and_the_others_do_not_travel(tmp_path: Path) -> None:
    async def main() -> None:
        (one, looking), (other, _) = [await begin(f"sqlite:///{tmp_path}/a.db") for _ in range(2)]
        try:
            here, there, third = [await connect(node) for node in (one, other, other)]
            for number in range(CHANNELS):
                await other.subscribe(there.connection, f"room:{number:03}")
            await one.subscribe(here.connection, "room:007")
            await one.subscribe(here.connection, "here")
            await other.subscribe(third.connection, "room:007")
            await other.subscribe(third.connection, "room:008")
            page = await looking.channels(Query(limit=4))
            found = [(row.channel, row.subscribers) for row in page.channels]
            assert found == [("room:007", 3), ("room:008", 2), ("here", 1), ("room:000", 1)]
            assert page.total == CHANNELS + 1
            page = await looking.channels(Query(search="ROOM:29", limit=50, offset=8))
            assert (page.total, [row.channel for row in page.channels]) == (10, ["room:298", "room:299"])
            assert (await looking.channels(Query(channel="room:007"))).channels[0].subscribers == 3
            assert (await looking.channels(Query(search="nobody's"))).channels == []
            kept = (await one.broker.history(CONTROL)).publications
            assert sum(len(publication.data) for publication in kept) < 20_000
        finally:
            await one.aclose()
            await other.aclose()

    run(main())
