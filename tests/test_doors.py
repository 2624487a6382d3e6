"""Both programs of each door run: what people have, where its package installs, and what they get."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from websockets.sync.client import connect

from contract.serving import free_port
from tidewire.testing import CommandRefused, Realtime, World

DOORS = Path(__file__).parents[1] / "docs" / "doors"
NAMES = sorted(path.stem for path in DOORS.glob("*.md") if path.stem != "README")
#: What each "before" needs beside FastAPI and uvicorn.
PACKAGES = {
    "broadcaster": ("broadcaster", "anyio"),
    "connection-manager": (),
    "django-channels": ("channels", "daphne"),
    "fastapi-websocket-pubsub": ("fastapi-websocket-pubsub",),
    "litestar": ("litestar",),
    "polling": (),
    "pusher": ("pusher", "python-multipart"),
    "socketio": ("python-socketio",),
    "sse": ("sse-starlette",),
}


def program(name: str, language: str) -> str:
    found: str = re.findall(rf"^```{language}\n(.*?)^```", (DOORS / f"{name}.md").read_text(), re.M | re.S)[0]
    return found


def test_every_door_has_all_parts() -> None:
    assert set(PACKAGES) == set(NAMES)
    listed = (DOORS / "README.md").read_text()
    for name in NAMES:
        text = (DOORS / f"{name}.md").read_text()
        heads = re.findall(r"^## (.*)$", text, re.M)
        assert heads == ["What breaks there", "Before", "After", "The names", "What we do not have"], name
        assert "https://github.com/" in text.partition("## Before")[0], f"{name} names no public report"
        assert f"]({name}.md)" in listed


@pytest.fixture
def application(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The application of an "after", as a module of its own."""
    monkeypatch.chdir(tmp_path)
    module = ModuleType("door_application")
    sys.modules["door_application"] = module
    exec(compile(program(request.param, "python"), request.param, "exec"), module.__dict__)
    yield module.__dict__["app"]
    del sys.modules["door_application"]


async def _chat(rt: World) -> None:
    first, second = await rt.connect("/ws/1"), await rt.connect("/ws/2")
    await second.send("hello")
    for client in (first, second):
        await client.expect("Client #2 says: hello")
    second.cut()
    await first.expect("Client #2 left the chat")


async def _socketio(rt: World) -> None:
    ann = await rt.subscriber("room:1", path="/connection/websocket", params={"user": "ann"}, name="ann")
    bob = await rt.subscriber("room:1", user="bob")
    await ann.publish({"text": "hello"})
    await bob.expect({"user": "ann", "text": "hello"})
    with pytest.raises(CommandRefused):
        await rt.subscriber("room:1", path="/connection/websocket")


async def _pubsub(rt: World) -> None:
    reader = await rt.subscriber("news", path="/connection/websocket")
    await rt.http.post("/trigger")
    await reader.expect({"text": "hello"})


async def _sse(rt: World) -> None:
    """Its route answers for ever, and is read by a real client below."""
    for text in ("hello", "again"):
        await rt.http.post(f"/notify?text={text}")
    assert len((await rt.hub.history("news")).publications) == 2


async def _pusher(rt: World) -> None:
    reader = await rt.subscriber("orders", path="/connection/websocket", cookies={"session": "ann"}, name="ann")
    await rt.http.post("/orders/7")
    await reader.expect({"type": "created", "number": 7})
    with pytest.raises(CommandRefused):
        await rt.subscriber("orders", path="/connection/websocket")


async def _polling(rt: World) -> None:
    reader = await rt.subscriber("messages")
    await rt.http.post("/messages?text=hello")
    await reader.expect({"text": "hello"})
    answer = (await rt.http.get("/messages")).json()
    assert answer["messages"] == [{"text": "hello"}]
    await rt.http.post("/messages?text=again")
    since = {"since": answer["now"]}
    assert (await rt.http.get("/messages", params=since)).json()["messages"] == [{"text": "again"}]


AFTER: dict[str, Callable[[World], Coroutine[Any, Any, None]]] = {
    "broadcaster": _chat,
    "connection-manager": _chat,
    "django-channels": _chat,
    "litestar": _chat,
    "fastapi-websocket-pubsub": _pubsub,
    "polling": _polling,
    "pusher": _pusher,
    "socketio": _socketio,
    "sse": _sse,
}


@pytest.mark.parametrize(("application", "name"), [(name, name) for name in NAMES], indirect=["application"])
def test_an_after_runs(application: Any, name: str, realtime: Realtime) -> None:
    async def test() -> None:
        async with realtime(application) as rt:
            await AFTER[name](rt)

    asyncio.run(test())


def test_the_after_of_events_goes_on_where_a_reader_was(tmp_path: Path) -> None:
    (tmp_path / "after.py").write_text(program("sse", "python"))
    with running([Path(sys.executable), "-m", "tidewire", "run", "after:app", "--port"], tmp_path, {}) as url:
        post(f"{url}/notify?text=before")
        with EventReader(f"{url}/events") as reader:
            assert reader.next().data == {"text": "before"}
            post(f"{url}/notify?text=live")
            last = reader.next()
            assert last.data == {"text": "live"}
        for text in ("missed", "too"):
            post(f"{url}/notify?text={text}")
        with EventReader(f"{url}/events", last.id) as reader:
            assert [reader.next().data["text"] for _ in range(2)] == ["missed", "too"]


class Received(NamedTuple):
    """A server-sent event."""

    id: str
    data: Any


class EventReader:
    """Reads server-sent events as a browser does."""

    def __init__(self, url: str, last: str = "") -> None:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
        self._answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10)

    def __enter__(self) -> EventReader:
        return self

    def __exit__(self, *error: object) -> None:
        self._answer.close()

    def next(self) -> Received:
        """Wait for the next event that has data."""
        fields: dict[str, str] = {}
        while "data" not in fields:
            fields = {}
            while (line := self._answer.readline().decode().strip()) or not fields:
                name, _, value = line.partition(": ")
                fields |= {name: value} if name else {}
        data = fields["data"]
        return Received(fields.get("id", ""), json.loads(data) if data.startswith("{") else data)


def post(url: str, form: bytes = b"") -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, form, method="POST"), timeout=10) as answer:
        content: bytes = answer.read()
    return content


@contextlib.contextmanager
def running(command: list[Any], folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """Run a server, whose command ends with the option of its port; gives its URL."""
    port = free_port()
    server = subprocess.Popen([*command, str(port)], cwd=folder, env=os.environ | environment)
    end = time.monotonic() + 40
    try:
        while True:
            assert server.poll() is None
            assert time.monotonic() < end
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/nothing", timeout=2)
            except urllib.error.HTTPError:
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that makes an environment with what a "before" needs."""

    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        wanted = ["fastapi", "uvicorn", "websockets", "httpx", *PACKAGES[name]]
        command = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
        if subprocess.run(command, capture_output=True, timeout=300).returncode:
            pytest.skip(f"{PACKAGES[name]} does not install here")
        return folder / "bin" / "python"

    return make


_DJANGO = """
import asyncio
from django.conf import settings
settings.configure(CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}})
from channels.testing import WebsocketCommunicator
from before import ChatConsumer

async def main():
    clients = []
    for number in (1, 2):
        client = WebsocketCommunicator(ChatConsumer.as_asgi(), "/")
        client.scope["url_route"] = {"kwargs": {"client_id": number}}
        assert (await client.connect())[0]
        clients.append(client)
    await clients[1].send_to(text_data="hello")
    assert await clients[0].receive_from() == "Client #2 says: hello"
    for client in clients:
        await client.disconnect()

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_before_runs(name: str, tmp_path: Path, python: Callable[[str], Path]) -> None:
    interpreter = python(name)
    (tmp_path / "before.py").write_text(program(name, "py"))
    environment = {"APP_ID": "1", "KEY": "a", "SECRET": "b", "PATH": "/usr/bin:/bin"}
    if name == "django-channels":
        subprocess.run([interpreter, "-c", _DJANGO], cwd=tmp_path, env=environment, check=True, timeout=60)
        return
    command = [interpreter, "-m", "uvicorn", "before:app", "--log-level", "warning", "--port"]
    with running(command, tmp_path, environment) as url:
        BEFORE[name](url)


def _lobby(url: str) -> None:
    address = url.replace("http", "ws") + "/ws"
    with connect(f"{address}/1", proxy=None) as first, connect(f"{address}/2", proxy=None) as second:
        time.sleep(0.5)  # these cannot tell when a client is subscribed
        second.send("hello")
        assert first.recv(10) == "Client #2 says: hello"


def _polled(url: str) -> None:
    post(f"{url}/messages?text=hi")
    with urllib.request.urlopen(f"{url}/messages") as answer:
        assert json.load(answer)["messages"] == ["hi"]


def _rpc_over_socket(url: str) -> None:
    with connect(url.replace("http", "ws") + "/pubsub", proxy=None) as reader:
        call = {"method": "subscribe", "arguments": {"topics": ["news"]}, "call_id": "1"}
        reader.send(json.dumps({"request": call}))
        while "response" not in json.loads(reader.recv(10)):
            pass
        with ThreadPoolExecutor() as pool:
            triggered = pool.submit(post, f"{url}/trigger")  # it waits until every reader has answered
            while not (call := json.loads(reader.recv(10)).get("request")):
                pass
            assert (call["method"], call["arguments"]["data"]) == ("notify", {"text": "hello"})
            answer = {"result": True, "result_type": "bool", "call_id": call["call_id"]}
            reader.send(json.dumps({"response": answer}))
            triggered.result(10)


def _signed(url: str) -> None:
    answer = json.loads(post(f"{url}/pusher/auth", b"channel_name=private-orders&socket_id=1.2"))
    assert answer["auth"].startswith("a:")  # by the key; what is published goes to the service itself


def _streamed(url: str) -> None:
    with EventReader(f"{url}/events") as reader:
        time.sleep(0.5)  # it cannot tell when a reader is there
        post(f"{url}/notify?text=hello")
        assert reader.next().data == "hello"


def _engine(url: str) -> None:
    address = url.replace("http", "ws") + "/socket.io/?EIO=4&transport=websocket"
    with connect(address, proxy=None) as ann:
        assert str(ann.recv(10)).startswith("0{")
        ann.send('40{"user":"ann"}')
        assert str(ann.recv(10)).startswith("40{")
        ann.send('42["join","tea"]')
        ann.send('42["chat",{"room":"tea","text":"hello"}]')
        assert json.loads(str(ann.recv(10))[2:]) == ["chat", {"user": "ann", "text": "hello"}]


BEFORE: dict[str, Callable[[str], None]] = {
    "broadcaster": _lobby,
    "connection-manager": _lobby,
    "litestar": _lobby,
    "polling": _polled,
    "fastapi-websocket-pubsub": _rpc_over_socket,
    "pusher": _signed,
    "sse": _streamed,
    "socketio": _engine,
}
