"""The calls of the HTTP API."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import msgspec
from pydantic import ValidationError

from tidewire.channel_options import ChannelOptions
from tidewire.channels import check_user
from tidewire.engine.node import Node
from tidewire.errors import (
    BadRequest,
    CommandError,
    Disconnect,
    InvalidMessage,
    LimitExceeded,
    NotAvailable,
    PublishError,
    StoreUnavailable,
    TidewireError,
    UnknownType,
)
from tidewire.history.read_steps import cost
from tidewire.http_api import map_calls as maps
from tidewire.http_api import models as m
from tidewire.http_api import node_models as n
from tidewire.http_api import results
from tidewire.http_api.nodes import Nodes
from tidewire.http_api.publish import Publishing, payload
from tidewire.messages import HistoryPage, Position
from tidewire.observe.reasons import Question
from tidewire.observe.rows import Query
from tidewire.protocols.centrifuge.codes import BAD_REQUEST, FORCE_DISCONNECT, INTERNAL, error_of
from tidewire.protocols.centrifuge.option_overrides import Override
from tidewire.protocols.json_text import has_huge_number
from tidewire.protocols.outages import sentence
from tidewire.rules.base import Grant
from tidewire.sessions.centrifuge import session_orders
from tidewire.sessions.revocations import Revocation, Revocations
from tidewire.support.counters import count_limit
from tidewire.support.log_limit import LogLimit

__all__ = ("FAULT", "METHODS", "Calls", "Extension", "Method", "failure")

logger = logging.getLogger("tidewire")
#: Callers could cause these lines as often as they like.
_outages = LogLimit()

T = TypeVar("T")
R = TypeVar("R")
Q = TypeVar("Q", bound=m.Request)

#: An extension that `rpc` calls: JSON in, JSON out.
Extension = Callable[[Any], Awaitable[Any]]
#: Channels of a broadcast, or commands of a parallel batch, that are done at once.
_AT_ONCE = 256
#: Seconds by which a caller's clock may be ahead.
_AHEAD_SECONDS = 60.0


def failure(error: TidewireError) -> m.ApiError:
    """Return an error as the API reports it: the protocol's number and words, and the fault of this call.

    A message that is not of its channel's type has the `detail` that FastAPI answers with 422. Of a store that fails
    the caller learns what it means for this call; the log has the rest.
    """
    if isinstance(error, PublishError | StoreUnavailable):
        more = _outages.due(type(error).__name__)
        if more is not None:
            logger.warning("a call of the HTTP API failed: %s%s", error, more)
    if isinstance(error, InvalidMessage):
        return m.ApiError(code=BAD_REQUEST.code, message=BAD_REQUEST.message, detail=error.detail)
    answer = error_of(error)
    return m.ApiError(code=answer.code, message=_MESSAGES.get(answer.code, answer.message), detail=sentence(error))


#: The answer for a fault of the server or of an extension; the log has the details.
FAULT = m.ApiError(code=INTERNAL.code, message=INTERNAL.message)
#: Errors for which the API has other words than the protocol of clients.
_MESSAGES = {104: "not found"}


class Calls:
    """Answers calls, for all nodes; raises CommandError, PublishError, StoreUnavailable."""

    #: The methods of these calls, where they are not `METHODS` alone.
    methods: ClassVar[Mapping[str, Method]] = {}

    def __init__(
        self,
        node: Node,
        nodes: Nodes,
        options: Callable[[str], ChannelOptions],
        *,
        extensions: Mapping[str, Extension] | None = None,
        revocations: Revocations | None = None,
    ) -> None:
        self.node = node
        self._nodes = nodes
        self._options = options
        self._extensions = extensions or {}
        self._revocations = revocations
        #: Bytes of history that the answers of these calls may still have together, in a batch.
        self._left = node.limits.replies_bytes
        self._publishing = Publishing(node, options)
        self.maps = maps.MapCalls(node, options)

    async def call(self, method: str, body: bytes) -> m.Result:
        """Answer the call in a body; raises BadRequest, UnknownType too."""
        methods = self.methods or METHODS
        found = methods.get(method)
        if found is None:
            raise UnknownType(f"no method {method!r}; there are {', '.join(methods)}")
        work, meter = found.run(self, self._parsed(found.request, body)), self.node.meter
        result: m.Result = await (work if meter is None else meter.timed("api", method, work))
        return result

    def _parsed(self, type_: type[Q], body: bytes) -> Q:
        if has_huge_number(body):
            raise BadRequest("the body has a number of 310 digits or more, which not every client can read")
        try:
            request: Q = type_.parse(body, items=self.node.limits.api_items)
        except ValidationError as error:
            raise BadRequest(_problem(error)) from None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"the body is no JSON object: {error}") from None
        return request

    # Publications.

    async def publish(self, request: m.PublishRequest) -> m.PublishResult:
        """Publish in one channel."""
        return await self._publishing.publish(request.channel, request)

    async def broadcast(self, request: m.BroadcastRequest) -> m.BroadcastResult:
        """Publish in many channels; each has a result or an error of its own."""

        async def one(channel: str) -> m.Answer[m.PublishResult]:
            try:
                return m.Answer[m.PublishResult](result=await self._publishing.publish(channel, request))
            except (CommandError, PublishError, StoreUnavailable) as error:
                return m.Answer[m.PublishResult](error=failure(error))

        return m.BroadcastResult(responses=await _each(one, request.channels))

    # Connections.

    async def subscribe(self, request: m.SubscribeRequest) -> m.Empty:
        """Subscribe connections of a user to a channel, on all nodes."""
        since = request.recover_since
        grant = Grant(
            _overridden(self._options(request.channel), request.override),
            info=_given(request.info, request.b64info),
            data=_given(request.data, request.b64data),
            expires_at=request.expire_at or None,
        )
        await session_orders.subscribe(
            self.node,
            request.user,
            request.channel,
            grant,
            client=request.client,
            session=request.session,
            since=None if since is None else Position(since.offset, since.epoch),
        )
        return m.Empty()

    async def unsubscribe(self, request: m.UnsubscribeRequest) -> m.Empty:
        """Unsubscribe connections of a user from a channel, on all nodes."""
        self._options(request.channel)
        await session_orders.unsubscribe(
            self.node, request.user, request.channel, client=request.client, session=request.session
        )
        return m.Empty()

    async def disconnect(self, request: m.DisconnectRequest) -> m.Empty:
        """End connections of a user, on all nodes."""
        given = request.disconnect
        await session_orders.disconnect(
            self.node,
            request.user,
            client=request.client,
            session=request.session,
            whitelist=request.whitelist,
            disconnect=FORCE_DISCONNECT
            if given is None
            else Disconnect(given.code, given.reason, reconnect=given.code % 1_000 < 500),
        )
        return m.Empty()

    async def revoke(self, request: m.RevokeRequest) -> m.Empty:
        """End tokens before they expire, and their connections, on all nodes."""
        if bool(request.user) == bool(request.jti):
            raise BadRequest("write `user` (with `issued_before`, or nothing for now), or `jti`; not both")
        if request.issued_before > time.time() + _AHEAD_SECONDS:
            raise BadRequest("`issued_before` is in the future; tokens that are not issued yet cannot be ended")
        if self._revocations is None:
            raise NotAvailable("these calls cannot end tokens")
        user = check_user(request.user)
        before = 0.0 if request.jti else request.issued_before or time.time()
        await self._revocations.revoke(Revocation(user, request.jti, before))
        return m.Empty()

    async def refresh(self, request: m.RefreshRequest) -> m.Empty:
        """Set how long connections of a user go on, or expire them, on all nodes."""
        await session_orders.refresh(
            self.node,
            request.user,
            client=request.client,
            session=request.session,
            expired=request.expired,
            expires_at=request.expire_at or None,
            info=_given(request.info, ""),
        )
        return m.Empty()

    # Channels.

    async def presence(self, request: m.PresenceRequest) -> m.PresenceResult:
        """Return the connections in a channel."""
        return await results.presence(self.node, request.channel, self._options(request.channel))

    async def presence_stats(self, request: m.PresenceStatsRequest) -> m.PresenceStatsResult:
        """Return how many connections and users are in a channel."""
        return await results.presence_stats(self.node, request.channel, self._options(request.channel))

    async def history(self, request: m.HistoryRequest) -> m.HistoryResult:
        """Return publications of a channel, and its position; raises LimitExceeded for too many."""
        options, most = self._options(request.channel), self.node.limits.replies_bytes // 2
        page = await anext(results.pages(self.node, options, request, most=most))
        self._left -= sum(map(cost, page.publications))
        if page.is_cut or self._left < 0:
            count_limit("reply_bytes" if page.is_cut else "replies_bytes")
            raise LimitExceeded("these histories are too much for one answer; ask for each alone, by /history")
        return results.history(page)

    def history_pages(self, body: bytes) -> AsyncGenerator[HistoryPage, None]:
        """Return the history that a body asks for in pages, each read when it is asked for; raises as `call`."""
        request = self._parsed(m.HistoryRequest, body)
        return results.pages(self.node, self._options(request.channel), request)

    async def history_remove(self, request: m.HistoryRemoveRequest) -> m.Empty:
        """Remove the history of a channel; its position stays."""
        results.check_history(request.channel, self._options(request.channel))
        await self.node.remove_history(request.channel)
        return m.Empty()

    async def channels(self, request: m.ChannelsRequest) -> m.ChannelsResult:
        """Return the channels with subscribers, of all nodes."""
        return await self._nodes.channels(request.pattern)

    async def info(self, request: m.InfoRequest) -> m.InfoResult:
        """Return the figures of all nodes."""
        return await self._nodes.info()

    # The view of all nodes.

    async def status(self, request: n.StatusRequest) -> n.StatusResult:
        """Return the figures of every node that answers."""
        return n.StatusResult(nodes=[n.status_of(report) for report in await self._nodes.reports.all()])

    async def connection_list(self, request: n.ConnectionsRequest) -> n.ConnectionsResult:
        """Return a page of the connections of all nodes."""
        page = await self._nodes.overview.connections(Query(**request.model_dump()))
        return n.ConnectionsResult(total=page.total, connections=page.connections)

    async def channel_list(self, request: n.ChannelListRequest) -> n.ChannelListResult:
        """Return a page of the channels of all nodes."""
        page = await self._nodes.overview.channels(Query(**request.model_dump()))
        return n.ChannelListResult(total=page.total, channels=page.channels)

    async def refusals(self, request: n.RefusalsRequest) -> n.RefusalsResult:
        """Return the latest refusals."""
        return n.RefusalsResult(refusals=await self._nodes.overview.refusals(request.limit))

    async def why(self, request: n.WhyRequest) -> n.WhyResult:
        """Return whether a user may do something, and why."""
        found = await self._nodes.overview.why(Question(request.user, request.channel, request.action))
        if found is None:
            raise NotAvailable("no node has answered that has rules; is a server running?")
        return n.WhyResult(**msgspec.structs.asdict(found))

    # Others.

    async def rpc(self, request: m.RpcRequest) -> m.RpcResult:
        """Call one of the application's extensions."""
        extension = self._extensions.get(request.method)
        if extension is None:
            raise UnknownType(f"no extension {request.method!r} is registered")
        params = None if request.params is None else msgspec.json.decode(request.params)
        return m.RpcResult(data=msgspec.Raw(m.encode(await extension(params))))

    async def batch(self, request: m.BatchRequest) -> m.BatchResult:
        """Run several calls, one after the other or in parallel."""
        most = self.node.limits.api_items
        try:
            given = msgspec.json.decode(request.commands, type=list[msgspec.Raw])
            if len(given) > most:
                raise m.too_many("`commands`", len(given), most)
            commands = [msgspec.json.decode(command, type=dict[str, msgspec.Raw]) for command in given]
        except msgspec.MsgspecError as error:
            raise BadRequest(f'`commands` is a list of objects as {{"publish": {{…}}}}: {error}') from None
        if request.parallel:
            return m.BatchResult(replies=await _each(self._command, commands))
        return m.BatchResult(replies=[await self._command(command) for command in commands])

    async def _command(self, command: dict[str, msgspec.Raw]) -> dict[str, Any]:
        method = next((name for name in command if name in METHODS and name != "batch"), next(iter(command), ""))
        try:
            if method == "batch":
                raise BadRequest("a batch holds no batch")
            return {method: await self.call(method, bytes(command.get(method, b"")))}
        except (CommandError, PublishError, StoreUnavailable) as error:
            return {"error": failure(error)}
        except Exception:  # the other commands have their answers all the same
            logger.exception("the command %s in a batch of the HTTP API failed", method)
            return {"error": FAULT}


async def _each(work: Callable[[T], Awaitable[R]], items: Sequence[T]) -> list[R]:
    """Do the same for all items, so many at once, and return the results in their order."""
    results: list[R] = []
    for start in range(0, len(items), _AT_ONCE):
        results += await asyncio.gather(*map(work, items[start : start + _AT_ONCE]))
    return results


def _given(data: msgspec.Raw | None, encoded: str) -> bytes:
    given = payload(data, encoded)
    return b"" if given == b"null" else given


def _overridden(options: ChannelOptions, override: m.OptionsOverride | None) -> ChannelOptions:
    if override is None:
        return options
    return msgspec.convert(override.model_dump(), Override).applied(options)


def _problem(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg'][:1].lower()}{first['msg'][1:]}"


class Method(NamedTuple):
    """One method of the API."""

    request: type[m.Request]
    result: type[m.Result]
    run: Callable[[Any, Any], Awaitable[m.Result]]


METHODS: dict[str, Method] = {
    "publish": Method(m.PublishRequest, m.PublishResult, Calls.publish),
    "broadcast": Method(m.BroadcastRequest, m.BroadcastResult, Calls.broadcast),
    "subscribe": Method(m.SubscribeRequest, m.Empty, Calls.subscribe),
    "unsubscribe": Method(m.UnsubscribeRequest, m.Empty, Calls.unsubscribe),
    "disconnect": Method(m.DisconnectRequest, m.Empty, Calls.disconnect),
    "revoke": Method(m.RevokeRequest, m.Empty, Calls.revoke),
    "refresh": Method(m.RefreshRequest, m.Empty, Calls.refresh),
    "presence": Method(m.PresenceRequest, m.PresenceResult, Calls.presence),
    "presence_stats": Method(m.PresenceStatsRequest, m.PresenceStatsResult, Calls.presence_stats),
    "history": Method(m.HistoryRequest, m.HistoryResult, Calls.history),
    "history_remove": Method(m.HistoryRemoveRequest, m.Empty, Calls.history_remove),
    "map_publish": Method(maps.MapPublishRequest, maps.MapChangeResult, lambda calls, of: calls.maps.publish(of)),
    "map_remove": Method(maps.MapRemoveRequest, maps.MapChangeResult, lambda calls, of: calls.maps.remove(of)),
    "map_read_state": Method(
        maps.MapReadStateRequest, maps.MapReadStateResult, lambda calls, of: calls.maps.read_state(of)
    ),
    "map_read_stream": Method(
        maps.MapReadStreamRequest, maps.MapReadStreamResult, lambda calls, of: calls.maps.read_stream(of)
    ),
    "map_stats": Method(maps.MapStatsRequest, maps.MapStatsResult, lambda calls, of: calls.maps.stats(of)),
    "map_clear": Method(maps.MapClearRequest, m.Empty, lambda calls, of: calls.maps.clear(of)),
    "channels": Method(m.ChannelsRequest, m.ChannelsResult, Calls.channels),
    "info": Method(m.InfoRequest, m.InfoResult, Calls.info),
    "status": Method(n.StatusRequest, n.StatusResult, Calls.status),
    "connection_list": Method(n.ConnectionsRequest, n.ConnectionsResult, Calls.connection_list),
    "channel_list": Method(n.ChannelListRequest, n.ChannelListResult, Calls.channel_list),
    "refusals": Method(n.RefusalsRequest, n.RefusalsResult, Calls.refusals),
    "why": Method(n.WhyRequest, n.WhyResult, Calls.why),
    "rpc": Method(m.RpcRequest, m.RpcResult, Calls.rpc),
    "batch": Method(m.BatchRequest, m.BatchResult, Calls.batch),
}
