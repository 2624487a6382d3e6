"""Traces: a publish is followed over every store to the workers that deliver it; off, nothing is there."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from contextlib import AsyncExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException, WebSocket
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanKind, StatusCode
from starlette.requests import HTTPConnection
from tests.server.live_server import LiveServer, wait_for
from websockets.sync.client import connect

from helpers.hubs import receive, run, serving
from tidewire import ChannelOptions, Hub, Limits, PermissionDenied, Publisher
from tidewire.client import Client
from tidewire.engine.node import Node
from tidewire.errors import CommandError, TidewireError
from tidewire.observe.metrics import TIMINGS
from tidewire.support.log_ids import LogIds
from tidewire.testing import wait_until

SECRET = "the-secret-of-ann"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmVk"


class Traced:
    """A tracer provider of the SDK that keeps what it is given."""

    def __init__(self, sampler: Any = ALWAYS_ON) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=ParentBased(sampler))
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    def spans(self, name: str = "") -> list[ReadableSpan]:
        found = (span for span in self.exporter.get_finished_spans() if span.name.startswith(name))
        return [span for span in found if span.instrumentation_scope and span.instrumentation_scope.name == "tidewire"]


async def allow(connection: HTTPConnection) -> str:
    return connection.query_params.get("user", "")


def worker(url: str, traced: Traced | None) -> tuple[Hub, FastAPI]:
    """Make a worker: its hub, and an application that publishes what it is posted."""
    provider = None if traced is None else traced.provider
    hub = Hub(url, tracer_provider=provider, channels={"fast:*": ChannelOptions(ephemeral=True)})
    app = FastAPI(lifespan=hub.lifespan, telemetry={"tracer_provider": provider})
    app.include_router(hub.client_router(user=allow))
    app.include_router(hub.protocol_router("/plain/{channel}"))

    @hub.channel("room:{room}")
    async def room(room: int, user: str) -> bool:
        if room == 13:
            raise PermissionDenied(f"no, {SECRET}")
        return True

    @app.post("/publish/{channel}")
    async def publish(channel: str) -> None:
        await hub.publish(channel, {"text": SECRET}, tags={"kind": "news"})

    @app.post("/refuse")
    async def refuse() -> None:
        raise HTTPException(403)

    return hub, app


def test_a_publish_is_followed_over_the_store_to_each_worker(url: str) -> None:
    first, second = Traced(), Traced()

    async def main() -> None:
        async with AsyncExitStack() as stack:
            one, app = worker(url, first)
            two, other = worker(url, second)
            here = await stack.enter_async_context(serving(one, app))
            there = await stack.enter_async_context(serving(two, other))
            clients = [await stack.enter_async_context(s.open("/plain/room:1")) for s in (here, there, there)]
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{here.port}") as client:
                (await client.post("/publish/room:1")).raise_for_status()
            for one_client in clients:
                assert json.loads(await receive(one_client)) == {"text": SECRET}
            await wait_until(lambda: bool(second.spans("deliver") and first.spans("deliver")))
            page = await one.history("room:1")
            assert [p.meta.count(b"traceparent") + p.meta.count(b'"trace"') for p in page.publications] == [1]

    run(main())
    (publish,) = first.spans("publish")
    request = next(s for s in first.exporter.get_finished_spans() if s.name == "POST /publish/{channel}")
    assert publish.name == "publish room:{room}"
    assert publish.kind is SpanKind.PRODUCER
    assert publish.context.trace_id == request.context.trace_id
    assert publish.attributes is not None
    assert publish.attributes["messaging.system"] == "tidewire"
    assert publish.attributes["messaging.operation.name"] == "publish"
    assert publish.attributes["messaging.destination.template"] == "room:{room}"
    assert str(publish.attributes["messaging.message.id"]).endswith(":1")
    for traced, subscribers in ((first, 1), (second, 2)):  # one span a worker, however many are subscribed
        (deliver,) = traced.spans("deliver")
        assert deliver.parent is not None
        assert deliver.parent.span_id == publish.context.span_id
        assert deliver.context.trace_id == publish.context.trace_id
        assert [link.context.span_id for link in deliver.links] == [publish.context.span_id]
        assert deliver.kind is SpanKind.CONSUMER
        assert deliver.attributes is not None
        assert deliver.attributes["tidewire.subscribers"] == subscribers
        assert all(SECRET not in str(span.to_json()) for span in traced.spans())


@pytest.mark.parametrize("ephemeral", [False, True])
def test_a_publish_of_another_process_is_followed_to_its_deliveries(tmp_path: Path, ephemeral: bool) -> None:
    outside, inside = Traced(), Traced()
    url = f"sqlite:///{tmp_path}/store.db"

    def publish(hub: Hub) -> None:
        with (
            Publisher(hub, tracer_provider=outside.provider) as publisher,
            outside.tracer.start_as_current_span("task"),
        ):
            publisher.publish("room:1", {"text": SECRET}, ephemeral=ephemeral)
            with pytest.raises(CommandError):
                publisher.publish("room:1", "x", key="k", ephemeral=True)

    async def main() -> None:
        hub, app = worker(url, inside)
        async with serving(hub, app) as served, served.open("/plain/room:1") as client:
            await wait_until(lambda: len(hub.node.registry.channels["room:1"]) == 1)
            await asyncio.to_thread(publish, hub)
            assert json.loads(await receive(client)) == {"text": SECRET}
            await wait_until(lambda: bool(inside.spans("deliver")))

    run(main())
    (span,), (deliver,) = outside.spans("publish"), inside.spans("deliver")
    task = next(one for one in outside.exporter.get_finished_spans() if one.name == "task")
    assert span.name == "publish room:{room}"
    assert span.kind is SpanKind.PRODUCER
    assert span.parent is not None
    assert span.parent.span_id == task.context.span_id
    assert deliver.parent is not None
    assert deliver.parent.span_id == span.context.span_id
    assert span.attributes is not None
    assert ("messaging.message.id" in span.attributes) is not ephemeral
    assert SECRET not in str(span.to_json())


def test_a_publisher_begins_few_traces_and_without_a_tracer_none(tmp_path: Path) -> None:
    traced = Traced()
    url = f"sqlite:///{tmp_path}/store.db"
    start = time.monotonic()
    with Publisher(url, limits=Limits(traces_per_second=2), tracer_provider=traced.provider) as publisher:
        for number in range(50):
            publisher.publish("a", number, ephemeral=True)
    assert 2 <= len(traced.spans("publish")) <= 2 * (time.monotonic() - start) + 2
    with Publisher(url) as publisher:
        publisher.publish("a", 1)

    async def read() -> bytes:
        async with Hub(url) as hub:
            return (await hub.history("a")).publications[-1].meta

    assert asyncio.run(read()) == b""


def test_what_is_not_kept_is_followed_too(url: str) -> None:
    first, second = Traced(), Traced()

    async def main() -> None:
        async with AsyncExitStack() as stack:
            one, app = worker(url, first)
            two, other = worker(url, second)
            await stack.enter_async_context(serving(one, app))
            there = await stack.enter_async_context(serving(two, other))
            client = await stack.enter_async_context(there.open("/plain/fast:1"))
            await one.publish("fast:1", "x")
            assert await receive(client) == "x"
            await wait_until(lambda: bool(second.spans("deliver")))

    run(main())
    (publish,) = first.spans("publish")
    (deliver,) = second.spans("deliver")
    assert deliver.parent is not None
    assert deliver.parent.span_id == publish.context.span_id


def test_clients_are_shown_nothing_of_a_trace() -> None:
    traced = Traced()

    async def main() -> None:
        hub, app = worker("memory://", traced)
        app.include_router(hub.api_router(insecure=True))
        async with serving(hub, app) as served:
            async with Client(f"ws://127.0.0.1:{served.port}/connection/websocket?user=ann") as client:
                subscription = client.subscribe("room:1")
                await subscription.wait_subscribed()
                await hub.publish("room:1", {"n": 1}, tags={"kind": "news"})
                got = await anext(aiter(subscription))
                assert got.tags == {"kind": "news"}
                history = await client.history("room:1", limit=10)
            base = f"http://127.0.0.1:{served.port}"
            async with httpx.AsyncClient(base_url=base) as api:
                answer = await api.post("/api/history", json={"channel": "room:1", "limit": 10})
            (publish,) = traced.spans("publish")
            span = f"{publish.context.span_id:016x}"
            assert "news" in answer.text
            assert span not in answer.text + repr(got) + repr(history)

    run(main())


def test_handshakes_and_commands_have_spans_and_failures_name_their_type() -> None:
    traced = Traced()

    async def main() -> None:
        hub, app = worker("memory://", traced)
        async with serving(hub, app) as served:
            async with Client(f"ws://127.0.0.1:{served.port}/connection/websocket?user=ann") as client:
                await client.subscribe("room:1").wait_subscribed()
                await client.publish("room:1", {"text": SECRET})
                with pytest.raises(CommandError):
                    await client.subscribe("room:13").wait_subscribed()
            async with served.open("/plain/room:2") as plain:
                await plain.send(SECRET)
                assert await receive(plain) == SECRET

    run(main())
    assert {span.attributes["tidewire.transport"] for span in traced.spans("handshake") if span.attributes} == {
        "websocket"
    }
    websocket = next(s for s in traced.exporter.get_finished_spans() if s.name == "WS /connection/websocket")
    first = traced.spans("handshake")[0]
    assert first.context.trace_id == websocket.context.trace_id  # below FastAPI's spans of the connection
    subscribe, refused = traced.spans("command subscribe")
    assert subscribe.parent is None
    assert subscribe.attributes is not None
    assert subscribe.attributes["rpc.method"] == "subscribe"
    assert subscribe.status.status_code is StatusCode.UNSET
    assert refused.attributes is not None
    assert refused.attributes["error.type"] == "PermissionDenied"
    for command, publish in zip(traced.spans("command publish"), traced.spans("publish room"), strict=True):
        assert publish.parent is not None
        assert publish.parent.span_id == command.context.span_id
    assert all(SECRET not in span.to_json() for span in traced.spans())


def test_publishes_of_a_long_connection_begin_traces_of_their_own() -> None:
    traced = Traced()
    hub = Hub(tracer_provider=traced.provider)
    app = FastAPI(lifespan=hub.lifespan, telemetry={"tracer_provider": traced.provider})

    @app.websocket("/")
    async def endpoint(websocket: WebSocket) -> None:
        async with hub.connect(websocket) as connection:
            await connection.publish("a", "one")
            with traced.tracer.start_as_current_span("mine"):
                await connection.publish("a", "two")

    async def main() -> None:
        async with serving(hub, app) as served, served.open() as client:
            await client.wait_closed()

    run(main())
    alone, mine = traced.spans("publish")
    websocket = next(s for s in traced.exporter.get_finished_spans() if s.name == "WS /")
    assert alone.parent is None
    assert [link.context.trace_id for link in alone.links] == [websocket.context.trace_id]
    assert mine.parent is not None
    assert mine.context.trace_id == websocket.context.trace_id


def test_sampling_is_the_sdks_and_traces_that_begin_here_are_bounded() -> None:
    unsampled, bounded = Traced(ALWAYS_OFF), Traced()

    async def main() -> None:
        async with Hub(tracer_provider=unsampled.provider) as hub:
            await hub.publish("a", 1)
            assert (await hub.history("a")).publications[0].meta == b""
        async with Hub(tracer_provider=bounded.provider, limits={"traces_per_second": 3}) as hub:
            for n in range(10):
                await hub.publish("a", n)
            with bounded.tracer.start_as_current_span("mine"):
                for n in range(10):
                    await hub.publish("b", n)
            assert hub.statistics().limits_reached["traces_per_second"] == 1
            await wait_until(lambda: not hub.node._tracing._begun)  # type: ignore[attr-defined]
            await hub.publish("a", 11)

    run(main())
    assert not unsampled.spans()
    assert len(bounded.spans("publish")) == 3 + 10 + 1


def test_without_a_tracer_nothing_is_there() -> None:
    async def main() -> None:
        assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
        for provider in (None, trace.NoOpTracerProvider()):
            async with Hub(tracer_provider=provider) as hub:
                assert type(hub.node) is Node
                assert hub.node.meter is None
                assert not {"begin", "publish"} & (vars(hub.node.fanout).keys() | vars(hub.node.broker).keys())

    run(main())


def test_log_lines_carry_the_ids(caplog: pytest.LogCaptureFixture) -> None:
    traced = Traced()
    logger = logging.getLogger("tidewire")

    async def main() -> None:
        hub, app = worker("memory://", traced)

        @hub.rpc("break")
        async def broken(data: Any) -> None:
            raise ValueError("a bug")

        async with serving(hub, app) as served:
            address = f"ws://127.0.0.1:{served.port}/connection/websocket?user=ann"
            async with Client(address) as client:
                with pytest.raises(TidewireError):
                    await client.rpc("break", {})

    with caplog.at_level(logging.ERROR, "tidewire"):
        run(main())
    assert any(isinstance(one, LogIds) for one in logger.filters)
    (line,) = [record for record in caplog.records if "rpc" in record.getMessage()]
    (command,) = traced.spans("command rpc")
    assert (line.trace_id, line.span_id) == (  # type: ignore[attr-defined]
        f"{command.context.trace_id:032x}",
        f"{command.context.span_id:016x}",
    )


class Collector:
    """Takes traces over OTLP, as a collector does."""

    def __init__(self) -> None:
        requests = self.requests = []  # type: list[ExportTraceServiceRequest]

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.path == "/v1/traces":
                    requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Collector:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def spans(self, scope: str = "tidewire") -> dict[str, Any]:
        """Return the spans of a tracer, by name."""
        scopes = [found for one in list(self.requests) for spans in one.resource_spans for found in spans.scope_spans]
        return {span.name: span for found in scopes if found.scope.name == scope for span in found.spans}


def test_spans_go_to_a_collector_over_http() -> None:
    with Collector() as collector:
        exporter = OTLPSpanExporter(endpoint=f"{collector.url}/v1/traces", compression=Compression.NoCompression)
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(exporter))

        async def main() -> None:
            async with Hub(tracer_provider=provider) as hub:
                await hub.publish("a", 1)
            await asyncio.to_thread(provider.shutdown)

        run(main())
        assert list(collector.spans()) == ["publish *"]


def test_the_server_exports_by_the_standard_variables_and_its_log_carries_the_ids(tmp_path: Path) -> None:
    with Collector() as collector:
        with LiveServer(
            tmp_path,
            "--log-format",
            "json",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_BSP_SCHEDULE_DELAY="100",
            TIDEWIRE_HTTP_API__KEY=SECRET,
        ) as server:
            body = {"channel": "playground:1", "data": {"text": "hello"}}
            server.post(f"/api/publish?api_key={SECRET}", json=body).raise_for_status()
            server.get(f"/healthz?t%6Fken={SECRET}")
            server.get(f"/{JWT}/healthz?next={JWT}")
            with connect(f"{server.websocket_url}/connection/websocket", proxy=None) as client:
                client.send(json.dumps({"id": 1, "connect": {"data": {"tidewire": "playground", "name": "x"}}}))
                client.recv(timeout=10)
                client.send(json.dumps({"id": 2, "subscribe": {"channel": "$private"}}))
                assert "error" in json.loads(client.recv(timeout=10))
            wanted = {"publish playground:*", "command subscribe", "handshake"}
            wait_for(lambda: wanted <= set(collector.spans()), what=f"{wanted} among {set(collector.spans())}")
            wait_for(lambda: "POST /api/publish" in collector.spans("fastapi"), what="the span of the request")
            wait_for(lambda: str(list(collector.requests)).count("healthz") >= 2, what="the spans of all requests")
            command = collector.spans()["command subscribe"]
            lines = [json.loads(line) for line in server.err.splitlines()]
            (refused,) = [line for line in lines if "permission_denied" in line["message"]]
            assert (refused["trace_id"], refused["span_id"]) == (command.trace_id.hex(), command.span_id.hex())
        assert SECRET not in str(list(collector.requests))
        assert JWT not in str(list(collector.requests))


def test_handshakes_are_timed_for_metrics() -> None:
    assert TIMINGS["handshake"].labels == ("transport", "outcome")
