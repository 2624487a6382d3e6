"""Our application under test: the same room as a served protocol, as a FastAPI endpoint, and for Centrifuge clients.

`BENCH_URL` names the store, `BENCH_LOOK` what looks at it (metrics, traces, page);
with `BENCH_MEMBERS` channels of Centrifuge clients tell who joins and leaves. The limits
that keep a stranger from publishing thousands of messages a second, and from holding thousands of connections, are
raised; nothing else is changed.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any

import msgspec
from fastapi import FastAPI, WebSocket

from tidewire import ChannelOptions, Hub, Limits
from tidewire.rules.base import Action, Authority, Caller, ConnectAttempt, Grant, Identity

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

limits = Limits(rate=1e9, burst=1_000_000_000, connections=20_000)
LOOK = os.environ.get("BENCH_LOOK", "")


def provider() -> TracerProvider | None:
    """Return a tracer whose spans go through the SDK's batches and are thrown away, if traces are on."""
    if LOOK != "traces":
        return None
    from opentelemetry.sdk.trace import TracerProvider as Provider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    found = Provider()
    found.add_span_processor(BatchSpanProcessor(Nowhere()))
    return found


hub = Hub(
    os.environ.get("BENCH_URL", "memory://"),
    limits=limits,
    channels={"cursors:*": ChannelOptions(ephemeral=True)},
    tracer_provider=provider(),
)
app = FastAPI(lifespan=hub.lifespan)
if LOOK == "metrics":
    app.include_router(hub.metrics_router())
if LOOK == "page":
    app.include_router(hub.admin_router())
app.include_router(hub.protocol_router("/served/{channel}"))


@app.websocket("/endpoint/{room}")
async def endpoint(websocket: WebSocket, room: str) -> None:
    """Follow the room, and publish there what the client sends."""
    async with hub.connect(websocket) as connection:
        await connection.subscribe(room)
        async for text in connection.iter_text():
            await connection.submit(room, text)


numbers = itertools.count()


@app.websocket("/members/{room}")
async def members(websocket: WebSocket, room: str) -> None:
    """Tell the room who comes and goes."""
    async with hub.connect(websocket, user=f"user{next(numbers)}") as connection:
        await connection.subscribe(room, join=f"{connection.user} joined", leave=f"{connection.user} left")
        await connection.wait_closed()


class Anybody(Authority):
    """Lets everybody do everything, as the other servers under test do."""

    def __init__(self) -> None:
        told = bool(os.environ.get("BENCH_MEMBERS"))
        self._options = ChannelOptions(presence=told, join_leave=told, force_join_leave=told)

    async def connect(self, attempt: ConnectAttempt, identity: Identity | None) -> Identity:
        return Identity()

    async def refresh(self, caller: Caller, token: str) -> Identity:
        return Identity()

    def options(self, channel: str) -> ChannelOptions:
        return self._options

    async def subscribe(self, caller: Caller, channel: str, token: str, data: bytes) -> Grant:
        return Grant(self._options)

    async def sub_refresh(self, caller: Caller, channel: str, token: str) -> Grant:
        return Grant(self._options)

    async def allow(self, caller: Caller, channel: str, action: Action, *, subscribed: bool) -> None:
        return None


app.include_router(hub.client_router(authority=Anybody()))


@app.get("/stats")
async def stats() -> dict[str, Any]:
    """Return the figures of the node."""
    figures: dict[str, Any] = msgspec.to_builtins(hub.statistics())
    return figures
