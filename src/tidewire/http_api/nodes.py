"""The view of all nodes: their channels and figures, asked from each."""

from __future__ import annotations

import fnmatch
import os
import socket
import time
from typing import Any

import msgspec

from tidewire.channels import is_internal
from tidewire.engine.node import Node
from tidewire.http_api import models as m
from tidewire.http_api.node_models import status_of
from tidewire.observe.live import Live
from tidewire.observe.overview import Overview
from tidewire.observe.reports import Reports
from tidewire.observe.shown_runs import ShownRuns
from tidewire.observe.survey import Survey
from tidewire.rules.base import Authority
from tidewire.support.meter import Meter

__all__ = ("Nodes",)

#: Channels in one part of a node's answer.
_PART = 2_000


class Nodes:
    """Answers for its own node from `start` on, and asks all nodes; raises as `Survey.ask` does."""

    def __init__(self, node: Node, *, version: str, meter: Meter | None = None, judge: Authority | None = None) -> None:
        self._node = node
        self._survey = Survey(node)
        self.reports = Reports(node, self._survey, version=version, meter=meter)
        self.overview = Overview(node, self._survey, judge)
        self.live = Live(node, lambda: status_of(self.reports.own()), self.reports.reach, self._known)
        #: The long jobs of the application, where it has some; a layer above sets it.
        self.runs: ShownRuns | None = None
        self._version = version
        self._started = time.monotonic()
        self._survey.on("channels", self._own_channels)
        self._survey.on("info", self._own_info)

    async def start(self) -> None:
        """Join the nodes; raises StoreUnavailable."""
        await self._survey.start()

    async def aclose(self) -> None:
        """Leave the nodes, before the node closes."""
        await self._survey.aclose()

    async def channels(self, pattern: str) -> m.ChannelsResult:
        """Return the channels with subscribers on any node, and the number of these; `pattern` has * and ?."""
        found: dict[str, int] = {}
        for parts in (await self._survey.ask("channels", pattern.encode())).values():
            for part in filter(None, parts):
                for name, count in msgspec.json.decode(part, type=dict[str, int]).items():
                    found[name] = found.get(name, 0) + count
        return m.ChannelsResult(channels={name: m.ChannelInfo(num_clients=count) for name, count in found.items()})

    async def info(self) -> m.InfoResult:
        """Return the figures of every node."""
        answers = await self._survey.ask("info")
        return m.InfoResult(nodes=[m.NodeInfo.model_validate_json(b"".join(parts)) for parts in answers.values()])

    def _known(self) -> tuple[float, list[dict[str, Any]]]:
        at, others = self.reports.others
        return at, [status_of(report) for report in others]

    def _own_channels(self, pattern: bytes) -> list[bytes]:
        glob = pattern.decode()
        found = [
            (name, len(channel))
            for name, channel in self._node.registry.channels.items()
            if len(channel) and not is_internal(name) and (not glob or fnmatch.fnmatchcase(name, glob))
        ]
        return [msgspec.json.encode(dict(found[start : start + _PART])) for start in range(0, len(found), _PART)]

    def _own_info(self, _: bytes) -> list[bytes]:
        registry = self._node.registry
        channels = [channel for name, channel in registry.channels.items() if len(channel) and not is_internal(name)]
        info = m.NodeInfo(
            uid=self._node.id,
            name=f"{socket.gethostname()}_{os.getpid()}",
            version=self._version,
            num_clients=len(registry.connections),
            num_users=len(registry.users),
            num_channels=len(channels),
            num_subs=sum(map(len, channels)),
            uptime=int(time.monotonic() - self._started),
        )
        return [info.model_dump_json().encode()]
