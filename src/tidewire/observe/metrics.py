"""The reports of nodes as Prometheus reads them: the text format, or OpenMetrics, by prometheus-client."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tidewire.errors import ConfigurationError
from tidewire.observe.node_report import NodeReport
from tidewire.support.meter import BOUNDS

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

__all__ = ("METRICS", "TIMINGS", "exposition")


class Metric(NamedTuple):
    """A metric: whether it only grows, its labels beside `node`, and its meaning."""

    is_counter: bool
    labels: tuple[str, ...]
    help: str


#: The metrics by their names in reports; "tidewire_" comes before, and "_total" after a counter.
METRICS = {
    "connections": Metric(False, ("kind", "protocol", "state"), "Connections now."),
    "unsent_bytes": Metric(False, (), "Bytes that slow connections have not taken."),
    "users": Metric(False, (), "Users with a connection to this node."),
    "connections_opened": Metric(True, (), "Connections that were accepted."),
    "connections_ended": Metric(True, ("code",), "Connections that have ended, by their close code."),
    "refusals": Metric(True, ("reason",), "Handshakes, commands and messages that were refused, and slow clients."),
    "channels": Metric(False, (), "Channels with a subscriber on this node."),
    "subscriptions": Metric(False, (), "Subscriptions now."),
    "catching_up_channels": Metric(False, (), "Channels that fill a gap from history now."),
    "catching_up_publications": Metric(False, (), "Publications that wait behind a gap."),
    "publications": Metric(True, ("pattern",), "Publications that the store keeps, by the pattern of the channel."),
    "deliveries": Metric(True, ("pattern",), "Publications pushed to subscribers, by the pattern of the channel."),
    "delivered_bytes": Metric(True, ("pattern",), "Bytes of their payloads."),
    "recoveries": Metric(True, ("outcome",), "Recoveries of subscribers that were away."),
    "recovery_reads": Metric(True, ("source",), "Recoveries that read the store, or shared a read."),
    "gaps": Metric(True, (), "Gaps in the deliveries of the store to this node."),
    "duplicates": Metric(True, (), "Publications that the store delivered twice."),
    "slow": Metric(
        True, ("policy",), "Disconnects of slow clients, and publications that they did not get, by the policy."
    ),
    "limits_reached": Metric(True, ("limit",), "How often each limit was reached."),
    "turns": Metric(True, (), "Turns of the event loop with something to push."),
    "worst_turn_seconds": Metric(False, ("clock",), "The longest of these turns since the start."),
    "resident_bytes": Metric(False, (), "Resident memory of the process."),
    "pipeline_runs": Metric(False, ("status",), "Runs of pipelines that are queued or running."),
    "pipeline_runs_ended": Metric(True, ("status",), "Runs of pipelines that this process has ended."),
}
TIMINGS = {
    "handshake": Metric(True, ("transport", "outcome"), "Seconds that handshakes took which reached the hub."),
    "command": Metric(
        True, ("command", "outcome"), "Seconds that commands of clients took; of publishes, a sample is timed."
    ),
    "api": Metric(True, ("call", "outcome"), "Seconds that calls of the HTTP API took."),
    "store": Metric(True, ("call", "outcome"), "Seconds that the store took; of publishes, a sample is timed."),
}


def exposition(accept: str) -> tuple[Callable[[Sequence[NodeReport]], bytes], str]:
    """Return the writer for an Accept header, and its content type; raises ConfigurationError without the library."""
    try:
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder
    except ModuleNotFoundError:
        raise ConfigurationError(
            "metrics need the Python package 'prometheus-client', which is not installed; "
            "run: pip install 'tidewire[metrics]'"
        ) from None
    encode, content_type = choose_encoder(accept)

    def write(reports: Sequence[NodeReport]) -> bytes:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(reports))
        written: bytes = encode(registry)
        return written

    return write, content_type


class _Collector:
    """Yields the families of some reports; prometheus-client asks for them."""

    def __init__(self, reports: Sequence[NodeReport]) -> None:
        self._reports = reports

    def describe(self) -> list[Family]:
        return []

    def collect(self) -> Iterator[Family]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        yield from self._of_nodes()
        families: dict[str, Any] = {}
        for name, metric in METRICS.items():
            make = CounterMetricFamily if metric.is_counter else GaugeMetricFamily
            families[name] = make(f"tidewire_{name}", metric.help, labels=("node", *metric.labels))
        for report in self._reports:
            for sample in report.samples:
                if sample.metric in families:
                    families[sample.metric].add_metric((report.node, *sample.labels), sample.value)
        yield from families.values()
        yield from self._timings()

    def _of_nodes(self) -> Iterator[Family]:
        from prometheus_client.core import GaugeMetricFamily

        labels = ("node", "host", "process", "version")
        info = GaugeMetricFamily("tidewire_node_info", "The nodes that answered: 1 for each.", labels=labels)
        uptime = GaugeMetricFamily("tidewire_uptime_seconds", "Seconds since the node opened.", labels=("node",))
        degraded = GaugeMetricFamily("tidewire_degraded", "1: the store is away.", labels=("node",))
        for report in self._reports:
            info.add_metric((report.node, report.host, str(report.process), report.version), 1)
            uptime.add_metric((report.node,), report.uptime)
            degraded.add_metric((report.node,), report.degraded)
        yield from (info, uptime, degraded)

    def _timings(self) -> Iterator[Family]:
        from prometheus_client.core import HistogramMetricFamily

        families = {
            name: HistogramMetricFamily(f"tidewire_{name}_seconds", metric.help, labels=("node", *metric.labels))
            for name, metric in TIMINGS.items()
        }
        for report in self._reports:
            for timing in report.timings:
                below, buckets = 0, []
                for bound, count in zip((*map(str, BOUNDS), "+Inf"), timing.counts, strict=True):
                    below += count
                    buckets.append((bound, below))
                families[timing.metric].add_metric((report.node, *timing.labels), buckets, timing.seconds)
        yield from families.values()
