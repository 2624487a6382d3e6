"""The report of one node: its figures, as values that travel to the node that was asked."""

from __future__ import annotations

import os
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from tidewire.channels import CONTROL, LIVE, NODES, REVOKED, is_internal
from tidewire.engine.node import Node
from tidewire.links.asgi import AsgiLink
from tidewire.links.base import Link
from tidewire.links.stream import StreamLink
from tidewire.support.meter import Meter
from tidewire.support.refusals import Refusals
from tidewire.support.resident_memory import ResidentMemory

__all__ = ("NodeReport", "Sample", "Source", "Timing", "kind_of_link", "name_of_protocol", "report_of")

#: The channels of the nodes themselves, whose publications are not the application's.
_OF_NODES = frozenset({CONTROL, LIVE, NODES, REVOKED})
#: Close codes of applications and of clients that are shown; others count as "other".
_OWN_CODES = frozenset({*range(3_000, 3_020), *range(3_500, 3_520), 4_000, 4_001})


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One figure: the name of its metric (metrics.METRICS), the values of its labels in their order, and its value."""

    metric: str
    labels: tuple[str, ...]
    value: float


class Timing(msgspec.Struct, frozen=True, array_like=True):
    """Durations of one kind: their number in each class of `meter.BOUNDS`, and their sum in seconds."""

    metric: str
    labels: tuple[str, ...]
    counts: list[int]
    seconds: float


class NodeReport(msgspec.Struct, frozen=True):
    """The figures of one node."""

    node: str
    host: str
    process: int
    version: str
    uptime: float
    #: The store is away.
    degraded: bool
    samples: list[Sample]
    timings: list[Timing]

    def sum_of(self, metric: str, *labels: str) -> float:
        """Return the sum of a metric's samples whose first labels are these."""
        found = (one for one in self.samples if one.metric == metric and one.labels[: len(labels)] == labels)
        return sum(one.value for one in found)


#: Figures of a layer above, by metric and labels.
Source = Callable[[], Mapping[tuple[str, ...], float]]


def report_of(
    node: Node, meter: Meter | None, refusals: Refusals, sources: Iterable[Source], *, version: str, started: float
) -> NodeReport:
    """Return the figures of this process."""
    samples = [*_connections(node), *_channels(node), *_counters(node)]
    samples += [Sample("refusals", (kind,), count) for kind, count in refusals.counts.items()]
    samples.append(Sample("resident_bytes", (), ResidentMemory().read()))
    for source in sources:
        samples += [Sample(key[0], key[1:], value) for key, value in source().items()]
    durations = meter.durations if meter is not None else {}
    return NodeReport(
        node.id,
        socket.gethostname(),
        os.getpid(),
        version,
        time.monotonic() - started,
        node.tasks.degraded,
        samples,
        [Timing(key[0], key[1:], found.counts, found.seconds) for key, found in durations.items()],
    )


def _connections(node: Node) -> Iterator[Sample]:
    found: Counter[tuple[type[Link], type, str]] = Counter()
    unsent = 0
    for connection in node.registry.connections.values():
        link = connection.link
        state = "ending" if connection.is_closed else "slow" if link.paused else "open"
        if link.paused:
            unsent += link.backlog()[0]
        found[type(link), type(connection.protocol), state] += 1
    for (link_type, protocol, state), count in found.items():
        yield Sample("connections", (kind_of_link(link_type), name_of_protocol(protocol), state), count)
    yield Sample("unsent_bytes", (), unsent)
    yield Sample("users", (), len(node.registry.users))
    yield Sample("connections_opened", (), node.opened)
    ended: Counter[str] = Counter()
    for code, count in node.ended.items():
        ended[str(code) if code < 3_000 or code in _OWN_CODES else "other"] += count
    yield from (Sample("connections_ended", (code,), count) for code, count in ended.items())


def _channels(node: Node) -> Iterator[Sample]:
    used = subscriptions = catching_up = waiting = 0
    for name, channel in node.registry.channels.items():
        if channel.catching_up:
            catching_up += 1
            waiting += len(channel.waiting)
        if name not in _OF_NODES and not is_internal(name):
            count = len(channel)
            used += count > 0
            subscriptions += count
    yield Sample("channels", (), used)
    yield Sample("subscriptions", (), subscriptions)
    yield Sample("catching_up_channels", (), catching_up)
    yield Sample("catching_up_publications", (), waiting)
    for tally in tuple(node.options.tallies.by_pattern.values()):
        if tally.pattern.partition(":")[0] not in _OF_NODES:
            yield Sample("publications", (tally.pattern,), tally.published)
            yield Sample("deliveries", (tally.pattern,), tally.deliveries)
            yield Sample("delivered_bytes", (tally.pattern,), tally.bytes)


def _counters(node: Node) -> Iterator[Sample]:
    figures = node.statistics()
    yield Sample("gaps", (), figures.gaps)
    yield Sample("duplicates", (), figures.duplicates)
    yield Sample("slow", ("disconnect",), figures.slow_disconnects)
    yield Sample("slow", ("drop",), figures.dropped)
    yield Sample("slow", ("latest",), figures.superseded)
    yield from (Sample("limits_reached", (name,), count) for name, count in figures.limits_reached.items())
    recoveries = node.recoveries
    yield Sample("recoveries", ("complete",), recoveries.counts[True])
    yield Sample("recoveries", ("incomplete",), recoveries.counts[False])
    store, shared = recoveries.reads
    yield Sample("recovery_reads", ("store",), store)
    yield Sample("recovery_reads", ("shared",), shared)
    yield Sample("turns", (), node.fanout.turns)
    yield Sample("worst_turn_seconds", ("cpu",), figures.worst_turn_cpu)
    yield Sample("worst_turn_seconds", ("wall",), figures.worst_turn_wall)


def kind_of_link(link: type[Link]) -> str:
    """Return the kind of a client's link in one word."""
    if issubclass(link, StreamLink):
        return "stream"
    return "websocket_asgi" if issubclass(link, AsgiLink) else "websocket"


def name_of_protocol(protocol: type) -> str:
    """Return the name of a protocol: "plain" for PlainProtocol."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", protocol.__name__).lower()
    return words.removesuffix("_protocol") or words
