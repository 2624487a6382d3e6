"""The calls of a playground: those of the HTTP API, and faults on purpose."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from pydantic import Field

from tidewire.channel_options import ChannelOptions
from tidewire.engine.node import Node
from tidewire.errors import BadRequest, NotAvailable
from tidewire.http_api import models as m
from tidewire.http_api.calls import METHODS, Calls, Method
from tidewire.http_api.nodes import Nodes
from tidewire.http_api.recovery_trial import try_cut
from tidewire.observe.faults import Cut, Faults, Freeze, Kill, Stop
from tidewire.observe.rows import ConnectionRow, Query

__all__ = ("FAULT_METHODS", "FaultCalls")

#: Seconds that a fault may last: less than clients wait for a ping, so that none reconnects meanwhile.
_LONGEST = 30.0
#: Connections of one user that a fault reaches.
_MOST = 500


class _Target(m.Request):
    client: str = Field(default="", max_length=100, description="The connection with this id.")
    user: str = Field(default="", max_length=500, description="Or all connections of this user.")


class CutRequest(_Target):
    """Cut the cable: no byte passes, then the connection ends without a close frame."""

    seconds: float = Field(default=5.0, gt=0, le=_LONGEST)


class FreezeRequest(_Target):
    """Freeze a client: it takes nothing, and its outbox fills."""

    seconds: float = Field(default=5.0, gt=0, le=_LONGEST)


class KillRequest(_Target):
    """Kill the process that holds a connection."""


class HangRequest(m.Request):
    """Make the store hang: it answers nobody."""

    seconds: float = Field(default=5.0, gt=0, le=_LONGEST)


class FaultResult(m.Result):
    """The connections that the fault was sent to."""

    clients: list[str]


class TrialRequest(m.Request):
    """Cut off a client of the trial's own, publish meanwhile, and count the recovered messages."""

    payloads = frozenset({"data"})

    channel: m.Channel
    user: str = Field(default="ann", max_length=500, description="The client connects as this user.")
    count: int = Field(default=14, ge=1, le=500, description="Messages that are published during the cut.")
    data: m.Payload | None = Field(default=None, description="Each of them, where the channel has a type.")
    seconds: float = Field(default=1.0, gt=0, le=_LONGEST)


class TrialResult(m.Result):
    """The messages of the client; not `complete`: it was notified of a gap, because the history is too short."""

    missed: int
    recovered: int
    doubled: int
    in_order: bool
    complete: bool


class FaultCalls(Calls):
    """The calls of a playground."""

    def __init__(self, node: Node, nodes: Nodes, options: Callable[[str], ChannelOptions], faults: Faults) -> None:
        super().__init__(node, nodes, options)
        self._overview = nodes.overview
        self._faults = faults

    async def cut(self, request: CutRequest) -> FaultResult:
        """Cut the cables of connections, on all nodes."""
        clients = [row.client for row in await self._found(request)]
        await self._faults.order(Cut(tuple(clients), request.seconds))
        return FaultResult(clients=clients)

    async def freeze(self, request: FreezeRequest) -> FaultResult:
        """Freeze connections, on all nodes."""
        clients = [row.client for row in await self._found(request)]
        await self._faults.order(Freeze(tuple(clients), request.seconds))
        return FaultResult(clients=clients)

    async def kill(self, request: KillRequest) -> FaultResult:
        """Kill the worker that holds a connection."""
        if not self._faults.has_supervisor:
            raise NotAvailable("nothing would start this process again; try it with two workers: --workers 2")
        row = (await self._found(request))[0]
        await self._faults.order(Kill(row.node))
        return FaultResult(clients=[row.client])

    async def hang(self, request: HangRequest) -> m.Empty:
        """Make the store hang, for all nodes."""
        await self._faults.order(Stop(request.seconds))
        return m.Empty()

    async def trial(self, request: TrialRequest) -> TrialResult:
        """Cut off a client, and count."""

        async def cut(client: str) -> None:
            await self._faults.order(Cut((client,), request.seconds))

        async def publish() -> list[int]:
            made = ({"trial": number} for number in range(request.count))
            data = [request.data or msgspec.Raw(msgspec.json.encode(one)) for one in made]
            answers = [await self.publish(m.PublishRequest(channel=request.channel, data=one)) for one in data]
            return [answer.offset for answer in answers]

        outcome = await try_cut(request.user, request.channel, cut, publish)
        return TrialResult(**outcome._asdict())

    async def _found(self, target: _Target) -> list[ConnectionRow]:
        if bool(target.client) == bool(target.user):
            raise BadRequest("write `client`, the id of a connection, or `user`; not both")
        query = Query(search=target.client, user=target.user, limit=_MOST)
        page = await self._overview.connections(query)
        found = [row for row in page.connections if target.client in ("", row.client)]
        if not found:
            raise BadRequest(f"{target.client or target.user!r} has no connection here; connection_list names them")
        if any(row.kind == "stream" for row in found):
            raise NotAvailable("a client that comes by a stream of HTTP cannot be held; take one with a WebSocket")
        return found


FAULT_METHODS = {
    "cut": Method(CutRequest, FaultResult, FaultCalls.cut),
    "freeze": Method(FreezeRequest, FaultResult, FaultCalls.freeze),
    "kill": Method(KillRequest, FaultResult, FaultCalls.kill),
    "trial": Method(TrialRequest, TrialResult, FaultCalls.trial),
    "hang": Method(HangRequest, m.Empty, FaultCalls.hang),
}
FaultCalls.methods = {**METHODS, **FAULT_METHODS}
