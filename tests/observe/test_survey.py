"""Questions to all nodes: every live one answers, or the asker is told that some did not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from engine.support import FailingBroker, FailingPresence, open_node, run
from tidewire.backends import open_backend
from tidewire.channels import CONTROL, NODES
from tidewire.engine.control import Control
from tidewire.engine.node import Node
from tidewire.errors import NotPublished, TemporaryFailure
from tidewire.limits import Limits
from tidewire.messages import Member
from tidewire.observe.survey import Survey


async def begin(node: Node, *answers: str) -> Survey:
    """Let a node take part; it answers "who" with these parts."""
    survey = Survey(node)
    await survey.start()
    survey.on("who", lambda argument: [argument + answer.encode() for answer in answers])
    return survey


def test_a_node_answers_itself_in_parts() -> None:
    async def main() -> None:
        async with open_node() as node:
            survey = await begin(node, "one", "two")
            assert await survey.ask("who", b"x-") == {node.id: [b"x-one", b"x-two"]}
            assert await survey.ask("unknown") == {node.id: [b""]}

    run(main())


def test_a_node_hears_itself_without_the_store() -> None:
    async def main() -> None:
        async with open_node() as node:
            survey = await begin(node, "one", "two")
            before = (await node.broker.history(CONTROL)).top.offset
            assert await survey.ask("who") == {node.id: [b"one", b"two"]}
            assert (await node.broker.history(CONTROL)).top.offset == before + 1  # the question

    run(main())


def test_every_node_answers(tmp_path: Path) -> None:
    async def main() -> None:
        first: Survey | None = None
        nodes = [Node(*open_backend(f"sqlite:///{tmp_path}/a.db", Limits())) for _ in range(3)]
        try:
            for number, node in enumerate(nodes):
                await node.start()
                survey = await begin(node, str(number))
                first = first or survey
            assert first is not None
            answers = await survey.ask("who")
            assert answers == {node.id: [str(number).encode()] for number, node in enumerate(nodes)}
            await first.aclose()
            await nodes[0].aclose()
            assert set(await survey.ask("who")) == {node.id for node in nodes[1:]}
        finally:
            for node in nodes:
                await node.aclose()

    run(main())


def test_a_node_that_does_not_answer_is_told_of() -> None:
    async def main() -> None:
        async with open_node() as node:
            survey = await begin(node, "here")
            await node.presence.join(NODES, Member("frozen", "frozen"))
            with pytest.raises(TemporaryFailure, match="1 of 2 nodes"):
                await survey.ask("who", seconds=0.1)
            await node.presence.leave(NODES, "frozen")
            assert await survey.ask("who") == {node.id: [b"here"]}

    run(main())


def test_a_silent_node_is_waited_for_once_until_it_says_something() -> None:
    async def main() -> None:
        async with open_node() as node:
            survey = await begin(node, "here")
            loop = asyncio.get_running_loop()
            await node.presence.join(NODES, Member("frozen", "frozen"))

            async def asked(*, complete: bool = False) -> float:
                began = loop.time()
                try:
                    assert await survey.ask("who", seconds=0.1, complete=complete) == {node.id: [b"here"]}
                except TemporaryFailure:
                    assert complete
                return loop.time() - began

            assert await asked() >= 0.1
            assert await asked() < 0.1
            assert await asked(complete=True) >= 0.1, "whoever wants all waits for it"
            answer = msgspec.json.encode({"id": "earlier", "node": "frozen", "part": "", "is_last": True})
            await node.control(Control(verb="answer"), answer)
            assert await asked() >= 0.1
            assert await asked() < 0.1

    run(main())


def test_a_node_that_was_late_itself_is_waited_for_again() -> None:
    """It does not hear its own answers by the store, and was left out where another one was first."""

    async def main() -> None:
        async with open_node() as node:
            survey, may_answer = await begin(node), asyncio.Event()

            async def answer_behind_another(_: bytes) -> list[bytes]:
                await may_answer.wait()
                for question in tuple(survey._pending):
                    first = {"id": question, "node": "other", "part": "", "is_last": True}
                    await node.control(Control(verb="answer"), msgspec.json.encode(first))
                    await asyncio.sleep(0.01)
                return [b"here"]

            survey.on("who", answer_behind_another)
            await node.presence.join(NODES, Member("other", "other"))
            assert await survey.ask("who", seconds=0.02, complete=False) == {}
            may_answer.set()
            await asyncio.sleep(0.02)
            assert await survey.ask("who", complete=False) == {"other": [b""], node.id: [b"here"]}

    run(main())


def test_an_answer_to_nobodys_question_is_ignored() -> None:
    async def main() -> None:
        async with open_node() as node:
            survey = await begin(node, "late")
            await node.presence.join(NODES, Member("frozen", "frozen"))
            with pytest.raises(TemporaryFailure):
                await survey.ask("who", seconds=0)
            await node.presence.leave(NODES, "frozen")
            answers = await asyncio.gather(*(survey.ask("who") for _ in range(5)))
            assert answers == [{node.id: [b"late"]}] * 5

    run(main())


def test_who_lost_its_lease_is_counted_again() -> None:
    async def main() -> None:
        async with open_node() as node:
            presence = node.presence
            assert isinstance(presence, FailingPresence)
            survey = await begin(node, "here")
            presence.lease_lost = True
            await node.memberships.touch()
            assert presence.users(NODES) == [node.id]
            await survey.aclose()
            presence.lease_lost = True
            await node.memberships.touch()
            assert presence.users(NODES) == []

    run(main())


def test_a_store_that_is_away_is_told_of() -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker) as node:
            survey = await begin(node, "here")
            broker.away(NotPublished("away for the test"))
            with pytest.raises(NotPublished):
                await survey.ask("who")
            broker.back()
            assert await survey.ask("who")

    run(main())
