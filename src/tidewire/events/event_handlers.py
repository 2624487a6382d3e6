"""Calls the application's functions for events: in order by user and channel, again after a failure, then dead."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from tidewire.channels import watched
from tidewire.engine.node import Node
from tidewire.errors import ConfigurationError, PublishError
from tidewire.events.event_kinds import Event, Interest
from tidewire.events.event_stream import Cursor, events_of
from tidewire.messages import Position
from tidewire.rules.base import Caller, Identity
from tidewire.rules.dependency_overrides import Overrides
from tidewire.rules.handlers import Bound
from tidewire.rules.parameters import NoMatch, Source, hints_of
from tidewire.support.shown_value import shown

__all__ = ("DeadEvent", "EventHandler", "HandlerCalls", "dead_events", "repeat")

logger = logging.getLogger("tidewire")

#: Seconds between the tries of a handler that raises; then the event is dead.
BACKOFF = (0.5, 1.0, 2.0, 4.0, 8.0)
#: Events that are being handled at once, and seconds between two saves of how far that has come.
_MOST, _SAVE_SECONDS = 500, 0.5
#: Characters of an error that are kept.
_ERROR_TEXT = 1_000
_DEAD, _CONSUMER = watched("dead"), "on"


class DeadEvent(msgspec.Struct, frozen=True):
    """An event that a handler has refused as often as it was tried; `is_repeated`: it was handled since."""

    event: Event
    handler: str
    error: str
    is_repeated: bool = False


class EventHandler(Bound):
    """A function that is told of events."""

    __slots__ = ("_event_names", "function_name", "interest", "name")

    _knows_context = False

    def __init__(self, interest: Interest, function: Callable[..., Any], overrides: Overrides) -> None:
        self.interest = interest
        #: By which its dead events were known once, and one function for several patterns has it several times.
        self.function_name = f"{function.__module__}.{getattr(function, '__qualname__', 'handler')}"
        #: By which its dead events are known, wherever it is registered; the hub numbers those that are called alike.
        self.name = f"{self.function_name} ({interest.text})"
        hints = hints_of(function)
        self._event_names = {name for name, type_ in hints.items() if type_ is Event} | {"event"}
        super().__init__(function, interest.names, all_names=False, overrides=overrides)

    def _source(self, parameter: Any, type_: Any, names: Sequence[str], takes_data: bool) -> Source:
        if parameter.name in self._event_names:
            return lambda _, __, event: event
        if parameter.name == "channel" and "channel" not in names:
            return lambda _, __, event: event.channel
        return super()._source(parameter, type_, names, takes_data)

    async def handle(self, event: Event) -> bool:
        """Call the function if the event is one of its, and return whether it is; raises as the function does."""
        texts = self.interest.match(event.kind, event.channel)
        if texts is None:
            return False
        try:
            await self(Caller("", Identity(event.user)), texts, event)
        except NoMatch:
            return False
        return True


class HandlerCalls:
    """Consumes events for all handlers of a hub, on one node."""

    def __init__(self, node: Node, handlers: Sequence[EventHandler], woken: asyncio.Event) -> None:
        self._node = node
        self._handlers = handlers
        self._woken = woken
        self._cursor = Cursor(node, _CONSUMER)
        self._queues: dict[tuple[str, str], deque[tuple[Position, Event]]] = {}
        #: How many events are unfinished at each position, in the order of the stream.
        self._unfinished: dict[Position, int] = {}
        self._reached: Position | None = None
        self._room = asyncio.Semaphore(_MOST)

    async def run(self) -> None:
        """Handle events until cancelled; raises StoreUnavailable."""
        since = self._reached = await self._cursor.load()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_saving())
            async for position, event in events_of(self._node, _CONSUMER, since, self._woken):
                await self._room.acquire()
                self._unfinished[position] = self._unfinished.get(position, 0) + 1
                self._reached = position
                key = event.channel, event.user
                queue = self._queues.get(key)
                if queue is None:
                    queue = self._queues[key] = deque()
                    queue.append((position, event))
                    group.create_task(self._work(key, queue))
                else:
                    queue.append((position, event))

    async def _work(self, key: tuple[str, str], queue: deque[tuple[Position, Event]]) -> None:
        while queue:
            position, event = queue.popleft()
            for handler in self._handlers:
                await self._handle(handler, event)
            self._unfinished[position] -= 1
            self._room.release()
        del self._queues[key]

    async def _handle(self, handler: EventHandler, event: Event) -> None:
        for seconds in (*BACKOFF, None):
            try:
                await handler.handle(event)
            except Exception as error:
                if seconds is None:
                    logger.exception("event %s (%s) is dead: %s refuses it", event.id, event.kind, handler.name)
                    await _keep_dead(self._node, DeadEvent(event, handler.name, _text_of(error)))
                else:
                    logger.warning("%s failed for event %s, and is called again: %r", handler.name, event.id, error)
                    await asyncio.sleep(seconds)
            else:
                return

    async def _keep_saving(self) -> None:
        while True:
            await asyncio.sleep(_SAVE_SECONDS)
            done: Position | None = None
            for position, count in tuple(self._unfinished.items()):
                if count:
                    break
                done = position
                if position != self._reached:
                    del self._unfinished[position]
            await self._cursor.save(done)


def _text_of(error: Exception) -> str:
    """Return the beginning of an error as text that every store holds: a longer one, or another, is kept by none."""
    name = type(error).__name__
    try:
        text = f"{name}: {error}"
    except Exception:
        text = f"{name}: its text cannot be read"
    return text[:_ERROR_TEXT].encode(errors="backslashreplace").decode()


async def _keep_dead(node: Node, dead: DeadEvent) -> None:
    while True:
        try:
            await node.publish(
                _DEAD, msgspec.json.encode(dead), key=f"{dead.event.id} {dead.handler} {dead.is_repeated}"
            )
        except PublishError:
            await asyncio.sleep(1.0)
        else:
            return


async def dead_events(node: Node) -> list[DeadEvent]:
    """Return the events that no handler could handle since; raises StoreUnavailable."""
    page = await node.broker.history(_DEAD)
    found: dict[tuple[str, str], DeadEvent] = {}
    for publication in page.publications:
        dead = msgspec.json.decode(publication.data, type=DeadEvent)
        if dead.is_repeated:
            found.pop((dead.event.id, dead.handler), None)
        else:
            found[dead.event.id, dead.handler] = dead
    return list(found.values())


async def repeat(node: Node, handlers: Sequence[EventHandler], id_: str) -> None:
    """Call each handler that has refused an event again, here; raises as the first of those that refuse it still.

    Raises ConfigurationError for no such event, and for a handler that is not there any more.
    """
    dead = [one for one in await dead_events(node) if one.event.id == id_]
    if not dead:
        raise ConfigurationError(f"there is no dead event {shown(id_)}; dead_events() lists them")
    errors: list[Exception] = []
    for one in dead:
        refused = await _refused_again(one, handlers)
        if not refused:
            await _keep_dead(node, msgspec.structs.replace(one, is_repeated=True))
        errors += refused
    if errors:
        for other in errors[1:]:
            errors[0].add_note(f"{other.__notes__[-1]}: {_text_of(other)}")
        raise errors[0]


async def _refused_again(dead: DeadEvent, handlers: Sequence[EventHandler]) -> list[Exception]:
    """Call the handler of a dead event, and return the errors of it: also one if no handler takes the event."""
    errors: list[Exception] = []
    is_taken = False
    for handler in handlers:
        if dead.handler in (handler.name, handler.function_name):
            try:
                is_taken |= await handler.handle(dead.event)
            except Exception as error:
                errors.append(error)
    if not is_taken and not errors:
        why = f"no handler is called {dead.handler} any more, or none takes event {dead.event.id!r}, which it refused"
        errors.append(ConfigurationError(why))
    for found in errors:
        found.add_note(f"{dead.handler} refuses event {dead.event.id!r} still")
    return errors
