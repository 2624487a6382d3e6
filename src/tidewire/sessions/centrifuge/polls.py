"""Polled values: the application is asked for the values of all tracked keys, and each client gets those that are new.

One loop for each channel on a node, while anybody there tracks a key of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from hashlib import blake2b
from typing import Any, cast

from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.errors import BadRequest, CommandError, ConfigurationError, LimitExceeded, StateFailed, StoreUnavailable
from tidewire.protocols.batch import Batch, Representation
from tidewire.protocols.centrifuge import messages as m
from tidewire.protocols.centrifuge.encoding import CentrifugeProtocol
from tidewire.protocols.centrifuge.messages import Push, raw
from tidewire.protocols.payload import encode_json
from tidewire.rules.base import Poll
from tidewire.sessions.per_node import PerNode
from tidewire.support.counters import count_limit
from tidewire.support.log_limit import LogLimit

__all__ = ("PolledChannel", "Polls", "Tracker")

logger = logging.getLogger("tidewire")

#: Seconds for which new keys wait for others; before a failed call is made again, at least and at most; and for which a
#: client waits to be told that it fails.
_GATHER, _RETRY, _LATEST_RETRY, _ANSWERED = 0.02, 1.0, 10.0, 1.0
#: Clients that are told in one step, and the greatest version: an exact number in JavaScript.
_STEP, _GREATEST = 256, 2**53 - 1


class Tracker:
    """The keys that one client tracks in a channel: the version that it has of each (0: none), and when it ends."""

    __slots__ = ("channel", "connection", "ends", "is_held", "versions")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        #: The channel, while any of its keys is tracked.
        self.channel: PolledChannel | None = None
        self.versions: dict[str, int] = {}
        #: By the loop's clock, for keys whose signature ends.
        self.ends: dict[str, float] = {}
        #: Nothing is told before the reply to its command.
        self.is_held = False

    def go_on(self) -> None:
        """Push the values that came before the client's reply."""
        self.is_held = False
        if self.channel is not None:
            self.channel.catch_up(self)

    def untrack(self, keys: Iterable[str]) -> None:
        """Track keys no more; harmless for those that are not tracked."""
        for key in tuple(keys):
            if self.versions.pop(key, None) is not None and self.channel is not None:
                self.ends.pop(key, None)
                self.channel.leave(self, key)

    @property
    def is_ready(self) -> bool:
        """The client takes values now."""
        return not (self.is_held or self.connection.link.paused)

    def expire(self, now: float) -> None:
        """Track keys no more whose signature has ended."""
        self.untrack(key for key, ends in self.ends.items() if ends <= now)


class _Value:
    """The value of a key, as all who track it are told of it."""

    __slots__ = ("data", "error", "is_wanted", "trackers", "version")

    def __init__(self) -> None:
        #: Why it cannot be sent.
        self.error: StateFailed | None = None
        #: A client waits for it, or for its data, which is not here.
        self.is_wanted = False
        #: None: nobody has asked yet; 0: there is none.
        self.version: int | None = None
        #: As JSON; None also where it is not kept for those who come later.
        self.data: bytes | None = None
        self.trackers: dict[Tracker, None] = {}


class _Turn:
    """A turn of the loop that is no longer than it may be."""

    def __init__(self, seconds: float) -> None:
        self._loop, self._seconds = asyncio.get_running_loop(), seconds
        self._ends = self._loop.time() + seconds

    async def end_in_time(self) -> None:
        """Go on in another turn, if this one has been long."""
        if self._loop.time() >= self._ends:
            await asyncio.sleep(0)
            self._ends = self._loop.time() + self._seconds


class PolledChannel:
    """The tracked keys of one channel on this node."""

    def __init__(self, node: Node, name: str, poll: Poll, on_ended: Callable[[], None]) -> None:
        self.name = name
        self._node = node
        self._poll = poll
        self._on_ended = on_ended
        self._values: dict[str, _Value] = {}
        self._size = 0
        #: Keys that are asked for at once, not with all others.
        self._new: set[str] = set()
        #: Clients that take nothing now: they are given the newest values when they do.
        self._behind: dict[Tracker, None] = {}
        self._wake = asyncio.Event()
        self._asked = asyncio.Event()
        self._error: Exception | None = None
        self._log_limit = LogLimit()
        self.task = node.shared_tasks.spawn(self._run())
        if self.task is None:
            raise StoreUnavailable(f"the values of {name!r} cannot be asked for: this node is closed")

    # Clients come and go.

    def track(self, tracker: Tracker, versions: Mapping[str, int], ends: Mapping[str, float]) -> None:
        """Track keys for a client that has values of these versions; raises LimitExceeded, and tracks none then."""
        most = self._node.limits.poll_keys
        if len(self._values) + sum(key not in self._values for key in versions) > most:
            count_limit("poll_keys")
            raise LimitExceeded(f"{most} keys of {self.name!r} are tracked here (poll_keys); try again later")
        tracker.channel = self
        for key, version in versions.items():
            value = self._values.get(key)
            if value is None:
                value = self._values[key] = _Value()
            value.trackers[tracker] = None
            tracker.versions[key] = version
            tracker.ends.pop(key, None)
            self._tell(key, value, (tracker,), {})
        tracker.ends.update(ends)

    def leave(self, tracker: Tracker, key: str) -> None:
        """Tell a client of a key no more (`Tracker.untrack`)."""
        value = self._values.get(key)
        if value is not None:
            value.trackers.pop(tracker, None)
            if not value.trackers:
                self._size -= len(value.data or b"")
                del self._values[key]
        if not tracker.versions:
            self._behind.pop(tracker, None)
        if not self._values:
            self._wake.set()

    def catch_up(self, tracker: Tracker) -> None:
        """Give a client that could not be told the newest values, as soon as it takes something."""
        if tracker not in self._behind or tracker.is_held:
            return
        if tracker.connection.link.paused:
            self._node.tasks.spawn(self._catch_up_later(tracker))
            return
        del self._behind[tracker]
        for key in tuple(tracker.versions):
            self._tell(key, self._values[key], (tracker,), {})

    async def _catch_up_later(self, tracker: Tracker) -> None:
        await tracker.connection.link.wait_drained()
        self.catch_up(tracker)

    async def wait_answered(self, keys: Collection[str]) -> None:
        """Wait a moment until these keys have been asked for; raises StateFailed, CommandError where that fails."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_ANSWERED):
                while waited := [v for key in keys if (v := self._values.get(key)) and v.version is None]:
                    error = self._error or next((value.error for value in waited if value.error), None)
                    if error is not None:
                        raise error.with_traceback(None)  # many raise it
                    await self._asked.wait()

    # The loop.

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + _GATHER
        try:
            while self._values:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(due):
                        await self._wake.wait()
                self._wake.clear()
                await asyncio.sleep(max(0.0, min(_GATHER, due - loop.time())))
                is_due = loop.time() >= due
                new, self._new = self._new, set()
                wanted = [key for key in new if (value := self._values.get(key)) and value.is_wanted]
                keys = list(self._values) if is_due else wanted
                if is_due:
                    due = loop.time() + self._poll.every
                if keys and not await self._ask(keys):
                    due = loop.time() + max(_RETRY, min(self._poll.every, _LATEST_RETRY))
                self._asked.set()
                self._asked = asyncio.Event()
        finally:
            self._on_ended()

    def _ask_for(self, key: str, value: _Value) -> None:
        value.is_wanted = True
        self._new.add(key)
        if self._error is None:  # else it is asked for when the call is made again
            self._wake.set()

    async def _ask(self, keys: list[str]) -> bool:
        """Ask the application, and tell those that track these keys; return whether it has answered."""
        seconds = self._node.limits.state_seconds
        try:
            async with asyncio.timeout(seconds):
                values = await self._poll.ask(keys)
            await self._take(keys, values)
        except TimeoutError:
            count_limit("state_seconds")
            self._error = self._failed(f"took longer than {seconds:g} s (state_seconds)", None)
        except Exception as error:
            failed = self._failed("cannot be made; clients that wait for them get an error", error)
            self._error = error if isinstance(error, CommandError) else failed
        else:
            self._error = None
        return self._error is None

    def _failed(self, why: str, error: Exception | None) -> StateFailed:
        """Log a failure; return the error that clients get."""
        if (more := self._log_limit.due(type(error).__name__)) is not None:
            logger.error("the polled values of channel %r %s%s", self.name, why, more, exc_info=error)
        return StateFailed(f"the values of {self.name!r} cannot be made; see the server's log")

    async def _take(self, keys: list[str], values: Mapping[str, Any]) -> None:
        """Take the values of the application, in turns of the loop that are bounded."""
        turn = _Turn(self._node.limits.turn_seconds)
        for key in keys:
            await turn.end_in_time()
            value = self._values.get(key)
            if value is None:
                continue
            try:
                trackers = tuple(value.trackers) if self._is_news(key, value, values) else ()
            except ConfigurationError as error:  # which costs only this key
                value.error = self._failed("have one that cannot be sent", error)
                continue
            value.error = None
            made: dict[Representation, Batch] = {}
            for first in range(0, len(trackers), _STEP):
                self._tell(key, value, trackers[first : first + _STEP], made)
                await turn.end_in_time()
            self._forget_too_much(key, value)

    def _is_news(self, key: str, value: _Value, values: Mapping[str, Any]) -> bool:
        """Take the value of a key from an answer; return whether anybody is to be told of it."""
        before = value.version
        if key not in values:
            version, data = 0, None
        elif self._poll.versioned:
            version, found = self._pair(key, values[key])
            if version < (before or 0) or (version == before and value.data is not None):
                return False
            data = self._encoded(key, found)
        else:
            data = self._encoded(key, values[key])
            if data == value.data:
                return False
            version = _number_of(data)
        if version == before and not value.is_wanted:
            return False
        value.is_wanted = False
        self._size += len(data or b"") - len(value.data or b"")
        value.version, value.data = version, data
        return True

    def _pair(self, key: str, found: Any) -> tuple[int, Any]:
        if isinstance(found, tuple) and len(found) == 2:
            version, value = found
            if type(version) is int and 0 < version <= _GREATEST:
                return version, value
        raise ConfigurationError(
            f"the polled value of {key!r} in {self.name!r} is no (version, value) with a version from 1 to 2**53 - 1"
        )

    def _encoded(self, key: str, value: Any) -> bytes:
        try:
            return encode_json(value).translate(None, b"\r\n")
        except BadRequest as error:
            raise ConfigurationError(f"the polled value of {key!r} in {self.name!r} cannot be sent: {error}") from error

    def _forget_too_much(self, key: str, value: _Value) -> None:
        """Keep no value for those who come later where that would be too much."""
        if self._size > self._node.limits.poll_bytes and value.data is not None and self._values.get(key) is value:
            count_limit("poll_bytes")
            self._size -= len(value.data)
            value.data = None

    # Pushing.

    def _tell(self, key: str, value: _Value, trackers: Iterable[Tracker], made: dict[Representation, Batch]) -> None:
        """Tell clients of a value that they do not have; ask for one that is not here."""
        if value.version is None:
            self._ask_for(key, value)
            return
        version = value.version
        for tracker in trackers:
            has = tracker.versions.get(key)
            if has is None or has == version or (self._poll.versioned and has > version > 0):
                continue
            if not tracker.is_ready:
                if tracker not in self._behind:
                    self._behind[tracker] = None
                    self.catch_up(tracker)
                continue
            if version and value.data is None:
                self._ask_for(key, value)
                return
            tracker.connection.link.write_later(self._batch(key, value, tracker.connection.representation, made))
            if version:
                tracker.versions[key] = version
            else:  # as its client does
                tracker.untrack((key,))

    def _batch(
        self, key: str, value: _Value, representation: Representation, made: dict[Representation, Batch]
    ) -> Batch:
        batch = made.get(representation)
        if batch is None:
            version = value.version or 0
            pub = m.Publication(raw(value.data or b""), key=key, version=version, removed=not version)
            push = cast(CentrifugeProtocol, representation.protocol).encode_push(Push(self.name, pub=pub))
            batch = made[representation] = representation.direct(push)
        channel = self._node.registry.channels.get(self.name)
        if channel is not None:
            channel.count(batch)
        return batch


class Polls(PerNode):
    """The polled channels of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._channels: dict[str, PolledChannel] = {}
        self._is_closed = False

    def channel(self, name: str, poll: Poll) -> PolledChannel:
        """Return a channel, and begin to ask for its values; raises StoreUnavailable on a closed node."""
        found = self._channels.get(name)
        if found is None:
            if self._is_closed:
                raise StoreUnavailable(f"the values of {name!r} are asked for no more: the hub is closing")
            found = self._channels[name] = PolledChannel(self._node, name, poll, lambda: self._ended(name))
        return found

    def _ended(self, name: str) -> None:
        self._channels.pop(name, None)

    @classmethod
    async def close(cls, node: Node) -> None:
        """Ask no more, before a node closes."""
        polls = cls.known(node)
        if polls is not None:
            polls._is_closed = True
            tasks = [channel.task for channel in polls._channels.values() if channel.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _number_of(data: bytes) -> int:
    """Return a version for data: the same on every node, so that a client that comes back is told of changes alone."""
    return int.from_bytes(blake2b(data, digest_size=8).digest()) % _GREATEST + 1
