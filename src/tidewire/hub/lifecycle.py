"""The lifecycle of a hub: its configuration while it is closed, its lifespan, and the engine while it is open."""

from __future__ import annotations

import asyncio
import importlib.metadata
import sys
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from tidewire.asyncapi.description import Description
from tidewire.backends import is_local, open_backend, shared_name
from tidewire.backends.base import Broker, Presence
from tidewire.channel_options import ChannelOptions
from tidewire.engine.node import Node
from tidewire.errors import ConfigurationError
from tidewire.events.hub_events import HubEvents
from tidewire.http_api.nodes import Nodes
from tidewire.hub.hosting import HOST, Opened
from tidewire.hub.http_answers import answer_errors
from tidewire.hub.limit_precedence import SERVER_LIMITS, read_limits
from tidewire.limits import Limits
from tidewire.links.server_pings import warn_of_frozen_clients
from tidewire.observe.faults import Faults
from tidewire.observe.hanging_store import Hang, hanging
from tidewire.observe.metered_stores import metered
from tidewire.observe.node_report import Source
from tidewire.observe.shown_runs import ShownRuns
from tidewire.protocols.meta import is_history
from tidewire.rules.base import Authority
from tidewire.rules.book import RuleBook
from tidewire.rules.options_by_name import OptionsByName
from tidewire.rules.rule_authority import RuleAuthority
from tidewire.sessions.centrifuge.directory import Sessions
from tidewire.sessions.centrifuge.polls import Polls
from tidewire.sessions.hub_orders import obey_orders
from tidewire.sessions.limit_reports import LimitReports
from tidewire.sessions.maps import Maps
from tidewire.sessions.origins import Origins
from tidewire.sessions.revocations import Revocations
from tidewire.sessions.sql_publications import look_after_sql_publications
from tidewire.sessions.text_streams import TextStreams
from tidewire.sessions.threads import ThreadCalls, check_loop, running_loop
from tidewire.support.key_counts import Counts
from tidewire.support.lifespan import Lifespan
from tidewire.support.meter import Meter
from tidewire.support.shown_value import shown
from tidewire.support.siblings import Siblings, open_counts

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

__all__ = ("HubLifecycle",)


class _Open(NamedTuple):
    """The parts of a hub while it is open."""

    node: Node
    nodes: Nodes
    loop: asyncio.AbstractEventLoop
    threads: ThreadCalls
    revocations: Revocations
    streams: TextStreams


class HubLifecycle:
    """The configuration of a hub, and its engine while it is open."""

    def __init__(
        self,
        url: str = "memory://",
        *,
        limits: Limits | Mapping[str, float] | None = None,
        channels: Mapping[str, ChannelOptions] | OptionsByName | None = None,
        default: ChannelOptions | None = None,
        origins: Iterable[str] | Origins | None = (),
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        self.url = url
        self.limits = SERVER_LIMITS.of_hub(read_limits(limits))
        if not isinstance(origins, Iterable | Origins | None):
            raise ConfigurationError(f"origins={origins!r} are none; write origins=['https://chat.example.org']")
        if not isinstance(channels, Mapping | OptionsByName | None):
            raise ConfigurationError(
                f"channels={shown(channels)} are no options; write {{'room:*': ChannelOptions(…)}}"
            )
        self.origins = origins if isinstance(origins, Origins) else Origins(origins or ())
        self._options = channels if isinstance(channels, OptionsByName) else OptionsByName(channels, default)
        self._book = RuleBook(self._options)
        #: Decides for clients that choose their channels themselves, by the rules of `channel` and `rpc`.
        self.authority = RuleAuthority(self._book, self._options, self.limits)
        #: The dependencies that identify clients, and the description of channels that replaces the rules.
        self._users: list[Callable[..., Any]] = []
        self._described: Description | None = None
        self._made_rates = 0
        #: Handlers and webhooks for events of channels.
        self._events = HubEvents(self._options, self._book.overrides)
        #: Decides for clients, where an application gave a router another authority.
        self._judge: Authority = self.authority
        #: Measures durations, once a router of metrics asks for it.
        self._meter: Meter | None = None
        self.tracer_provider = tracer_provider
        #: Makes the store hang, once a playground asks for that.
        self._hang: Hang | None = None
        self._open: Opened | None = None
        self._was_open = False
        open_backend(url, self.limits)  # a bad URL fails where it is written, not at the first request

    def lifespan(self, app: object = None) -> Lifespan:
        """Open the hub for as long as the application runs, and let its routes answer the errors of verbs."""
        self._see(app)
        return Lifespan(self, self._see)

    def _see(self, app: object) -> None:
        self._book.overrides.see(app)
        answer_errors(app)

    async def __aenter__(self) -> Self:
        host = HOST.get()
        if running_loop() is None:
            raise ConfigurationError(
                "a hub needs the event loop of asyncio, and another library runs here, perhaps trio: start hypercorn "
                "without `--worker-class trio`, and tests with anyio's backend asyncio"
            )
        if self._open is not None and host is None:
            raise ConfigurationError("this hub is open already; enter it once, in the application's lifespan")
        self._book.complete()
        broker, presence = (open_backend if host is None else host.open_store)(self.url, self.limits)
        if self._hang is not None:
            broker, presence = hanging(broker, presence, self._hang)
        if self._meter is not None:
            broker, presence = metered(broker, presence, self._meter)
        workers = Siblings.of(asyncio.get_running_loop()).workers
        if workers > 1 and not broker.shared:
            raise ConfigurationError(
                f"{workers} workers cannot share {self.url!r}: each would have its own channels; "
                "write sqlite:///chat.db, or --workers 1"
            )
        counts = open_counts(shared_name(self.url)) if broker.shared and host is None else Counts()
        node = self._node(broker, presence, counts)
        try:
            await self._start(node)
        except BaseException:
            counts.aclose()
            raise
        return self

    def _node(self, broker: Broker, presence: Presence, counts: Counts) -> Node:
        """Make the engine: one that is traced where the application has a tracer."""
        limits, options = self.limits, self._options
        if self.tracer_provider is not None or "opentelemetry.trace" in sys.modules:  # else nobody has set one
            from tidewire.observe.traced_node import TracedMeter, TracedNode
            from tidewire.observe.tracing import tracing_by

            tracing = tracing_by(self.tracer_provider)
            if tracing is not None:
                node: Node = TracedNode(
                    tracing, broker, presence, limits=limits, options=options, is_shown=is_history, counts=counts
                )
                node.meter = TracedMeter(tracing, self._meter)
                return node
        node = Node(broker, presence, limits=limits, options=options, is_shown=is_history, counts=counts)
        node.meter = self._meter
        return node

    async def _start(self, node: Node) -> None:
        await node.start()
        nodes = Nodes(node, version=importlib.metadata.version("tidewire"), meter=self._meter, judge=self._judge)
        obey_orders(node)
        if self._hang is not None:
            Faults(node, self._hang).start()
        look_after_sql_publications(node)
        revocations = Revocations(node)
        try:
            await revocations.start()
            await nodes.start()
        except BaseException:
            await node.aclose()
            raise
        await self._events.start(node)
        Sessions.of(node)  # it obeys calls of the HTTP API on any node, for connections of any protocol
        if not is_local(self.url):
            LimitReports(node).start()
        loop = asyncio.get_running_loop()
        if node.broker.shared:
            Siblings.of(loop).counts = node.registry.counts
        self._was_open = True
        host, opened = HOST.get(), _Open(node, nodes, loop, ThreadCalls(loop), revocations, TextStreams(node))
        self._open = opened if host is None else host.opened(self, opened)
        if host is None:
            warn_of_frozen_clients(self.limits)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        host = HOST.get()
        opened, self._open = (self._open, None) if host is None else host.closing(self)
        if opened is not None:
            await opened.streams.aclose()
            await Maps.close(opened.node)
            await Polls.close(opened.node)
            await opened.nodes.aclose()
            await opened.node.aclose()
            opened.node.registry.counts.aclose()

    def report(self, source: Source) -> None:
        """Show the figures of a layer above this hub with its own, until it closes."""
        self._opened.nodes.reports.add_source(source)

    def show_runs(self, runs: ShownRuns) -> None:
        """Show the long jobs of a layer above this hub on its admin page, until it closes."""
        self._opened.nodes.runs = runs

    @property
    def node(self) -> Node:
        """The engine; raises ConfigurationError while the hub is closed, and on another event loop than the hub's."""
        opened = self._opened
        check_loop(opened.loop, reads=True)
        return opened.node

    @property
    def revocations(self) -> Revocations:
        """The tokens that were ended before they expire; raises ConfigurationError while the hub is closed."""
        opened = self._opened
        check_loop(opened.loop, reads=True)
        return opened.revocations

    @property
    def _opened(self) -> Opened:
        if self._open is None and self._was_open:
            raise ConfigurationError(
                "this hub is open no more: the lifespan that opened it has ended; the log says why"
            )
        if self._open is None:
            raise ConfigurationError(
                "this hub is not open; write FastAPI(lifespan=hub.lifespan), or `async with hub:` in your own lifespan "
                "(that of a mounted sub-application is never run: open the hub in the application that mounts it; "
                "daphne runs none at all)"
            )
        return self._open
