"""The verbs of an application for channels and users: publish, send, disconnect, revoke, and read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from datetime import datetime
from itertools import islice
from typing import Any, ParamSpec, TypeVar, overload

from msgspec import structs

from tidewire.channels import check_channel, check_text, check_user, open_channel, personal
from tidewire.engine.control import Control
from tidewire.engine.statistics import Statistics
from tidewire.errors import ConfigurationError, Disconnect, NotAvailable
from tidewire.history.shared_states import State
from tidewire.hub.lifecycle import HubLifecycle
from tidewire.messages import HistoryPage, HistoryRequest, Member, Position, PublishRequest
from tidewire.protocols.close_codes import FORCED
from tidewire.protocols.meta import PublicationMeta, tags_from
from tidewire.protocols.payload import connection_id, encode_json, encode_payload
from tidewire.sessions import hub_orders
from tidewire.sessions.application import HubConnection
from tidewire.sessions.arguments import count_from, flag_from, moment_from, position_from
from tidewire.sessions.listening import Publications
from tidewire.sessions.publication_versions import check_version, publish_version
from tidewire.sessions.revocations import Revocation
from tidewire.sessions.threads import check_loop, running_loop

__all__ = ("Verbs",)

#: Channels of a list that are published to at once.
_AT_ONCE = 256
_Tags = Mapping[str, str] | None
T = TypeVar("T")
P = ParamSpec("P")


class Verbs(HubLifecycle):
    """The verbs of an open hub; all but `from_thread` and `publish_threadsafe` are called on its event loop."""

    # Publications.

    @overload
    async def publish(
        self,
        channel: str,
        data: Any,
        *,
        key: str = "",
        tags: _Tags = None,
        skip_history: bool = False,
        ephemeral: bool | None = None,
        but_not: HubConnection | str | None = None,
        version: int | Position | None = None,
        connection: None = None,
    ) -> Position: ...

    @overload
    async def publish(
        self,
        channel: list[str] | tuple[str, ...],
        data: Any,
        *,
        key: str = "",
        tags: _Tags = None,
        skip_history: bool = False,
        ephemeral: bool | None = None,
        but_not: HubConnection | str | None = None,
        version: None = None,
        connection: None = None,
    ) -> list[Position]: ...

    @overload
    async def publish(
        self,
        channel: str,
        data: Any,
        *,
        key: str = "",
        tags: _Tags = None,
        skip_history: bool = False,
        ephemeral: bool | None = None,
        but_not: HubConnection | str | None = None,
        version: None = None,
        connection: object,
    ) -> None: ...

    async def publish(
        self,
        channel: str | list[str] | tuple[str, ...],
        data: Any,
        *,
        key: str = "",
        tags: _Tags = None,
        skip_history: bool = False,
        ephemeral: bool | None = None,
        but_not: HubConnection | str | None = None,
        version: int | Position | None = None,
        connection: object | None = None,
    ) -> Position | list[Position] | None:
        """Publish str as text, bytes as binary, anything else as JSON; return the position when the broker keeps it.

        - `channel`: a name, or a list of names. All of a list are published to at once; the positions come in its
          order, and the first failure is raised when all are done.
        - `key`: two publications of one channel with the same key within five minutes are published once.
        - `tags`: clients of the Centrifuge protocol may filter by them.
        - `skip_history`: subscribers get the publication, but history and recovery leave it out.
        - `ephemeral`: the publication goes to the subscribers of this moment and is not kept; `publish` returns at
          once, with offset 0. None: as the channel's rule says.
        - `but_not`: a connection, or its id, that does not get the publication.
        - `version`: a number that must be greater than that of the newest versioned publication, or the Position at
          which the channel must still be; otherwise VersionConflict is raised. This is exact over all nodes among
          versioned publications, so give a version with each publication of a channel, or with none.
        - `connection`: a connection or session of the application's own database (postgresql:// with asyncpg, psycopg
          or SQLAlchemy; sqlite:// with sqlite3, aiosqlite or SQLAlchemy). The publication is part of its transaction.

        Raises NotPublished when the publication is surely not kept, PublishUnconfirmed when that is unknown (repeat it
        with the same key), InvalidMessage for data that is not of the type that the rule declares, another CommandError
        for a channel name or data that cannot be used, ConfigurationError for a store that cannot do it.
        """
        not_for = connection_id(but_not, "but_not")
        skip_history = flag_from(skip_history, "skip_history")
        ephemeral = None if ephemeral is None else flag_from(ephemeral, "ephemeral")
        meta = PublicationMeta(None, tags_from(tags), skip_history=skip_history, but_not=not_for)
        if not isinstance(channel, str) and isinstance(channel, list | tuple):
            if version is not None or connection is not None:
                raise ConfigurationError("version= and connection= are for one channel; publish to each by itself")
            requests = [self._request(name, data, key, meta) async for name in _in_turns(channel)]
            return await _all(self._publish(request, meta, ephemeral, None) for request in requests)
        request = self._request(channel, data, key, meta)
        if connection is not None:
            is_ephemeral = self._options.of(request.channel).ephemeral if ephemeral is None else ephemeral
            if is_ephemeral or version is not None:
                raise ConfigurationError(
                    "an ephemeral or versioned publication can't be part of a transaction; leave connection= out, or "
                    "write ephemeral=False"
                )
            await self._publish_within(connection, request)
            return None
        return await self._publish(request, meta, ephemeral, version)

    def _request(self, channel: str, data: Any, key: str, meta: PublicationMeta) -> PublishRequest:
        """Return the request for a publication, checked; raises CommandError."""
        name = open_channel(channel, self.limits.channel_name)
        shape_of = self._options.shape_of
        shape = None if shape_of is None else shape_of(name)
        encoded, format_ = encode_payload(data) if shape is None else shape.encode(data)
        return PublishRequest(name, encoded, format_, key and check_text(key, "key"), meta.encode())

    async def _publish(
        self, request: PublishRequest, meta: PublicationMeta, ephemeral: bool | None, version: int | Position | None
    ) -> Position:
        name, data, format_, key = request.channel, request.data, request.format, request.key
        if version is None:
            if meta.skip_history:
                ephemeral = self.node.may_pass(data, key, ephemeral)
            return await self.node.publish(
                name, data, format_, key=key, meta=request.meta, ephemeral=ephemeral, sender=meta.but_not
            )
        if ephemeral:
            raise ConfigurationError("an ephemeral publication is not kept, so it has no version; leave version= out")
        check_version(version)
        return await publish_version(self.node, name, data, format_, meta, version=version, key=key)

    async def _publish_within(self, connection: object, request: PublishRequest) -> None:
        within = self.node.broker.within
        if within is None:
            raise ConfigurationError(
                f"{self.url.partition(':')[0]}:// cannot publish in your transaction, postgresql:// and sqlite:// can; "
                "publish after its commit, without connection="
            )
        self.node.fanout.ephemeral.send_before(request.channel)
        await within(connection, structs.replace(request, retention=self._options.retentions[request.channel]))

    def publish_threadsafe(self, channel: str, data: Any, *, key: str = "") -> Future[Position]:
        """Publish from a thread of this process; the future raises as `publish` does."""
        return self._opened.threads.submit(lambda: self.publish(channel, data, key=key))

    def from_thread(self, verb: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a coroutine function from a thread or a plain `def`, and wait: `hub.from_thread(hub.publish, "a", 1)`.

        The function may be any verb of the hub or of a connection. Raises its errors, and ConfigurationError when it is
        called in an event loop, which waiting would stop.
        """
        if (running := running_loop()) is not None:
            name = getattr(verb, "__name__", "…")
            is_own = running is self._opened.loop
            instead = f"hub.{name}(…)" if is_own else f"asyncio.to_thread(hub.from_thread, hub.{name}, …)"
            raise ConfigurationError(f"from_thread waits, which stops an event loop; write `await {instead}` here")
        if not callable(verb):
            getattr(verb, "close", lambda: None)()  # a coroutine that would be said never to have been awaited
            raise ConfigurationError(
                "from_thread takes the function and its arguments: from_thread(hub.publish, 'a', 1)"
            )
        return self._opened.threads.submit(lambda: verb(*args, **kwargs)).result()

    async def send_to_user(self, user: str, data: Any, *, key: str = "") -> Position:
        """Push to every connection of a user, on all nodes; kept in the user's own channel. Raises as `publish`."""
        return await self.node.publish(personal(user), *encode_payload(data), key=key)

    async def broadcast(self, data: Any) -> None:
        """Push to every connection on all nodes, subscribed or not; not kept for clients that are away."""
        await self.node.control(Control(everybody=True), *encode_payload(data))

    async def disconnect(
        self,
        *,
        user: str = "",
        connection: HubConnection | str | None = None,
        reason: str = "",
        reconnect: bool = False,
    ) -> None:
        """End every connection of a user on all nodes, or one `connection` (itself or its id).

        With both, the connection is ended only if it belongs to the user. A connection that is gone is no error. With
        `reconnect`, the client may come back. Raises ConfigurationError without either, PublishError.
        """
        check_text(reason, "reason")
        reconnect = flag_from(reconnect, "reconnect")
        ending = Disconnect(4000 if reconnect else FORCED.code, reason or FORCED.reason, reconnect)
        id_ = connection_id(connection)
        if id_:
            await hub_orders.ask(self.node, hub_orders.Ending(id_, check_user(user), ending))
        elif user:
            await self.node.control(Control(check_user(user), ending))
        else:
            raise ConfigurationError("disconnect needs user=… or connection=…")

    async def unsubscribe(self, user: str, channel: str) -> None:
        """End the subscriptions of all connections of a user to a channel, on all nodes, and notify their clients.

        Does nothing where there is none. Clients of the Centrifuge protocol do not subscribe again by themselves; the
        channel's rule decides whether they may. Raises PublishError.
        """
        name = check_channel(channel, self.limits.channel_name)
        await hub_orders.ask(self.node, hub_orders.Leaving(check_user(user), name))

    async def set_presence(self, connection: HubConnection | str, channel: str, info: Any) -> None:
        """Change the presence info of a connection in a channel, on any node.

        Does nothing where the connection is not present. An endpoint calls `connection.set_presence` for its own.
        Raises PublishError.
        """
        name = check_channel(channel, self.limits.channel_name)
        info = b"" if info is None else encode_json(info)
        await hub_orders.ask(self.node, hub_orders.Presenting(connection_id(connection), name, info))

    async def revoke(self, *, user: str = "", issued_before: float | datetime | None = None, jti: str = "") -> None:
        """End tokens before they expire, on all nodes and for `limits.revocation_seconds`.

        Revoke one token by its id (`jti`), or all tokens of a user that were issued before a time in seconds since 1970
        (None: now). Their connections end with 1008, and new ones are refused. This works for connections that know
        their token: give `connect` or the `Identity` a `token=IssuedToken(id, issued_at)`. Raises as `publish`.
        """
        if not user and not jti:
            raise ConfigurationError("revoke needs user=… or jti=…")
        token = check_text(jti, "jti") if jti else ""
        before = 0.0 if jti else time.time() if issued_before is None else moment_from(issued_before, "issued_before")
        name = check_user(user) if user else ""
        await self.revocations.revoke(Revocation(name, token, before))

    # Reading.

    def listen(
        self, channel: str, *, since: str | Position | None = None, history: int = 0, state: bool = False
    ) -> Publications:
        """Read a channel in your own code: `async with hub.listen("news") as publications`, then `async for` over them.

        The publications after `since` (a Position, or its text as a client sends it) come first. Without `since`, or
        where that position is no longer known (`recovered` is False), the newest `history` publications come first;
        with `state`, the channel's state takes their place. The channel's `slow` policy holds for a slow reader, too.
        Raises BadRequest, and StoreUnavailable at entry.
        """
        name = open_channel(channel, self.limits.channel_name)
        check_loop(self._opened.loop)
        first, state = count_from(history, "history"), flag_from(state, "state")
        return Publications(self.node, name, position_from(since), first, with_state=state)

    async def state(self, channel: str) -> State:
        """Return the state of a channel, from the function of `ChannelRule.state`, with its position.

        Concurrent callers share one call of the function. Raises NotAvailable for a channel without a state,
        StateFailed, StoreUnavailable, and a CommandError that the function raises.
        """
        node, name = self.node, open_channel(channel, self.limits.channel_name)
        make = node.options.state_of(name)
        if make is None:
            raise NotAvailable(f"channel {name!r} has no state; write one with @rule.state")
        return await node.recoveries.state(await node.channels.open(name), make)

    # Reading.

    async def history(
        self, channel: str, *, since: str | Position | None = None, limit: int | None = None, reverse: bool = False
    ) -> HistoryPage:
        """Read a channel's history as its retention shows it; raises StoreUnavailable, BadRequest.

        `since` may be the text of a position, as a client sends it.
        """
        name = check_channel(channel, self.limits.channel_name)
        most = None if limit is None else count_from(limit, "limit")
        return await self._read(name, position_from(since), most, reverse=flag_from(reverse, "reverse"))

    async def _read(
        self, name: str, since: Position | None, most: int | None = None, *, reverse: bool = False
    ) -> HistoryPage:
        retention = self.node.options.of(name).retention
        return await self.node.history.read(HistoryRequest(name, retention, since, most, reverse))

    async def position(self, channel: str) -> Position:
        """Return the position of a channel, that of its newest publication; raises StoreUnavailable."""
        name = check_channel(channel, self.limits.channel_name)
        return (await self.node.broker.history(name, limit=0)).top

    async def inbox(self, user: str, *, since: str | Position | None = None) -> HistoryPage:
        """Read the messages that `send_to_user` has sent to a user; raises StoreUnavailable."""
        return await self._read(personal(user), position_from(since))

    async def remove_history(self, channel: str) -> None:
        """Remove the history of a channel; raises StoreUnavailable."""
        await self.node.remove_history(open_channel(channel, self.limits.channel_name))

    async def presence(self, channel: str) -> list[Member]:
        """Return the members of a channel on all nodes, one for each connection; raises StoreUnavailable."""
        return await self.node.presence.members(check_channel(channel, self.limits.channel_name))

    async def users(self, channel: str) -> list[str]:
        """Return the users present in a channel on all nodes, each once, in the order of their arrival."""
        return list(dict.fromkeys(member.user for member in await self.presence(channel)))

    async def is_online(self, user: str) -> bool:
        """Return whether a user has a connection on any node; raises StoreUnavailable."""
        return await self.node.presence.count(personal(user), user) > 0

    @property
    def degraded(self) -> bool:
        """Whether the store is away: publishing fails, clients stay."""
        return self.node.tasks.degraded

    def statistics(self) -> Statistics:
        """Return the figures of this node."""
        return self.node.statistics()


async def _in_turns(names: Iterable[T]) -> AsyncIterator[T]:
    """Iterate over many, and let others go on between."""
    for number, name in enumerate(names, 1):
        yield name
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0)


async def _all(works: Iterator[Coroutine[Any, Any, T]]) -> list[T]:
    """Run many at once, and return their results; raises the first failure when all are done."""
    results: list[T | BaseException] = []
    while some := tuple(islice(works, _AT_ONCE)):
        results += await asyncio.gather(*some, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
