"""The calls of the HTTP API that look at all nodes: their requests and results."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from tidewire.http_api.models import Channel, Request, Result, User
from tidewire.observe.node_report import NodeReport

__all__ = (
    "ChannelListRequest",
    "ChannelListResult",
    "ConnectionsRequest",
    "ConnectionsResult",
    "RefusalsRequest",
    "RefusalsResult",
    "StatusRequest",
    "StatusResult",
    "WhyRequest",
    "WhyResult",
    "status_of",
)

Rows = Annotated[list[Any], WithJsonSchema({"type": "array", "items": {"type": "object"}})]


class StatusRequest(Request):
    """Read the state of every node: its connections, rates and troubles."""


class StatusResult(Result):
    """The nodes with their figures; a counter counts since the start of its node."""

    nodes: Rows


class _Paged(Request):
    search: str = Field(default="", max_length=500, description="Only rows with this text.")
    limit: int = Field(default=50, ge=0, le=500)
    offset: int = Field(default=0, ge=0, le=1_000_000)


class ConnectionsRequest(_Paged):
    """List connections, the newest first."""

    channel: str = Field(default="", description="Only those that are subscribed to it.")
    user: str = Field(default="", description="Only those of this user.")


class ConnectionsResult(Result):
    """A page of connections, and how many there are in all."""

    total: int
    connections: Rows


class ChannelListRequest(_Paged):
    """List channels with subscribers, those with the most first."""

    channel: str = Field(default="", description="Only this one.")


class ChannelListResult(Result):
    """A page of channels, and how many there are in all."""

    total: int
    channels: Rows


class RefusalsRequest(Request):
    """List the latest refusals, each with the limit or the rule that decided."""

    limit: int = Field(default=100, ge=0, le=1_000)


class RefusalsResult(Result):
    """The newest refusals first."""

    refusals: Rows


class WhyRequest(Request):
    """Ask whether a user may do something in a channel, and why."""

    user: User
    channel: Channel
    action: Literal["subscribe", "publish", "remove", "history", "presence"] = "publish"


class WhyResult(Result):
    """The answer, the rule that decided, and the options of its channels."""

    allowed: bool
    reason: str
    rule: str
    options: dict[str, Any]


#: The sums that each node is shown with, by metric.
_FIGURES = (
    "connections",
    "users",
    "channels",
    "subscriptions",
    "publications",
    "deliveries",
    "delivered_bytes",
    "refusals",
    "limits_reached",
    "slow",
    "gaps",
    "recoveries",
    "unsent_bytes",
    "catching_up_channels",
    "connections_opened",
    "resident_bytes",
)


def status_of(report: NodeReport) -> dict[str, Any]:
    """Return a node with its figures: the sum of each, and the parts of those that have labels."""
    parts: dict[str, dict[str, float]] = {}
    for sample in report.samples:
        if sample.labels and sample.value:
            parts.setdefault(sample.metric, {})["/".join(sample.labels)] = sample.value
    return {
        "node": report.node,
        "host": report.host,
        "process": report.process,
        "version": report.version,
        "uptime": report.uptime,
        "degraded": report.degraded,
        **{name: report.sum_of(name) for name in _FIGURES},
        "parts": parts,
    }
