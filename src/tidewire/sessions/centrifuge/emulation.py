"""Commands of clients that listen to a stream and speak by other requests, which may reach another node.

The node that was reached asks the one that the client names, over the nodes' control channel, and answers the client
when that node has answered: a success says that the session has the commands.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from http import HTTPStatus

import msgspec

from tidewire.engine.control import Control
from tidewire.engine.node import Node
from tidewire.errors import PublishError, RateLimited
from tidewire.links.stream import StreamLink
from tidewire.messages import Format, Publication
from tidewire.sessions.centrifuge.directory import Sessions
from tidewire.sessions.per_node import PerNode
from tidewire.support.counters import count_limit

__all__ = ("Emulation",)

logger = logging.getLogger("tidewire")

_ASK, _ANSWER = "emulate", "emulated"
#: Seconds in which the other node must answer; after that it counts as gone.
_SECONDS = 3.0
#: Seconds for which commands of another node wait for a session that reads nothing more.
_TAKING_SECONDS = 2.0
#: Questions at a time to nodes that never answered: a client that makes up ids of nodes must not fill the nodes'
#: channel with them.
_UNHEARD = 16
#: Characters of the id of a node or a session.
_ID_SIZE = 64
_encode = msgspec.msgpack.Encoder().encode


class _Asked(msgspec.Struct, frozen=True, array_like=True):
    """Commands on their way to another node: UTF-8, or the binary encoding."""

    node: str
    session: str
    data: bytes
    is_text: bool
    origin: str
    id: int


class _Answered(msgspec.Struct, frozen=True, array_like=True):
    """Their outcome, as an HTTP status."""

    node: str
    origin: str
    id: int
    status: int


class Emulation(PerNode):
    """Takes commands to the sessions of all nodes. `of` returns that of a node, which from then on answers others."""

    def __init__(self, node: Node) -> None:
        self._id = node.id
        self._limits = node.limits
        self._spawn = node.tasks.spawn
        self._control = node.control
        self._sessions = Sessions.of(node)
        self._ids = itertools.count(1)
        self._pending: dict[int, asyncio.Future[int]] = {}
        #: Nodes that were heard of, and how many questions are on their way to others.
        self._heard: set[str] = set()
        self._unheard = 0
        node.on_control(_ASK, self._asked)
        node.on_control(_ANSWER, self._answered)

    async def deliver(self, node: str, session: str, data: str | bytes) -> HTTPStatus:
        """Give a session the commands of its client; returns the answer.

        204: it has them. 404: no such node, or no such session there. 429: too many wait. 503: the store is away.
        """
        if node == self._id:
            return await self._take(session, data)
        if max(len(node), len(session)) > _ID_SIZE:
            return HTTPStatus.NOT_FOUND
        is_unheard = node not in self._heard
        if len(self._pending) >= self._limits.relays or (is_unheard and self._unheard >= _UNHEARD):
            count_limit("relays")
            return HTTPStatus.TOO_MANY_REQUESTS
        self._unheard += is_unheard
        try:
            return await self._ask(node, session, data)
        except PublishError:
            return HTTPStatus.SERVICE_UNAVAILABLE
        except TimeoutError:
            self._heard.discard(node)
            return HTTPStatus.NOT_FOUND
        finally:
            self._unheard -= is_unheard

    async def _ask(self, node: str, session: str, data: str | bytes) -> HTTPStatus:
        answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        number = next(self._ids)
        self._pending[number] = answered
        is_text = isinstance(data, str)
        raw = data.encode(errors="replace") if isinstance(data, str) else data
        try:
            asked = _Asked(node, session, raw, is_text, self._id, number)
            await self._control(Control(verb=_ASK), _encode(asked), Format.BINARY)
            async with asyncio.timeout(_SECONDS):
                return HTTPStatus(await answered)
        finally:
            del self._pending[number]

    async def _take(self, secret: str, data: str | bytes) -> HTTPStatus:
        session = self._sessions.get(secret)
        link = session.connection.link if session is not None else None
        if not isinstance(link, StreamLink):
            return HTTPStatus.NOT_FOUND
        try:
            return HTTPStatus.NO_CONTENT if await link.receive(data) else HTTPStatus.NOT_FOUND
        except RateLimited:
            return HTTPStatus.TOO_MANY_REQUESTS

    def _asked(self, publication: Publication) -> None:
        asked = msgspec.msgpack.decode(publication.data, type=_Asked)
        self._heard.add(asked.origin)
        if asked.node == self._id:
            self._spawn(self._answer(asked))

    async def _answer(self, asked: _Asked) -> None:
        try:
            async with asyncio.timeout(_TAKING_SECONDS):
                status = await self._take(asked.session, asked.data.decode() if asked.is_text else asked.data)
        except TimeoutError:  # not taken: the session has more than it can do, and is told of as gone otherwise
            status = HTTPStatus.TOO_MANY_REQUESTS
        answer = _Answered(self._id, asked.origin, asked.id, status)
        try:
            await self._control(Control(verb=_ANSWER), _encode(answer), Format.BINARY)
        except PublishError as error:
            logger.warning("a node that passed commands on cannot be answered: %s", error)

    def _answered(self, publication: Publication) -> None:
        answer = msgspec.msgpack.decode(publication.data, type=_Answered)
        self._heard.add(answer.node)
        pending = self._pending.get(answer.id) if answer.origin == self._id else None
        if pending is not None and not pending.done():
            pending.set_result(answer.status)
