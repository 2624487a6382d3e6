"""Judges every name and value before a store sees it: one caller's mistake is no outage, and harms no other caller."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from tidewire.backends.base import Broker, Deliver, JoinResult, Moved, Presence, Resumed, nothing_to_resume
from tidewire.channels import check_name, check_text
from tidewire.errors import BadRequest
from tidewire.messages import (
    Announcement,
    Departure,
    EphemeralPublication,
    HistoryPage,
    HistoryRequest,
    Member,
    Position,
    PublishRequest,
)

__all__ = ("CheckedBroker", "CheckedPresence")


def _judge_bytes(data: bytes, what: str) -> None:
    if not isinstance(data, bytes):
        raise BadRequest(f"{what} is of type {type(data).__name__}; write bytes")


def _judge_request(request: PublishRequest) -> None:
    check_name(request.channel, "channel")
    _judge_bytes(request.data, "data")
    if request.key:
        check_text(request.key, "key")
        if not 0 <= request.key_age < float("inf"):
            raise BadRequest(f"key_age={request.key_age!r} is no number of seconds; write 0 or more")


class CheckedBroker(Broker):
    """A broker that judges every argument, and does nothing else. All methods raise BadRequest as well."""

    def __init__(self, broker: Broker) -> None:
        self.judged = broker
        self.shared = broker.shared
        self.waits = broker.waits
        self.kept = broker.kept
        self.within = None if broker.within is None else self._publish_within
        #: The judged broker's own; a subclass that times some calls puts another function in its place for these.
        self._publish: Callable[[PublishRequest], Awaitable[Position]] = broker.publish
        #: The channel of the last request, judged: most requests have the same string again.
        self._judged_name = ""

    async def start(self, deliver: Deliver, resumed: Resumed = nothing_to_resume) -> None:
        await self.judged.start(deliver, resumed)

    def watch_moves(self, moved: Moved) -> None:
        self.judged.watch_moves(moved)

    async def aclose(self) -> None:
        await self.judged.aclose()

    async def subscribe(self, channel: str) -> Position:
        check_name(channel, "channel")
        return await self.judged.subscribe(channel)

    async def unsubscribe(self, channel: str) -> None:
        check_name(channel, "channel")
        await self.judged.unsubscribe(channel)

    def publish(self, request: PublishRequest) -> Awaitable[Position]:
        if request.channel is not self._judged_name or type(request.data) is not bytes or request.key:
            _judge_request(request)
            self._judged_name = request.channel
        return self._publish(request)

    def relay(self, publications: Sequence[EphemeralPublication]) -> None:
        self.judged.relay(publications)

    async def _publish_within(self, connection: object, request: PublishRequest) -> None:
        _judge_request(request)
        assert self.judged.within is not None
        await self.judged.within(connection, request)

    async def read(self, request: HistoryRequest) -> HistoryPage:
        check_name(request.channel, "channel")
        if request.since is not None:
            check_text(request.since.epoch, "epoch")
        return await self.judged.read(request)

    async def remove_history(self, channel: str) -> None:
        check_name(channel, "channel")
        await self.judged.remove_history(channel)

    async def positions(self, channels: Sequence[str]) -> dict[str, Position]:
        for channel in channels:
            check_name(channel, "channel")
        return await self.judged.positions(channels)

    async def describe(self) -> tuple[str, ...]:
        return await self.judged.describe()

    async def advise(self) -> tuple[str, ...]:
        return await self.judged.advise()


class CheckedPresence(Presence):
    """A presence that judges every argument, and does nothing else. All methods raise BadRequest as well."""

    def __init__(self, presence: Presence) -> None:
        self.judged = presence

    async def start(self, node: str) -> None:
        await self.judged.start(node)

    async def aclose(self) -> None:
        await self.judged.aclose()

    async def join(self, channel: str, member: Member, announcement: Announcement | None = None) -> JoinResult:
        check_name(member.connection, "connection")
        check_name(member.user, "user")
        check_name(channel, "channel")
        _judge_bytes(member.info, "info")
        if announcement is not None:
            _judge_bytes(announcement.data, "announcement")
        return await self.judged.join(channel, member, announcement)

    async def leave(self, channel: str, connection: str) -> bool:
        check_name(channel, "channel")
        check_name(connection, "connection")
        return await self.judged.leave(channel, connection)

    async def set_aside(self, channel: str, connection: str) -> None:
        check_name(channel, "channel")
        check_name(connection, "connection")
        await self.judged.set_aside(channel, connection)

    async def touch(self) -> bool:
        return await self.judged.touch()

    async def members(self, channel: str) -> list[Member]:
        check_name(channel, "channel")
        return await self.judged.members(channel)

    async def count(self, channel: str, user: str | None = None) -> int:
        if user is not None:
            check_name(user, "user")
        check_name(channel, "channel")
        return await self.judged.count(channel, user)

    async def claim(self, limit: int = 256) -> Sequence[Departure]:
        return await self.judged.claim(limit)

    async def forget(self, departures: Sequence[Departure]) -> None:
        await self.judged.forget(departures)
