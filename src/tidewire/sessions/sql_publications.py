"""Looks after publications of SQL when they are kept: the log names those that do not fit the type of their channel."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from tidewire.engine.node import Node
from tidewire.errors import InvalidMessage
from tidewire.protocols.message_shape import Shape
from tidewire.retention import Retention

__all__ = ("look_after_sql_publications",)

logger = logging.getLogger("tidewire")

#: Publications that one move may have put into a channel.
_MOST = 200


def look_after_sql_publications(node: Node) -> None:
    """Check those that this node moves, where a rule declares a type, and say how long the rules keep them.

    None is held up or changed.
    """

    def moved(tops: Mapping[str, int]) -> Mapping[str, Retention]:
        for channel in tops:
            shape = node.options.shape(channel)
            if shape is not None:
                node.tasks.spawn(_check(node, channel, tops[channel], shape))
        found = {channel: node.options.retentions[channel] for channel in tops}
        return {channel: retention for channel, retention in found.items() if retention is not None}

    node.broker.watch_moves(moved)


async def _check(node: Node, channel: str, top: int, shape: Shape) -> None:
    page = await node.broker.history(channel, limit=_MOST, reverse=True)
    found = [publication for publication in page.publications if publication.offset <= top]
    for publication in reversed(found):
        if publication.time != found[0].time:
            continue  # one move is one moment: earlier ones were not moved with it
        try:
            shape.read(publication.data, publication.format)
        except InvalidMessage as error:
            logger.warning(
                "publication %s of %r came by SQL, and does not have the type of its rule: %s",
                publication.position,
                channel,
                error,
            )
