"""Both programs of each door run: what people have, where its package installs, and what they get."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

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
    "django-channels": ("channels",),
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
    await rt.http.post("/notify?text=hello")
    await rt.http.post("/notify?text=again")
    first = (await rt.hub.history("news", limit=1)).publications[0]
    # the endless answer itself is read by the browser's EventSource in the tests of docs/howto/listen.md
    async with rt.hub.listen("news", since=f"{first.offset}.{first.epoch}") as news:
        assert news is not None


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
    assert answer == {"now": 1, "messages": ['{"text":"hello"}']}
    assert (await rt.http.get("/messages?since=1")).json()["messages"] == []


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


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_before_runs(name: str, tmp_path: Path, python: Callable[[str], Path]) -> None:
    interpreter = python(name)
    (tmp_path / "before.py").write_text(program(name, "py"))
    environment = {"APP_ID": "1", "KEY": "a", "SECRET": "b", "PATH": "/usr/bin:/bin"}
    if name == "django-channels":
        code = "from django.conf import settings; settings.configure(); import before; print(before.ChatConsumer)"
        subprocess.run([interpreter, "-c", code], cwd=tmp_path, env=environment, check=True, timeout=60)
        return
    port = free_port()
    command = [interpreter, "-m", "uvicorn", "before:app", "--port", str(port), "--log-level", "warning"]
    server = subprocess.Popen(command, cwd=tmp_path, env=environment)
    try:
        _talk(name, port, server)
    finally:
        server.terminate()
        server.wait(20)


def _talk(name: str, port: int, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 40
    while True:
        assert server.poll() is None
        assert time.monotonic() < end
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/nothing", timeout=2)
        except urllib.error.HTTPError:
            break
        except OSError:
            time.sleep(0.1)
    if name in ("broadcaster", "connection-manager", "litestar"):
        address = f"ws://127.0.0.1:{port}/ws"
        with connect(f"{address}/1", proxy=None) as first, connect(f"{address}/2", proxy=None) as second:
            time.sleep(0.5)  # these cannot tell when a client is subscribed
            second.send("hello")
            assert first.recv(10) == "Client #2 says: hello"
    elif name == "polling":
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/messages?text=hi", method="POST"))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/messages") as answer:
            assert json.load(answer)["messages"] == ["hi"]
