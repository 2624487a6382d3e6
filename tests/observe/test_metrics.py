"""`/metrics`: exact figures of all workers, for those who may read them."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException, WebSocket
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_text
from starlette.requests import HTTPConnection
from tests.requirements import require
from tests.server.live_server import LiveServer, end, wait_for
from websockets.asyncio.client import connect as open_client
from websockets.sync.client import connect

from helpers.hubs import run, serving
from tidewire import ChannelOptions, Hub, SlowPolicy
from tidewire.backends.checked import CheckedBroker
from tidewire.observe.metrics import METRICS, TIMINGS
from tidewire.protocols.json import JSON
from tidewire.testing import wait_until

DEPLOY = Path(__file__).parents[2] / "deploy"
KEY = "the-key-of-the-api"


def figures(text: str, **wanted: str) -> dict[str, float]:
    """Return the sums of the samples that have these labels, by name."""
    found: dict[str, float] = {}
    for family in parse_text(text):
        for sample in family.samples:
            if wanted.items() <= sample.labels.items():
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


async def scrape(port: int, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(f"http://127.0.0.1:{port}/metrics", headers=headers)


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(300)])])
def test_counters_are_exact_after_many_publications(count: int) -> None:
    hub = Hub(channels={"news:*": ChannelOptions(history_size=0), "rest:*": ChannelOptions(history_size=0)})
    app = FastAPI(lifespan=hub.lifespan)
    app.include_router(hub.metrics_router())

    @app.websocket("/")
    async def endpoint(websocket: WebSocket) -> None:
        async with hub.connect(websocket) as connection:
            await connection.subscribe("news:1")
            await connection.wait_closed()

    async def main() -> None:
        async with serving(hub, app) as served, served.open() as first, served.open() as second:
            for start in range(0, count, 1_000):
                names = [f"{'news' if n % 4 < 2 else 'rest'}:{n % 2}" for n in range(start, start + 1_000)]
                await asyncio.gather(*[hub.publish(name, "12345") for name in names])
                for client in (first, second):
                    for _ in range(250):
                        assert await client.recv() == "12345"
            text = (await scrape(served.port)).text
            assert figures(text, pattern="news:*") == {
                "tidewire_publications_total": count / 2,
                "tidewire_deliveries_total": count / 2,
                "tidewire_delivered_bytes_total": count / 2 * len("12345"),
            }
            assert figures(text, pattern="rest:*")["tidewire_publications_total"] == count / 2
            assert figures(text)["tidewire_deliveries_total"] == count / 2
            assert figures(text, kind="websocket", protocol="plain", state="open")["tidewire_connections"] == 2
            assert figures(text)["tidewire_subscriptions"] == 2
            assert 1 <= figures(text, call="publish", outcome="ok")["tidewire_store_seconds_count"] <= count / 2

    run(main(), 240)


def test_metrics_that_are_off_cost_nothing_and_measure_nothing() -> None:
    async def main() -> None:
        async with Hub() as hub:
            assert hub.node.meter is None
            assert type(hub.node.broker) is CheckedBroker

    run(main())


def test_of_publishes_a_sample_is_timed_and_every_failure_counts() -> None:
    hub = Hub(limits={"rate": 1e9, "burst": 1_000_000})
    app = FastAPI(lifespan=hub.lifespan)
    app.include_router(hub.metrics_router())
    app.include_router(hub.protocol_router("/served/{channel}", JSON))

    @hub.channel("room", publishes=int)
    async def room() -> bool:
        return True

    async def main() -> None:
        async with (
            serving(hub, app) as served,
            # it reads nothing: a full queue would keep its closing handshake for ten seconds
            open_client(f"ws://127.0.0.1:{served.port}/served/room", max_queue=None) as client,
        ):
            for number in range(500):
                await client.send(json.dumps(number if number % 2 else "no number"))
            durations = hub.node.meter.durations  # type: ignore[union-attr]
            failed = "command", "publish", "failed"
            await wait_until(lambda: failed in durations and sum(durations[failed].counts) == 250)
            await wait_until(lambda: hub.statistics().published == 250)
            for family in ("command", "store"):
                assert 0 < sum(durations[family, "publish", "ok"].counts) < 250

    run(main())


def test_both_formats_are_read_by_their_parsers_and_name_no_channel() -> None:
    hub = Hub()
    app = FastAPI(lifespan=hub.lifespan)
    app.include_router(hub.metrics_router())
    app.include_router(hub.api_router(insecure=True))

    @hub.channel("room:{room}")
    async def room(room: str, user: str) -> bool:
        return True

    async def main() -> None:
        async with serving(hub, app) as served:
            await hub.publish("room:very-private", {"a": 1})
            await hub.send_to_user("zebedee", "for one only")
            async with httpx.AsyncClient() as client:
                await client.post(f"http://127.0.0.1:{served.port}/api/info", json={})
            plain = await scrape(served.port)
            assert plain.headers["content-type"].startswith("text/plain")
            assert figures(plain.text, pattern="room:{room}")["tidewire_publications_total"] == 1
            assert figures(plain.text, pattern="$user:*")["tidewire_publications_total"] == 1
            assert figures(plain.text, call="info", outcome="ok")["tidewire_api_seconds_count"] == 1
            assert "private" not in plain.text
            assert "zebedee" not in plain.text
            opened = await scrape(served.port, accept="application/openmetrics-text; version=1.0.0")
            assert opened.headers["content-type"].startswith("application/openmetrics-text")
            names = {family.name for family in parse_open(opened.text)}
            assert {f"tidewire_{name}" for name in METRICS} <= names
            assert {f"tidewire_{name}_seconds" for name in TIMINGS} <= names

    run(main())


def test_a_slow_client_is_counted_by_its_policy_and_its_deliveries_by_pattern() -> None:
    hub = Hub(channels={"price": ChannelOptions(slow=SlowPolicy.LATEST)}, limits={"outbox_messages": 8})
    app = FastAPI(lifespan=hub.lifespan)
    app.include_router(hub.metrics_router())

    @app.websocket("/")
    async def endpoint(websocket: WebSocket) -> None:
        async with hub.connect(websocket) as connection:
            await connection.subscribe("price")
            await connection.wait_closed()

    async def main() -> None:
        async with serving(hub, app) as served, served.open(max_queue=1) as client:
            client.transport.pause_reading()
            while not hub.statistics().superseded:
                await hub.publish("price", "x" * 60_000)
                await asyncio.sleep(0)
            text = (await scrape(served.port)).text
            assert figures(text, policy="latest")["tidewire_slow_total"] == hub.statistics().superseded
            assert figures(text, state="slow")["tidewire_connections"] == 1
            client.transport.resume_reading()
            await hub.publish("price", "last")
            while await client.recv() != "last":
                pass
            text = (await scrape(served.port)).text
            assert figures(text, pattern="price")["tidewire_deliveries_total"] == hub.statistics().deliveries

    run(main())


def may(connection: HTTPConnection) -> str | None:
    who = connection.headers.get("x-who")
    if who == "nobody":
        raise HTTPException(418)
    return who


@pytest.mark.parametrize(
    ("options", "headers", "status"),
    [
        ({}, {}, 200),
        ({}, {"x-forwarded-for": "192.0.2.1"}, 403),
        ({}, {"host": "chat.example.org"}, 403),
        ({}, {"origin": "https://evil.example"}, 403),
        ({"key": KEY}, {}, 401),
        ({"key": KEY}, {"x-api-key": "wrong"}, 401),
        ({"key": KEY}, {"x-api-key": KEY}, 200),
        ({"key": KEY}, {"authorization": f"Bearer {KEY}"}, 200),
        ({"key": KEY}, {"x-api-key": KEY, "origin": "https://evil.example"}, 403),
        ({"user": may}, {}, 403),
        ({"user": may}, {"x-who": "nobody"}, 418),
        ({"user": may}, {"x-who": "ann"}, 200),
        ({"user": may}, {"x-who": "ann", "x-forwarded-for": "192.0.2.1"}, 200),
        ({"user": may}, {"x-who": "ann", "origin": "https://evil.example"}, 403),
    ],
)
def test_nobody_reads_without_the_right(options: dict[str, Any], headers: dict[str, str], status: int) -> None:
    hub = Hub()
    app = FastAPI(lifespan=hub.lifespan)
    app.include_router(hub.metrics_router(**options))

    async def main() -> None:
        async with serving(hub, app) as served:
            answer = await scrape(served.port, **headers)
            assert answer.status_code == status
            assert ("tidewire_" in answer.text) is (status == 200)

    run(main())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("metrics")
    with LiveServer(folder, "--workers", "2", TIDEWIRE_HTTP_API__KEY=KEY) as running:
        yield running


def metrics(server: LiveServer) -> dict[str, float]:
    return figures(server.get("/metrics").text)


def test_any_worker_answers_for_all_of_the_machine(server: LiveServer) -> None:
    def processes() -> set[str]:
        return set(re.findall(r'tidewire_node_info\{.*?process="(\d+)"', server.get("/metrics").text))

    wait_for(lambda: processes() == {str(pid) for pid in server.workers()}, what="both workers in one scrape")
    for number in range(20):
        channels = [f"playground:{number}-{other}" for other in range(100)]
        answer = server.post("/api/broadcast", json={"channels": channels, "data": 1}, headers={"X-API-Key": KEY})
        assert all("result" in response for response in answer.json()["result"]["responses"])
    for _ in range(4):
        wait_for(lambda: len(processes()) == 2, what="both workers in one scrape")
        text = server.get("/metrics").text
        if text.count("tidewire_node_info{") == 2:  # a busy machine may let one answer too late
            assert figures(text, pattern="playground:*")["tidewire_publications_total"] == 2_000
            assert figures(text, call="broadcast")["tidewire_api_seconds_count"] == 20


def test_a_killed_worker_is_left_out_at_once_and_its_place_is_taken(server: LiveServer) -> None:
    url = f"{server.websocket_url}/connection/websocket"
    with ExitStack() as stack:
        sockets = [stack.enter_context(connect(url, proxy=None)) for _ in range(12)]
        for socket in sockets:
            socket.send(json.dumps({"id": 1, "connect": {"data": {"tidewire": "playground", "name": "x"}}}))
            assert "connect" in json.loads(socket.recv(timeout=10))
        assert metrics(server)["tidewire_connections"] == 12
        end(server.workers()[0], signal.SIGKILL)
        # those of the killed one end without a close frame; what is left agrees with what the others say
        left = sum(_is_open(socket) for socket in sockets)
        wait_for(lambda: metrics(server).get("tidewire_connections", 0) == left, what="those of the other worker")
        wait_for(lambda: metrics(server)["tidewire_node_info"] == 2, what="another worker")


def _is_open(socket: Any) -> bool:
    try:
        while True:
            socket.recv(timeout=0.5)
    except TimeoutError:
        return True
    except Exception:
        return False


def test_a_server_for_others_wants_the_key(tmp_path: Path) -> None:
    with LiveServer(tmp_path, "--host", "0.0.0.0") as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(f"{url}/metrics").status_code == 403
        assert "tidewire_" not in httpx.get(f"{url}/metrics", headers={"X-API-Key": ""}).text


# What is shipped for Prometheus and Grafana.


def shipped() -> str:
    rules = (DEPLOY / "prometheus" / "tidewire.rules.yml").read_text()
    board = json.loads((DEPLOY / "grafana" / "tidewire.json").read_text())
    return rules + "\n".join(target["expr"] for panel in board["panels"] for target in panel["targets"])


def test_the_board_and_the_rules_name_metrics_that_there_are() -> None:
    known = {f"tidewire_{name}{'_total' if metric.is_counter else ''}" for name, metric in METRICS.items()}
    known |= {f"tidewire_{name}_seconds_bucket" for name in TIMINGS} | {"tidewire_degraded", "tidewire_uptime_seconds"}
    named = set(re.findall(r"\btidewire_\w+", shipped()))
    assert named
    assert named <= known


def test_prometheus_loads_the_rules_and_scrapes_the_server(server: LiveServer, tmp_path: Path) -> None:
    require(shutil.which("prometheus") and shutil.which("promtool"), "apt-get install prometheus")
    rules = DEPLOY / "prometheus" / "tidewire.rules.yml"
    checked = subprocess.run(["promtool", "check", "rules", str(rules)], capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    target = server.url.removeprefix("http://")
    (tmp_path / "prometheus.yml").write_text(
        f"global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{rules}]\n"
        f"scrape_configs: [{{job_name: tidewire, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*command, "--web.listen-address=127.0.0.1:0"], stderr=log, stdout=log)
    try:
        found = wait_for(
            lambda: re.search(r"Listening on.*?address=(\S+)", (tmp_path / "log").read_text()), what="its address"
        )
        url = f"http://{found[1]}/api/v1"

        def asked(expression: str) -> list[Any]:
            answer = httpx.get(f"{url}/query", params={"query": expression})
            if not answer.is_success:
                return []  # it listens before it is up
            result: list[Any] = answer.json()["data"]["result"]
            return result

        wait_for(lambda: len(asked("tidewire_node_info")) == 2, what="both workers")
        groups = httpx.get(f"{url}/rules").json()["data"]["groups"]
        assert wait_for(
            lambda: (
                {rule["health"] for rule in httpx.get(f"{url}/rules").json()["data"]["groups"][0]["rules"]} == {"ok"}
            ),
            what="every rule evaluated",
        )
        assert len(groups[0]["rules"]) == 9
        board = json.loads((DEPLOY / "grafana" / "tidewire.json").read_text())
        for panel in board["panels"]:
            for query in panel["targets"]:
                expression = query["expr"].replace("$__rate_interval", "1m")
                answer = httpx.get(f"{url}/query", params={"query": expression})
                assert answer.json()["status"] == "success", expression
    finally:
        process.terminate()
        process.wait(20)


def test_a_request_that_is_no_good_handshake_is_counted() -> None:
    hub = Hub()
    app = FastAPI(lifespan=hub.lifespan)
    app.include_router(hub.metrics_router())

    @app.websocket("/")
    async def endpoint(websocket: WebSocket) -> None:
        async with hub.connect(websocket) as connection:
            await connection.wait_closed()

    async def main() -> None:
        async with serving(hub, app) as served:
            upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
            async with httpx.AsyncClient() as client:
                answer = await client.get(f"http://127.0.0.1:{served.port}/", headers=upgrade)
            assert answer.status_code == 400
            text = (await scrape(served.port)).text
            assert figures(text, reason="handshake")["tidewire_refusals_total"] == 1

    run(main())
