"""Every example, in process, with the test kit."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tidewire.testing import CommandRefused, Realtime

Load = Callable[..., ModuleType]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


async def until(condition: Callable[[], Any], settle: Callable[[], Coroutine[Any, Any, None]]) -> Any:
    for _ in range(500):
        await settle()
        if found := condition():
            return found
        await asyncio.sleep(0.01)
    raise AssertionError("not in time")


def test_chat(load: Load, realtime: Realtime) -> None:
    app = load("chat").app

    async def test() -> None:
        async with realtime(app, workers=2) as rt:
            await rt.http.post("/login", json={"name": "ann"})
            assert (await rt.http.get("/me")).json() == {"name": "ann"}
            cookies = {"session": rt.http.cookies["session"]}
            ann = await rt.subscriber("room:harbour", path="/connection/websocket", cookies=cookies, name="ann")
            bob = await rt.subscriber("room:harbour", "typing:harbour", user="bob")
            await ann.expect_join("bob")
            await ann.publish({"text": "  hello "})
            await bob.expect({"text": "hello", "user": "ann", "at": ...})
            bob.cut()
            await ann.publish({"text": "while you were away"})
            await bob.back()
            await bob.expect({"text": "while you were away", ...: ...}, recovered=True)
            assert await bob.rpc("rooms", ["harbour", "kitchen"]) == {"harbour": 2, "kitchen": 0}
            await bob.publish({}, channel="typing:harbour")
            await bob.expect({"user": "bob"}, channel="typing:harbour")
            with pytest.raises(CommandRefused):
                await ann.publish({"text": "   "})
            with pytest.raises(CommandRefused, match="permission denied"):
                await rt.subscriber("room:harbour", path="/connection/websocket")
            assert [said["text"] for said in await bob.history()] == ["hello", "while you were away"]

    run(test)


def test_collab(load: Load, realtime: Realtime) -> None:
    app = load("collab").app

    async def test() -> None:
        stroke = {"color": "#0b7a75", "points": [[0, 0], [16_000, 5]]}
        pointer = {"at": [1, 2], "color": "#b23c17", "trail": [[0, 1], [1, 2]]}
        async with realtime(app, workers=2) as rt:
            ann = await rt.subscriber("board:main", user="ann")
            bob = await rt.subscriber("board:main", "cursors:main", user="bob")
            for _ in range(3):
                await ann.publish(stroke)
            for _ in range(3):
                await bob.expect({"kind": "stroke", "user": "ann", ...: ...})
            late = await rt.subscriber("board:main", user="carl")
            assert len(await late.history()) == 3
            await bob.publish(pointer, channel="cursors:main")
            await bob.expect({**pointer, "width": 60, "user": "bob"}, channel="cursors:main")
            with pytest.raises(CommandRefused):
                await ann.publish({"color": "red", "points": [[0, 0]]})
            with pytest.raises(CommandRefused):
                await ann.publish({"color": "#0b7a75", "points": [[16_001, 0]]})
            await ann.rpc("undo", "main")
            await late.expect({"kind": "undone", "user": "ann"})
            await bob.rpc("clear", "main")
            await ann.expect({"kind": "cleared", "user": "bob"})
            assert await late.history() == [{"kind": "cleared", "user": "bob"}]

    run(test)


def test_dashboard(load: Load, realtime: Realtime) -> None:
    app = load("dashboard").app

    async def test() -> None:
        async with realtime(app) as rt:
            viewer = await rt.subscriber("machine", "gold")
            await rt.advance(2)
            reading = await viewer.expect(lambda value: 0 <= value["cpu"] <= 100, channel="machine", within=5)
            assert abs(reading["at"] - time.time()) < 5
            await viewer.expect(lambda value: value["value"] > 100, channel="gold", within=5)
            with pytest.raises(CommandRefused):
                await viewer.publish({"at": 1}, channel="gold")

    run(test)


def test_notifications(load: Load, realtime: Realtime) -> None:
    app = load("notifications").app

    async def test() -> None:
        async with realtime(app) as rt:
            phone = await rt.subscriber("bell:ann", "seen:ann", user="ann", name="phone")
            desk = await rt.subscriber("bell:ann", "seen:ann", user="ann", name="desk")
            await rt.http.post("/notify/ann", json={"title": "hello"})
            await rt.http.post("/orders/ann", json={"item": "tea"})
            await rt.http.post("/export/ann")
            for device in (phone, desk):
                await device.expect({"title": "hello", ...: ...})
                await device.expect({"title": "Order 1: tea", "kind": "order", "at": ...})
                await device.expect({"title": "Your export is ready", ...: ...}, within=5)
            await phone.publish({"offset": 3}, channel="seen:ann")
            await desk.expect({"offset": 3}, channel="seen:ann")
            with pytest.raises(CommandRefused):
                await rt.subscriber("bell:ann", user="bob")
            assert (await rt.http.post("/notify/ann", json={"title": ""})).status_code == 422

    run(test)


def test_game(load: Load, realtime: Realtime, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("game")
    # Everybody enters in the middle: against a wall nobody would move.
    monkeypatch.setattr("random.uniform", lambda low, high: (low + high) / 2)

    async def test() -> None:
        async with realtime(module.app) as rt:
            ann = await rt.subscriber("arena", user="ann")
            await until(lambda: ann.received, rt.settle_briefly)
            await ann.publish({"dx": 1, "dy": 0, "at": 7}, channel="steering")
            first = await ann.expect(lambda picture: "ann" in picture["players"], within=5)
            moved = await ann.expect(lambda now: now["players"]["ann"]["x"] != first["players"]["ann"]["x"], within=5)
            assert moved["players"]["ann"]["at"] == 7
            assert not moved["players"]["ann"]["away"]
            ann.cut()
            await ann.back()
            again = await ann.expect(lambda picture: "ann" in picture["players"], within=5)
            assert again["tick"] > moved["tick"]
            with pytest.raises(CommandRefused):
                await ann.publish({"dx": 5, "dy": 0}, channel="steering")

    run(test)


def test_game_is_fair(load: Load) -> None:
    module = load("game", "arena")
    game, steer = module.Arena(), module.Steer
    game.steer("straight", steer(dx=0, dy=1), 0)
    game.steer("diagonal", steer(dx=1, dy=1), 0)
    for player in game.state.players.values():
        player.x = player.y = 500.0
    players = game.tick(0).players
    assert math.dist((500, 500), (players["diagonal"].x, players["diagonal"].y)) == pytest.approx(
        players["straight"].y - 500
    )
    assert game.tick(3).players["straight"].away
    game.steer("straight", steer(dx=0, dy=1), 3)
    assert not game.tick(3).players["straight"].away


def test_logs(load: Load, realtime: Realtime, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("logs")
    log = Path("app.log")
    rewrite = log.write_text
    rewrite("before\n")

    def append(text: str) -> None:
        with log.open("a") as file:
            file.write(text)

    async def test() -> None:
        async with realtime(module.app, workers=2) as rt:
            reader = await rt.subscriber("log:app.log", history=True)
            await reader.expect({"text": "before", "level": "info", ...: ...}, within=5)
            append("\x1b[31mERROR: the pump is hot\x1b[0m\nWarning: 4.1 bar\nhalf a li")
            await reader.expect({"text": "ERROR: the pump is hot", "level": "error", ...: ...}, within=5)
            await reader.expect({"text": "Warning: 4.1 bar", "level": "warning", ...: ...}, within=5)
            await rt.kill(0)
            append("ne\n")
            reader = reader if reader.disconnect is None else await rt.subscriber("log:app.log", history=True)
            await reader.expect({"text": "half a line", ...: ...}, within=5)
            await rt.start_worker()
            rewrite("new file\n")
            await reader.expect({"text": "new file", ...: ...}, within=5)
            texts = [message.value["text"] for message in reader.received]
            assert len(texts) == len(set(texts)), "each line once"

    run(test)


def test_jobs(load: Load, realtime: Realtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLOWLY", "0")
    app = load("jobs").app

    async def test() -> None:
        async with realtime(app) as rt:
            page = await rt.http.get("/jobs")
            assert '"/jobs/ui/js/pipelines/main.js"' in page.text
            assert '<meta name="tidewire-notices" content="">' in page.text, "no socket, which this application has not"
            for part in ("js/pipelines/main.js", "tidewire.js", "css/base.css", "icons.svg"):
                assert (await rt.http.get(f"/jobs/ui/{part}")).status_code == 200
            assert (await rt.http.get("/jobs/ui/../../worker.py")).status_code == 404
            upload = (await rt.http.post("/api/pipelines/uploads?name=a.txt", content=b"a rose is a rose")).json()
            body = {"pipeline": "words", "sample": "rose", "inputs": {"text": {"upload": upload["upload"]}}}
            run_id = (await rt.http.post("/api/pipelines/runs", json=body)).json()["run"]["id"]
            for _ in range(500):
                found = (await rt.http.get(f"/api/pipelines/runs/{run_id}")).json()["run"]
                if found["status"] not in ("queued", "running"):
                    break
                await asyncio.sleep(0.02)
            assert found["status"] == "finished", found
            results = (await rt.http.get(f"/api/pipelines/runs/{run_id}/results")).json()["results"]
            assert [(result["name"], result.get("show", False)) for result in results] == [
                ("report.html", True),
                ("words.csv", False),
            ]

    run(test)
