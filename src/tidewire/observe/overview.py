"""Connections, channels, refusals and reasons of all nodes, asked from any of them."""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec

from tidewire.engine.node import Node
from tidewire.observe.reasons import Question, Reason, reason_of
from tidewire.observe.rows import (
    ChannelRow,
    Page,
    Query,
    channel_counts_of,
    channels_of,
    connections_of,
    cut,
    merged_channels,
    merged_connections,
)
from tidewire.observe.survey import Survey
from tidewire.rules.base import Authority
from tidewire.support.refusals import Refusal, Refusals

__all__ = ("Overview", "RefusalRow")

#: Bytes of one part of an answer.
_PART = 200_000
_decode_page = msgspec.json.Decoder(Page).decode
_decode_counts = msgspec.json.Decoder(dict[str, int]).decode
_decode_names = msgspec.json.Decoder(list[str]).decode
_decode_rows = msgspec.json.Decoder(list[ChannelRow]).decode


class RefusalRow(Refusal, frozen=True):
    """A refusal with the pattern of its channel, and the node that refused."""

    rule: str = ""
    node: str = ""


class Overview:
    """Answers for its node, and asks all; a node that does not answer in time is left out."""

    def __init__(self, node: Node, survey: Survey, judge: Authority | None) -> None:
        self._node = node
        self._survey = survey
        #: Decides for the clients of this node, if there are rules.
        self.judge = judge
        survey.on("connections", lambda argument: _parts(connections_of(node, _query(argument))))
        survey.on("channel_counts", lambda argument: _parts(channel_counts_of(node, _query(argument))))
        survey.on("channels_named", lambda argument: _parts(channels_of(node, _decode_names(argument))))
        survey.on("refusals", lambda _: _parts(self._refusals()))
        survey.on("why", self._why)

    async def connections(self, query: Query) -> Page:
        """Return a page of connections; raises StoreUnavailable, PublishError."""
        return merged_connections([_decode_page(answer) for answer in await self._ask("connections", query)], query)

    async def channels(self, query: Query) -> Page:
        """Return a page of channels, those with the most subscribers on all nodes first; raises as `connections`.

        The nodes answer with the numbers of subscribers of all channels, and with everything else only for those on the
        page.
        """
        counts: Counter[str] = Counter()
        for answer in await self._ask("channel_counts", query):
            counts.update(_decode_counts(answer))
        names = cut(sorted(counts, key=lambda name: (-counts[name], name)), query)
        answers = await self._ask("channels_named", names) if names else []
        rows = merged_channels(row for answer in answers for row in _decode_rows(answer))
        return Page(len(counts), channels=[rows[name] for name in names if name in rows])

    async def refusals(self, limit: int = 100) -> list[RefusalRow]:
        """Return the newest refusals; raises as `connections`."""
        answers = await self._ask("refusals", None)
        rows = [row for answer in answers for row in msgspec.json.decode(answer, type=list[RefusalRow])]
        return sorted(rows, key=lambda row: -row.time)[: max(0, limit)]

    async def why(self, question: Question) -> Reason | None:
        """Return the answer of the rules, None where no node has any; raises as `connections`."""
        for answer in await self._ask("why", question):
            return msgspec.json.decode(answer, type=Reason)
        return None

    async def _ask(self, name: str, argument: object) -> list[bytes]:
        answers = await self._survey.ask(name, msgspec.json.encode(argument), seconds=1.0, complete=False)
        return [joined for parts in answers.values() if (joined := b"".join(parts))]

    def _refusals(self) -> list[RefusalRow]:
        node = self._node
        return [
            RefusalRow(**msgspec.structs.asdict(one), rule=_rule(node, one.channel), node=node.id)
            for one in Refusals.of(asyncio.get_running_loop()).latest
        ]

    async def _why(self, argument: bytes) -> list[bytes]:
        if self.judge is None:
            return []
        question = msgspec.json.decode(argument, type=Question)
        return _parts(await reason_of(self._node, self.judge, question))


def _rule(node: Node, channel: str) -> str:
    return node.options.pattern(channel) if channel else ""


def _query(argument: bytes) -> Query:
    return msgspec.json.decode(argument, type=Query)


def _parts(answer: object) -> list[bytes]:
    encoded = msgspec.json.encode(answer)
    return [encoded[start : start + _PART] for start in range(0, len(encoded), _PART)]
