"""The node and the meter of a traced process; without a tracer, neither is made, and tracing costs nothing."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import msgspec
from opentelemetry.context import attach, create_key, detach, get_current, get_value, set_value
from opentelemetry.trace import Span, set_span_in_context

from tidewire.backends.base import Broker, Presence
from tidewire.channels import is_internal, is_personal
from tidewire.engine.node import Node
from tidewire.engine.registry import Channel, ChannelPush
from tidewire.history.shown_history import IsShown
from tidewire.limits import Limits
from tidewire.messages import EphemeralPublication, Position, Publication, PublishRequest
from tidewire.observe.tracing import Tracing, current_context, fail, text_of
from tidewire.protocols.meta import trace_of, with_trace
from tidewire.rules.options_by_name import OptionsByName
from tidewire.support.key_counts import Counts
from tidewire.support.log_ids import LogIds
from tidewire.support.meter import Meter

__all__ = ("TracedMeter", "TracedNode")

_logger = logging.getLogger("tidewire")
T = TypeVar("T")
#: The key of a command's span in the context, so that a failure that is answered inside it can be noted.
_COMMAND = create_key("tidewire.command")
#: Seconds between two checks of a fan-out that continues in later turns.
_LOOK_SECONDS = 0.005


class TracedMeter(Meter):
    """A meter that puts spans around handshakes and commands, and counts them by another meter, if there is one."""

    __slots__ = ("_tracing", "meter")
    has_spans = True

    def __init__(self, tracing: Tracing, meter: Meter | None) -> None:
        super().__init__()
        self._tracing = tracing
        #: The meter that counts, if there is one.
        self.meter = meter
        self.is_due = meter is not None  # otherwise no durations are wanted
        if meter is not None:
            self.durations = meter.durations

    def handshake(self, kind: str, work: Awaitable[T]) -> Awaitable[T]:
        span = self._tracing.handshake(kind)
        work = super().handshake(kind, work)
        return work if span is None else _within(span, work)

    def command(self, name: str, work: Awaitable[T], connection: str) -> Awaitable[T]:
        span = self._tracing.command(name, connection)
        return work if span is None else _within(span, work)

    def add(self, family: str, name: str, outcome: str, seconds: float) -> None:
        super().add(family, name, outcome, seconds)
        if family == "command" and outcome == "failed" and (error := sys.exc_info()[1]) is not None:
            span = get_value(_COMMAND)
            if isinstance(span, Span) and span.is_recording():
                fail(span, error)


async def _within(span: Span, work: Awaitable[T]) -> T:
    """Wait for some work as part of a span; after a failure the span stays current, for the log of the failure."""
    token = attach(set_value(_COMMAND, span, set_span_in_context(span)))
    try:
        result = await work
    except BaseException as error:
        fail(span, error)
        raise
    else:
        detach(token)
        return result
    finally:
        span.end()


class TracedNode(Node):
    """A node that makes spans of its publishes, and of the fan-out of publications that bring the span of theirs."""

    def __init__(
        self,
        tracing: Tracing,
        broker: Broker,
        presence: Presence,
        *,
        limits: Limits,
        options: OptionsByName,
        is_shown: IsShown,
        counts: Counts,
    ) -> None:
        super().__init__(broker, presence, limits=limits, options=options, is_shown=is_shown, counts=counts)
        self._tracing = tracing
        self._delivering: list[tuple[Channel, Span]] = []
        # the store and the fan-out are wrapped here, so that without a tracer they cost nothing more
        vars(broker)["publish"] = self._publishing(broker.publish)
        vars(self.fanout.ephemeral)["publish"] = partial(self._publish_ephemeral_one, self.fanout.ephemeral.publish)
        vars(self.fanout)["begin"] = partial(self._begin_push, self.fanout.begin)
        vars(self.fanout.ephemeral)["add"] = partial(self._add_ephemeral, self.fanout.ephemeral.add)
        if broker.within is not None:
            vars(broker)["within"] = partial(self._within, broker.within)

    async def start(self) -> None:
        self._tracing.bind(asyncio.get_running_loop(), self.limits.traces_per_second, self._choose_meter)
        if not any(isinstance(one, LogIds) for one in _logger.filters):
            _logger.addFilter(LogIds())
        await super().start()

    def _choose_meter(self) -> None:
        """Stop asking for spans of commands while none may begin; a traced node then works like any other."""
        if isinstance(self.meter, TracedMeter):
            self._traced_meter = self.meter
        self.meter = self._traced_meter if self._tracing.may_begin else self._traced_meter.meter

    # Publishing.

    def _begin(self, channel: str, data: bytes) -> Span | None:
        if channel[:1] == "$" and is_internal(channel) and not is_personal(channel):
            return None
        return self._tracing.publish(self.options.tallies[channel].pattern, len(data))

    def _publishing(
        self, publish: Callable[[PublishRequest], Awaitable[Position]]
    ) -> Callable[..., Awaitable[Position]]:
        """Return a function that publishes; cheap, because most publishes of a busy process are in no trace."""
        tracing, current = self._tracing, current_context()

        def traced(request: PublishRequest) -> Awaitable[Position]:
            return self._publish(publish, request) if tracing.may_begin or current() else publish(request)

        return traced

    def _publish(
        self, publish: Callable[[PublishRequest], Awaitable[Position]], request: PublishRequest
    ) -> Awaitable[Position]:
        span = self._begin(request.channel, request.data)
        if span is None:
            return publish(request)
        request = msgspec.structs.replace(request, meta=with_trace(request.meta, text_of(span)))
        token = attach(set_span_in_context(span))
        try:
            work = publish(request)
        except BaseException as error:
            fail(span, error)
            span.end()
            raise
        finally:
            detach(token)
        return _published(span, work)

    def _publish_ephemeral_one(
        self, publish: Callable[[EphemeralPublication], None], publication: EphemeralPublication
    ) -> None:
        """Publish an ephemeral publication; one of the largest size is delivered without its span."""
        may_trace = self._tracing.may_begin or get_current()
        span = self._begin(publication.channel, publication.data) if may_trace else None
        if span is None:
            publish(publication)
            return
        meta = with_trace(publication.meta, text_of(span))
        if len(publication.data) + len(meta) <= self.limits.ephemeral_bytes:
            publication = msgspec.structs.replace(publication, meta=meta)
        publish(publication)
        span.end()

    async def _within(
        self,
        within: Callable[[object, PublishRequest], Awaitable[None]],
        connection: object,
        request: PublishRequest,
    ) -> None:
        """Publish in the application's transaction: the span ends before its commit."""
        span = self._begin(request.channel, request.data)
        if span is not None:
            request = msgspec.structs.replace(request, meta=with_trace(request.meta, text_of(span)))
        try:
            await within(connection, request)
        except BaseException as error:
            if span is not None:
                fail(span, error)
            raise
        finally:
            if span is not None:
                span.end()

    # Fan-out.

    def _begin_push(self, begin: Callable[[Channel], ChannelPush], channel: Channel) -> ChannelPush:
        push = begin(channel)
        seen = b""
        for publication in push.publications:
            meta = publication.meta
            if meta is not seen:  # the publications of one publisher mostly have the same bytes
                seen = meta
                if b'"trace"' in meta:
                    self._deliver(channel, publication)
        return push

    def _add_ephemeral(self, add: Callable[[EphemeralPublication], None], publication: EphemeralPublication) -> None:
        add(publication)
        if b'"trace"' in publication.meta and (channel := self.registry.channels.get(publication.channel)) is not None:
            self._deliver(channel, publication)

    def _deliver(self, channel: Channel, publication: Publication) -> None:
        publisher = trace_of(publication)
        if not publisher or not len(channel):
            return
        span = self._tracing.deliver(channel.tally.pattern, publisher, len(channel))
        if span is not None:
            if not self._delivering:
                asyncio.get_running_loop().call_soon(self._delivered)
            self._delivering.append((channel, span))

    def _delivered(self) -> None:
        """End the spans whose fan-out is done; look again later at channels whose fan-out takes more turns."""
        delivering, self._delivering = self._delivering, []
        for channel, span in delivering:
            if channel.is_dirty or channel.ephemeral:
                self._delivering.append((channel, span))
            else:
                span.end()
        if self._delivering:
            asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._delivered)


async def _published(span: Span, work: Awaitable[Position]) -> Position:
    token = attach(set_span_in_context(span))
    try:
        position = await work
    except BaseException as error:
        fail(span, error)
        raise
    else:
        if position.offset:
            span.set_attribute("messaging.message.id", str(position))
        return position
    finally:
        span.end()
        detach(token)
