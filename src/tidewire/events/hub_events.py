"""The events that a hub wants: its handlers and webhooks, watched on every node and consumed on one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from tidewire.channel_options import ChannelOptions
from tidewire.channels import HAPPENED, watched
from tidewire.engine.node import Node
from tidewire.errors import ConfigurationError, StoreUnavailable
from tidewire.events.event_handlers import DeadEvent, EventHandler, HandlerCalls, dead_events, repeat
from tidewire.events.event_kinds import Interest
from tidewire.events.event_stream import Leadership
from tidewire.events.watcher import Watcher
from tidewire.events.webhook import Webhook, WebhookDelivery
from tidewire.messages import Publication
from tidewire.rules.dependency_overrides import Overrides
from tidewire.rules.options_by_name import OptionsByName

__all__ = ("HubEvents",)

logger = logging.getLogger("tidewire")

#: Events are kept for a day and more, for a receiver that is away that long; so are the places of their readers.
_KEPT = ChannelOptions(history_size=1_000_000, history_seconds=2 * 86_400.0)
_PLACES = ChannelOptions(history_size=1_000, history_seconds=30 * 86_400.0)
_LOOK_SECONDS, _RETRY_SECONDS = 1.0, 1.0


def _event_options(channel: str) -> ChannelOptions | None:
    if channel == HAPPENED:
        return _KEPT
    return _PLACES if channel.startswith(watched("")) else None


class HubEvents:
    """The handlers and webhooks of one hub. Without any, nothing is watched."""

    def __init__(self, options: OptionsByName, overrides: Overrides) -> None:
        self._options = options
        self._overrides = overrides
        self._handlers: list[EventHandler] = []
        self._webhooks: list[Webhook] = []
        self._has_started = False

    def add(self, kind: str, pattern: str, function: Callable[..., Any]) -> None:
        """Call a function for events; raises ConfigurationError."""
        self._check_not_started()
        made = EventHandler(Interest(kind, pattern), function, self._overrides)
        alike = sum(
            made.function_name == one.function_name and made.interest.text == one.interest.text
            for one in self._handlers
        )
        if alike:
            made.name += f" {alike + 1}"
        self._handlers.append(made)
        self._keep()

    def add_webhook(self, url: str, secret: str, events: Any, *, allow_private: bool) -> None:
        """Send events to a URL: "joined", or "joined room:{room}"; raises ConfigurationError."""
        self._check_not_started()
        if not isinstance(events, Iterable) or isinstance(events, str) or not events:
            raise ConfigurationError('events= is a list of the events to send: ["connected", "joined room:{room}"]')
        pairs = [str(text).partition(" ") for text in events]
        interests = [Interest(kind, pattern.strip()) for kind, _, pattern in pairs]
        made = Webhook(url, secret, interests, allow_private=allow_private)
        if any(made.name == webhook.name for webhook in self._webhooks):
            raise ConfigurationError(f"webhook {made.shown} is there already; name all its events in one call")
        self._webhooks.append(made)
        self._keep()

    def _check_not_started(self) -> None:
        if self._has_started:
            raise ConfigurationError("this hub is open already, and watches events since then; register it before")

    def _keep(self) -> None:
        if len(self._handlers) + len(self._webhooks) == 1:
            self._options.prefer(_event_options, lambda name: name)

    def _wants(self, begin: str, channel: str) -> bool:
        interests = [handler.interest for handler in self._handlers]
        interests += [interest for webhook in self._webhooks for interest in webhook.interests]
        return any(interest.begins(begin, channel) for interest in interests)

    async def start(self, node: Node) -> None:
        """Watch a node, and consume events as long as it is the chosen one; both end with the node."""
        self._has_started = True
        if not self._handlers and not self._webhooks:
            return
        watcher = Watcher(node, self._wants, node.limits.grace_seconds)
        node.subscriptions.watch_by(watcher)
        wakers: list[asyncio.Event] = []

        def wake(publication: Publication) -> None:
            for woken in wakers:
                woken.set()

        await node.channels.listen(HAPPENED, wake)
        node.tasks.keep(self._lead(node, watcher, wakers))

    async def _lead(self, node: Node, watcher: Watcher, wakers: list[asyncio.Event]) -> None:
        leadership = Leadership(node)
        running: list[asyncio.Task[None]] = []
        try:
            while True:
                watcher.look()
                try:
                    is_here = await leadership.is_here()
                except StoreUnavailable:
                    is_here = bool(running)
                if is_here and not running:
                    running = [asyncio.ensure_future(work) for work in self._consumers(node, wakers)]
                elif not is_here and running:
                    await _end(running)
                    running = []
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            await _end(running)
            await leadership.resign()

    def _consumers(self, node: Node, wakers: list[asyncio.Event]) -> list[Coroutine[Any, Any, None]]:
        wakers.clear()
        made: list[Coroutine[Any, Any, None]] = []
        if self._handlers:
            wakers.append(asyncio.Event())
            made.append(_again(HandlerCalls, node, self._handlers, wakers[-1]))
        for webhook in self._webhooks:
            wakers.append(asyncio.Event())
            made.append(_again(WebhookDelivery, node, webhook, wakers[-1]))
        return made

    async def dead(self, node: Node) -> list[DeadEvent]:
        """Return the events that handlers refused; raises StoreUnavailable."""
        return await dead_events(node)

    async def repeat(self, node: Node, id_: str) -> None:
        """Call each handler that has refused an event again; raises as `event_handlers.repeat`."""
        await repeat(node, self._handlers, id_)


async def _again(consumer: Any, node: Node, wanted: Any, woken: asyncio.Event) -> None:
    """Consume, and begin again after an outage or a fault."""
    while True:
        try:
            await consumer(node, wanted, woken).run()
        except* StoreUnavailable as errors:
            logger.info("events wait for the store: %s", errors.exceptions[0])
        except* Exception:
            logger.exception("handling events failed, and begins again")
        await asyncio.sleep(_RETRY_SECONDS)


async def _end(running: list[asyncio.Task[None]]) -> None:
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
