"""Publish from a process without an event loop: a Celery worker, a script, a thread pool."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any
from typing import Protocol as TypingProtocol

from tidewire.backends import open_backend
from tidewire.backends.base import Broker
from tidewire.channels import open_channel, personal
from tidewire.errors import (
    BadRequest,
    ConfigurationError,
    LimitExceeded,
    NotPublished,
    PublishUnconfirmed,
    StoreUnavailable,
)
from tidewire.limits import Limits
from tidewire.messages import EphemeralPublication, Format, Position, PublishRequest
from tidewire.protocols.message_shape import checked_payload
from tidewire.protocols.meta import with_trace
from tidewire.protocols.payload import encode_payload
from tidewire.rules.options_by_name import OptionsByName
from tidewire.rules.rule_authority import RuleAuthority
from tidewire.support.shown_value import kind_of

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider

    from tidewire.observe.tracing import ThreadTracing

__all__ = ("Publisher",)

#: Seconds beyond the store's own time limit after which an answer is no longer waited for.
_PATIENCE = 5.0


class Configured(TypingProtocol):
    """The part of a hub that a publisher reads."""

    url: str
    limits: Limits
    authority: RuleAuthority
    tracer_provider: TracerProvider | None


class Publisher:
    """Publishes synchronously, from any thread; used with `with`, or closed by `close`.

    The store is opened at the first publish, by one background thread, so that a publisher may be made before a worker
    process forks. Inside an event loop use `Hub.publish`: every call here blocks its thread. With a hub instead of a
    URL (it need not be open) messages are checked by the types that its rules declare. With a `tracer_provider`, or one
    that the process has set, publishes have spans, as those of a hub do. Raises ConfigurationError for a store that no
    other process can open.
    """

    def __init__(
        self, url: str | Configured, *, limits: Limits | None = None, tracer_provider: TracerProvider | None = None
    ) -> None:
        hub = None if isinstance(url, str) else url
        if not isinstance(url, str) and not hasattr(url, "url"):
            raise ConfigurationError(
                f"a publisher's store is {kind_of(url)}; write its store, as sqlite:///chat.db, or a hub"
            )
        self._url = url if isinstance(url, str) else url.url
        self._limits = limits or (Limits() if hub is None else hub.limits)
        self._authority = None if hub is None else hub.authority
        self._options = OptionsByName() if hub is None else hub.authority.options_by_name
        self._tracer_provider = tracer_provider or (None if hub is None else hub.tracer_provider)
        self._tracing: ThreadTracing | None = None
        broker, _ = open_backend(self._url, self._limits)
        if not broker.shared:
            raise ConfigurationError(
                "memory:// lives inside one process, and a publisher is another one; "
                "give the application and the publisher the same sqlite:///chat.db"
            )
        self._lock = threading.Lock()
        self._background: _Background | None = None
        self._is_closed = False

    def __enter__(self) -> Publisher:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def publish(self, channel: str, data: Any, *, key: str = "", ephemeral: bool = False) -> Position:
        """Publish str as text, bytes as binary, anything else as JSON; returns when the broker keeps it.

        The same `key` in the same channel within five minutes is published once. Raises NotPublished (surely not kept)
        or PublishUnconfirmed (unknown; repeat it with the same key), CommandError for a message that cannot be
        published, ConfigurationError for a store that cannot be used. An `ephemeral` publication is not kept: it goes
        to the subscribers that are there, and has offset 0.
        """
        name = open_channel(channel, self._limits.channel_name)
        shape = None if self._authority is None else self._authority.shape(name)
        payload = checked_payload(shape, data)
        return self._relay(name, *payload, key) if ephemeral else self._publish(name, *payload, key)

    def send_to_user(self, user: str, data: Any, *, key: str = "") -> Position:
        """Push to every connection of a user; kept in the user's own channel. Raises as `publish`."""
        return self._publish(personal(user), *encode_payload(data), key)

    def close(self) -> None:
        """Finish the accepted publishes, and release the store; harmless when repeated."""
        with self._lock:
            self._is_closed = True
            background, self._background = self._background, None
        if background is not None and background.process == os.getpid():
            background.close()

    def _publish(self, channel: str, data: bytes, format_: Format, key: str) -> Position:
        with self._traced(channel, data) as span:
            request = PublishRequest(channel, data, format_, key=key, meta=_meta(span))
            with self._lock:
                answer = self._open().submit(request)
            try:
                position = answer.result(self._limits.publish_seconds + _PATIENCE)
            except (TimeoutError, CancelledError):
                raise PublishUnconfirmed(
                    "the store did not answer in time; publish it again with the same key"
                ) from None
            if span is not None:
                span.set_attribute("messaging.message.id", str(position))
            return position

    def _traced(self, channel: str, data: bytes) -> AbstractContextManager[Span | None]:
        """Return the span of a publish, below that which is current in this thread; None where nothing is traced."""
        if self._tracing is None:
            if self._tracer_provider is None and "opentelemetry.trace" not in sys.modules:  # then nobody has set one
                return nullcontext()
            from tidewire.observe.tracing import ThreadTracing

            self._tracing = ThreadTracing.by(self._tracer_provider, self._limits.traces_per_second)
            if self._tracing is None:
                return nullcontext()
        return self._tracing.publishing(self._options.pattern(channel), len(data))

    def _relay(self, channel: str, data: bytes, format_: Format, key: str) -> Position:
        if key:
            raise BadRequest(f"key={key!r} needs a publication that is kept; leave it out, or leave ephemeral out")
        if len(data) > self._limits.ephemeral_bytes:
            raise LimitExceeded(f"{len(data)} bytes are more than ephemeral_bytes ({self._limits.ephemeral_bytes})")
        with self._traced(channel, data) as span:
            meta = _meta(span)
            if len(data) + len(meta) > self._limits.ephemeral_bytes:
                meta = b""  # where it is as large as it may be, its deliveries are not told its span
            publication = EphemeralPublication(channel, 0, 0, "", time.time(), data, format_, meta)
            with self._lock:
                self._open().relay(publication)
        return Position(0, "")

    def _open(self) -> _Background:
        if self._is_closed:
            raise NotPublished("this publisher is closed; publish before `close`, or make another one")
        if self._background is None:
            broker, _ = open_backend(self._url, self._limits)
            self._background = _Background(broker)
            try:
                self._background.start()
            except BaseException:
                self._background = None
                raise
        if self._background.process != os.getpid():
            raise ConfigurationError(
                "this publisher was opened before this process was forked, and a store must not be used across a fork; "
                "publish first in the child, or start children with `spawn`"
            )
        return self._background


def _meta(span: Span | None) -> bytes:
    if span is None:
        return b""
    from tidewire.observe.tracing import text_of

    return with_trace(b"", text_of(span))


class _Background:
    """A thread with an event loop and an open broker."""

    def __init__(self, broker: Broker) -> None:
        self.process = os.getpid()
        self._broker = broker
        self._started: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="tidewire-publisher", daemon=True)

    def start(self) -> None:
        self._thread.start()
        try:
            self._loop = self._started.result()
        except StoreUnavailable as error:
            raise NotPublished(str(error)) from error

    async def _run(self) -> None:
        self._stop = asyncio.Event()
        try:
            await self._broker.start(lambda publications: None)
        except BaseException as error:
            self._started.set_exception(error)
            return
        self._started.set_result(asyncio.get_running_loop())
        await self._stop.wait()
        await self._broker.aclose()

    def submit(self, request: PublishRequest) -> Future[Position]:
        return asyncio.run_coroutine_threadsafe(self._publish(request), self._loop)

    def relay(self, publication: EphemeralPublication) -> None:
        self._loop.call_soon_threadsafe(self._broker.relay, (publication,))

    async def _publish(self, request: PublishRequest) -> Position:
        return await self._broker.publish(request)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
