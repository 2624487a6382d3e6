"""Spans by OpenTelemetry's API, whose SDK the application chooses: their beginnings and their attributes.

Names and attributes are those of the semantic conventions of messaging and RPC
(https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/, …/rpc/rpc-spans/); a channel is named by the
pattern of its rule, and no attribute holds the content of a message or words of a client.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context

from opentelemetry.context import Context, attach, create_key, detach, get_current, get_value, set_value
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    NoOpTracerProvider,
    ProxyTracerProvider,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TracerProvider,
    get_current_span,
    get_tracer_provider,
    set_span_in_context,
    use_span,
)
from starlette.exceptions import HTTPException, WebSocketException

from tidewire.errors import CommandError
from tidewire.support.counters import count_limit

__all__ = ("ThreadTracing", "Tracing", "current_context", "fail", "text_of", "tracing_by")

_SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
#: The key of the span that lasts as long as a connection: the traces of its publishes begin below none.
_CONNECTION = create_key("tidewire.connection")
#: Errors that are answered and are no faults, as HTTP statuses below 500.
_MISTAKES = (CommandError, HTTPException, WebSocketException)


def current_context() -> Callable[[], Context]:
    """Return a function that returns the current context: a variable's, without the API's calls around it.

    The API does not name the variable: it is the one with the attached context. For a kind of context that is not held
    by a variable, it is the API's own function.
    """
    token = attach(mark := Context())
    found = [variable.get for variable, value in copy_context().items() if value is mark]
    detach(token)
    return found[0] if found else get_current


def tracing_by(provider: TracerProvider | None) -> Tracing | None:
    """Return a maker of spans by a provider, or by the process's own; None if that makes none."""
    provider = provider or get_tracer_provider()
    return None if isinstance(provider, ProxyTracerProvider | NoOpTracerProvider) else Tracing(provider)


class Tracing:
    """Makes the spans of one node.

    Work in a trace that is sampled always has a span, and work in one that is not sampled has none. Work outside of
    traces begins one, up to so many times a second, of which the SDK samples some.
    """

    __slots__ = ("_begun", "_changed", "_loop", "_most", "_tracer", "may_begin")

    def __init__(self, provider: TracerProvider) -> None:
        version = importlib.metadata.version("tidewire")
        self._tracer = provider.get_tracer("tidewire", version, schema_url=_SCHEMA)
        self._most = self._begun = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: Callable[[], None] = _nothing
        #: Whether a trace may begin here in this second.
        self.may_begin = True

    def bind(self, loop: asyncio.AbstractEventLoop, most: int, changed: Callable[[], None]) -> None:
        """Begin up to `most` traces a second, and call a function when `may_begin` has changed."""
        self._loop, self._most, self._changed = loop, most, changed

    def _begins(self) -> bool:
        """Count a trace that begins here, if it may."""
        if not self.may_begin:
            return False
        if not self._begun and self._loop is not None:
            self._loop.call_later(1.0, self._begin_again)
        self._begun += 1
        if self._begun >= self._most:
            self.may_begin = False
            count_limit("traces_per_second")
            self._changed()
        return True

    def _begin_again(self) -> None:
        self._begun, self.may_begin = 0, True
        self._changed()

    # Publications.

    def publish(self, pattern: str, size: int) -> Span | None:
        """Begin the span of a publish: below the current span, unless that is the long one of a connection."""
        current = get_current_span()
        context: Context | None = None
        links: Sequence[Link] = ()
        if current is INVALID_SPAN or get_value(_CONNECTION) is current:
            if not self._begins():
                return None
            context, links = Context(), _linked(current)
        elif not current.get_span_context().trace_flags.sampled:
            return None
        attributes = {**_operation("publish", "send", pattern), "messaging.message.body.size": size}
        return _started(self._tracer.start_span(f"publish {pattern}", context, SpanKind.PRODUCER, attributes, links))

    def deliver(self, pattern: str, publisher: str, subscribers: int) -> Span | None:
        """Begin the span of a publication's fan-out on this node; `publisher` is the span of its publish as text."""
        remote = _remote(publisher)
        if remote is None:
            return None
        return _started(
            self._tracer.start_span(
                f"deliver {pattern}",
                set_span_in_context(remote[0]),
                SpanKind.CONSUMER,
                {**_operation("deliver", "process", pattern), "tidewire.subscribers": subscribers},
                [Link(remote[1])],
            )
        )

    # Clients.

    def handshake(self, kind: str) -> Span | None:
        """Begin the span of a handshake, below that which FastAPI makes of the connection."""
        current = get_current_span()
        if current is INVALID_SPAN:
            if not self._begins():
                return None
        else:
            attach(set_value(_CONNECTION, current))
            if not current.get_span_context().trace_flags.sampled:
                return None
        return _started(self._tracer.start_span("handshake", attributes={"tidewire.transport": kind}))

    def command(self, name: str, connection: str) -> Span | None:
        """Begin the trace of a command; it links to the trace of its connection, which may be hours old."""
        if not self._begins():
            return None
        attributes = {"rpc.system.name": "tidewire", "rpc.method": name, "tidewire.connection.id": connection}
        links = _linked(get_current_span())
        return _started(self._tracer.start_span(f"command {name}", Context(), SpanKind.SERVER, attributes, links))


class ThreadTracing(Tracing):
    """Makes the spans of publishes in the threads of a process that has no event loop."""

    __slots__ = ("_lock", "_second")

    def __init__(self, provider: TracerProvider, most: int) -> None:
        super().__init__(provider)
        self._most = most
        self._lock = threading.Lock()
        self._second = 0.0

    @classmethod
    def by(cls, provider: TracerProvider | None, most: int) -> ThreadTracing | None:
        """Return a maker of spans by a provider, or by the process's own; None if that makes none."""
        provider = provider or get_tracer_provider()
        return None if isinstance(provider, ProxyTracerProvider | NoOpTracerProvider) else cls(provider, most)

    def _begins(self) -> bool:
        with self._lock:
            now = time.monotonic()
            if now - self._second >= 1.0:
                self._second, self._begun = now, 0
            self._begun += 1
            return self._begun <= self._most

    @contextmanager
    def publishing(self, pattern: str, size: int) -> Iterator[Span | None]:
        """Make the span of a publish current until it has ended; None if there is none."""
        span = self.publish(pattern, size)
        if span is None:
            yield None
            return
        with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                yield span
            except BaseException as error:
                fail(span, error)
                raise


def _nothing() -> None:
    """Do nothing."""


def _started(span: Span) -> Span | None:
    return span if span.is_recording() else None


def _linked(span: Span) -> Sequence[Link]:
    context = span.get_span_context()
    return (Link(context),) if context.is_valid else ()


def _operation(name: str, type: str, pattern: str) -> dict[str, str | int]:
    return {
        "messaging.system": "tidewire",
        "messaging.operation.name": name,
        "messaging.operation.type": type,
        "messaging.destination.template": pattern,
    }


def fail(span: Span, error: BaseException) -> None:
    """Name an error only by its type, because its text may quote a client; a client's mistake is no fault."""
    span.set_attribute("error.type", type(error).__qualname__)
    if not isinstance(error, _MISTAKES) or getattr(error, "status_code", 0) >= 500:
        span.set_status(StatusCode.ERROR)


def text_of(span: Span) -> str:
    """Return a span as it travels with a publication (https://www.w3.org/TR/trace-context/#traceparent-header)."""
    found = span.get_span_context()
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"


def _remote(text: str) -> tuple[Span, SpanContext] | None:
    """Return the span in a text; None for another text, or if it is not sampled."""
    try:
        _, trace, span, flags = text.split("-")
        context = SpanContext(int(trace, 16), int(span, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
    except ValueError:
        return None
    return (NonRecordingSpan(context), context) if context.is_valid and context.trace_flags.sampled else None
