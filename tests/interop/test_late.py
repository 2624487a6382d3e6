"""Clients that come late are given all that a channel keeps, by every door: 350 publications, small and large."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from websockets.sync.client import connect

from clients.test_module import script
from contract.serving import Server
from faults.serving import store
from interop.sdk import KINDS, driving
from tidewire.client import Client
from tidewire.messages import Position

pytestmark = pytest.mark.xdist_group("interop")

APP = Path(__file__).with_name("late_app.py")
#: Names of channels, and the bytes of each of their publications: these fit a reply, and those do not.
SIZES = {"small": 10, "large": 4_000}
COUNT = 350


class Late:
    """A server whose channels have been published to for a while."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.filled = dict.fromkeys(SIZES, 0)
        self.epochs: dict[str, str] = {}
        for name in SIZES:
            self.publish(name, COUNT)

    def publish(self, name: str, count: int) -> None:
        """Publish the next numbers."""
        query = {"name": name, "first": self.filled[name], "count": count, "size": SIZES[name]}
        self.epochs[name] = self.server.http.post("/fill", params=query).raise_for_status().json()["epoch"]
        self.filled[name] += count

    def is_all(self, name: str, numbers: list[int]) -> bool:
        return numbers == list(range(self.filled[name]))


@pytest.fixture(
    scope="module",
    params=["memory", *(pytest.param(n, marks=pytest.mark.slow) for n in ("sqlite", "redis", "postgres", "nats"))],
)
def late(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Late]:
    folder = tmp_path_factory.mktemp("late")
    if request.param == "memory":
        with Server(folder, app=APP, environment={"STORE": "memory://"}).running() as server:
            yield Late(server)
    else:
        with store(request.param, folder) as used:
            (folder / "run").mkdir()
            with Server(folder / "run", app=APP, workers=2, environment={"STORE": used.url}).running() as server:
                yield Late(server)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_published_clients_get_all_of_it(late: Late, kind: str, name: str) -> None:
    with driving(kind, late.server.port) as sdk:
        sdk.do("connect")
        sdk.next("connected")
        since = {"offset": 0, "epoch": late.epochs[name]}
        sdk.do("subscribe", channel=f"long:{name}", since=since)
        assert sdk.next("state", "subscribed")["event"] == "state"
        answer = sdk.next("state", "subscribed")
        assert (answer["event"], answer["recovered"]) == ("subscribed", True)
        late.publish(name, 5)
        assert late.is_all(name, [data["n"] for data in sdk.data(late.filled[name])])


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("path", ["uni_sse", "uni_http_stream"])
def test_clients_that_only_listen_get_all_of_it(late: Late, path: str, name: str) -> None:
    since = {"recover": True, "offset": 0, "epoch": late.epochs[name]}
    request = {"subs": {f"long:{name}": since}}
    if path == "uni_sse":
        call: dict[str, Any] = {
            "method": "GET",
            "url": "/connection/uni_sse?" + urlencode({"cf_connect": json.dumps(request)}),
        }
    else:
        call = {"method": "POST", "url": f"/connection/{path}", "json": request}
    numbers: list[int] = []
    with late.server.http.stream(**call) as stream:
        late.publish(name, 5)
        for line in stream.iter_lines():
            text = line.removeprefix("data: ")
            if text.startswith("{"):
                numbers += _numbers(json.loads(text), f"long:{name}")
            if len(numbers) >= late.filled[name]:
                break
    assert late.is_all(name, numbers)


@pytest.mark.parametrize("name", SIZES)
def test_the_one_way_websocket_gets_all_of_it(late: Late, name: str) -> None:
    since = {"recover": True, "offset": 0, "epoch": late.epochs[name]}
    numbers: list[int] = []
    with connect(late.server.url("/connection/uni_websocket"), proxy=None, max_size=None) as socket:
        socket.send(json.dumps({"subs": {f"long:{name}": since}}))
        while len(numbers) < late.filled[name]:
            for line in str(socket.recv(timeout=10)).splitlines():
                numbers += _numbers(json.loads(line), f"long:{name}")
    assert late.is_all(name, numbers)


def _numbers(push: dict[str, Any], channel: str) -> list[int]:
    """Return what a push of a one-way client brings."""
    if "connect" in push:
        answer = push["connect"]["subs"][channel]
        assert answer["recovered"] is True
        return [pub["data"]["n"] for pub in answer.get("publications", [])]
    return [push["pub"]["data"]["n"]] if "pub" in push else []


@pytest.mark.parametrize("name", SIZES)
def test_endpoints_get_all_of_it(late: Late, name: str) -> None:
    query = urlencode({"name": name, "since": f"{late.epochs[name]}:0"})
    with connect(late.server.url(f"/endpoint?{query}"), proxy=None) as socket:
        found = [json.loads(socket.recv(timeout=10)) for _ in range(late.filled[name] + 1)]
    assert found.pop() == {"recovered": True}
    assert late.is_all(name, [data["n"] for data in found])


@pytest.mark.parametrize("name", SIZES)
def test_our_python_client_gets_all_of_it(late: Late, name: str) -> None:
    async def main() -> list[int]:
        async with asyncio.timeout(20), Client(late.server.url("/connection/websocket")) as client:
            subscription = client.subscribe(f"long:{name}", since=Position(0, late.epochs[name]))
            return [(await anext(subscription)).data["n"] for _ in range(late.filled[name])]

    assert late.is_all(name, asyncio.run(main()))


@pytest.mark.parametrize("name", SIZES)
def test_our_client_for_pages_gets_all_of_it(late: Late, name: str) -> None:
    body = """
        const { channel, since, count } = await told();
        const client = m.connect(url);
        const numbers = [];
        const subscription = client.subscribe(channel, ({ data }) => numbers.push(data.n), { since });
        subscription.on("subscribed", ({ wasRecovering, recovered }) => say([wasRecovering, recovered]));
        await until(() => numbers.length === count);
        say(numbers);
    """
    with script(late.server.url("/connection/websocket"), body) as running:
        since = {"offset": 0, "epoch": late.epochs[name]}
        running.tell({"channel": f"long:{name}", "since": since, "count": late.filled[name]})
        assert running.said() == [True, True]
        assert late.is_all(name, running.said())
