"""A question to all nodes, and their answers within a deadline; they travel on the nodes' control channel.

The nodes are members of a channel, so that a node that asks knows how many answers to wait for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence, Set

import msgspec

from tidewire.channels import NODES
from tidewire.engine.control import Control
from tidewire.engine.node import Node
from tidewire.errors import PublishError, StoreUnavailable, TemporaryFailure
from tidewire.messages import Member, Publication

__all__ = ("Survey",)

logger = logging.getLogger("tidewire")

_QUESTION, _ANSWER = "question", "answer"
#: Seconds in which all nodes must have answered.
_SECONDS = 3.0


class _Question(msgspec.Struct, frozen=True):
    id: str
    name: str
    argument: bytes
    #: The node that asks: it hears its own answer without the store.
    asker: str = ""


class _Answer(msgspec.Struct, frozen=True):
    """One part of a node's answer; the last part is marked."""

    id: str
    node: str
    part: bytes
    is_last: bool


class _Pending:
    """A question of this node, and the answers so far."""

    def __init__(self, silent: Set[str]) -> None:
        self.missing: set[str] = set()
        self.answers: dict[str, list[bytes]] = {}
        self.complete = asyncio.Event()
        #: Nodes that nobody waits for.
        self._silent = silent

    def take(self, answer: _Answer) -> None:
        self.answers.setdefault(answer.node, []).append(answer.part)
        if answer.is_last:
            self.missing.discard(answer.node)
            if self.missing <= self._silent:
                self.complete.set()


#: Answers a question in parts, each small enough for one message.
Answerer = Callable[[bytes], Sequence[bytes] | Awaitable[Sequence[bytes]]]


class Survey:
    """Asks all nodes, and answers for its own. `start` comes after the node's, `aclose` before the node's."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._answerers: dict[str, Answerer] = {}
        self._pending: dict[str, _Pending] = {}
        #: Nodes that did not answer in time, and have said nothing since: dead as a rule, before their lease has ended.
        self._silent: set[str] = set()
        self._is_closed = False
        node.on_control(_QUESTION, self._asked)
        node.on_control(_ANSWER, self._answered)

    async def start(self) -> None:
        """Join the counted nodes; raises StoreUnavailable."""
        await self._node.memberships.enter(NODES, Member(self._node.id, self._node.id))

    async def aclose(self) -> None:
        """Leave the counted nodes, before the node closes; a store that is away notices the end by itself."""
        self._is_closed = True
        with contextlib.suppress(StoreUnavailable):
            await self._node.memberships.quit(NODES, Member(self._node.id, self._node.id))

    def on(self, name: str, answerer: Answerer) -> None:
        """Set the function by which this node answers a question."""
        self._answerers[name] = answerer

    async def ask(
        self, name: str, argument: bytes = b"", *, seconds: float = _SECONDS, complete: bool = True
    ) -> dict[str, list[bytes]]:
        """Return the parts that each live node answers, by the node's id.

        The store has `seconds` to take the question, and the nodes have as many to answer. A node that is late is left
        out, and not waited for again before it has answered something; or, if the answer must be `complete`,
        TemporaryFailure is raised. Raises StoreUnavailable, PublishError.
        """
        question = _Question(secrets.token_hex(8), name, argument, self._node.id)
        pending = self._pending[question.id] = _Pending(set() if complete else self._silent)
        try:
            nodes = await self._send(question, pending, seconds)
            await asyncio.wait_for(pending.complete.wait(), seconds)
        except TimeoutError:
            self._silent = self._silent & nodes | pending.missing
            if complete:
                count = len(pending.missing)
                raise TemporaryFailure(
                    f"{count} of {len(nodes)} nodes did not answer in {seconds:g} s; try again"
                ) from None
        except (StoreUnavailable, PublishError):
            self._silent.clear()  # it is the store that says nothing
            raise
        finally:
            del self._pending[question.id]
        return {node: parts for node, parts in pending.answers.items() if node not in pending.missing}

    async def _send(self, question: _Question, pending: _Pending, seconds: float) -> set[str]:
        """Ask the nodes, and return their ids."""
        try:
            async with asyncio.timeout(seconds):
                members = await self._node.presence.members(NODES)
                nodes = {member.connection for member in members} | {self._node.id}
                pending.missing = set(nodes)
                await self._node.control(Control(verb=_QUESTION), msgspec.json.encode(question))
        except TimeoutError:
            raise StoreUnavailable(f"the store did not take a question to all nodes in {seconds:g} s") from None
        return nodes

    def _asked(self, publication: Publication) -> None:
        if self._is_closed:
            return
        self._node.tasks.spawn(self._answer(msgspec.json.decode(publication.data, type=_Question)))

    async def _answer(self, question: _Question) -> None:
        answerer = self._answerers.get(question.name)
        found = answerer(question.argument) if answerer is not None else ()
        parts = list(found if isinstance(found, Sequence) else await found)
        parts = parts or [b""]
        try:
            for number, part in enumerate(parts, 1):
                answer = _Answer(question.id, self._node.id, part, number == len(parts))
                if question.asker == self._node.id:
                    self._take(answer)
                else:
                    await self._node.control(Control(verb=_ANSWER), msgspec.json.encode(answer))
        except PublishError as error:
            logger.warning("the question %r of a node cannot be answered: %s", question.name, error)

    def _answered(self, publication: Publication) -> None:
        self._take(msgspec.json.decode(publication.data, type=_Answer))

    def _take(self, answer: _Answer) -> None:
        self._silent.discard(answer.node)
        pending = self._pending.get(answer.id)
        if pending is not None:
            pending.take(answer)
