"""What a failure of the test kit advises: a message that nearly came, a verb of another client, a handler at work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket

from tidewire import RECOVERABLE, Hub
from tidewire.errors import TidewireError
from tidewire.testing import CommandRefused, Realtime

RELEASED = threading.Event()


def make() -> FastAPI:
    hub = Hub()
    app = FastAPI(lifespan=hub.lifespan)

    @app.websocket("/ws/{user}")
    async def chat(websocket: WebSocket, user: str) -> None:
        async with hub.connect(websocket, user=user, protocol=RECOVERABLE) as connection:
            await connection.subscribe("lobby")
            async for text in connection.iter_text():
                await connection.publish("lobby", text)
                if text == "think":
                    await asyncio.Event().wait()  # for ever

    @hub.channel("room:{room}")
    async def room(room: str) -> bool:
        return True

    @room.on_publish
    async def said(data: Any) -> Any:
        await asyncio.Event().wait()

    @hub.rpc("wait")
    def wait(data: str) -> str:
        RELEASED.wait(60)
        return data

    app.include_router(hub.client_router())
    return app


def failure(act: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(AssertionError) as failed:
        act(*args, **kwargs)
    return str(failed.value)


def test_a_frame_is_shown_how_to_expect(realtime: Realtime) -> None:
    with realtime(make()) as rt:
        ann = rt.connect("/ws/ann")
        assert 'expect({"recovered": False, ...: ...})' in failure(ann.expect_nothing)
        ann.expect({"recovered": False, ...: ...})
        ann.send("hello")
        assert "write expect({\"data\": 'hello', ...: ...})" in failure(ann.expect, "hello", within=0.05)
        ann.expect({"data": "hello", ...: ...})


def test_what_nearly_came_is_named(realtime: Realtime) -> None:
    with realtime(make()) as rt:
        bob = rt.subscriber("room:1", user="bob")
        rt.publish("room:1", {"text": "hello", "by": "ann"})
        assert "it came with further keys; `...: ...`" in failure(bob.expect, {"text": "hello"}, within=0.05)
        assert "further keys" not in failure(bob.expect, {"text": "hallo"}, within=0.05)
        rt.publish("room:1", {"text": "again"})
        bob.expect({"text": "again"})
        assert "it came before a message" in failure(bob.expect, {"text": "hello", "by": "ann"}, within=0.05)
        assert "it came before" not in failure(bob.expect, {"text": "never"}, within=0.05)


def test_a_verb_of_the_other_client_names_the_way(realtime: Realtime) -> None:
    with realtime(make()) as rt:
        ann, bob = rt.connect("/ws/ann"), rt.subscriber("room:1", user="bob")
        for verb in ("expect_join", "expect_leave", "publish", "rpc", "history", "presence", "unsubscribe"):
            assert hasattr(bob, verb)
            with pytest.raises(AttributeError, match=rf"has no {verb}; .*rt\.subscriber"):
                getattr(ann, verb)
        with pytest.raises(AttributeError, match=r"no attribute 'send'; write publish\(data\)"):
            bob.send("hello")
        with pytest.raises(AttributeError, match=r"no attribute 'expects'$"):
            ann.expects("hello")
        with pytest.raises(CommandRefused, match=r"102 unknown channel; no pattern of `@hub.channel"):
            rt.subscriber("rooms:1")


def test_a_lost_client_and_an_endpoint_without_recovery_are_told(realtime: Realtime) -> None:
    with realtime(make()) as rt:
        ann = rt.connect("/ws/ann")
        ann.expect({"recovered": False, ...: ...})
        assert "leave recovered= out" in failure(ann.expect, {"text": "hello"}, recovered=True, within=0.1)
        ann.cut()
        with pytest.raises(TidewireError, match=r"; ann\.back\(\) connects it again$"):
            ann.send("hello")


def test_a_handler_that_still_works_is_named(realtime: Realtime) -> None:
    with realtime(make()) as rt:
        ann, idle = rt.connect("/ws/ann"), rt.connect("/ws/idle")
        bob = rt.subscriber("room:1", user="bob")
        assert "at work" not in failure(idle.expect, "hello", within=0.05)
        printed = failure(bob.publish, "hello")
        assert "still at work:\n    said, at test_advice.py:" in printed
        assert "await asyncio.Event().wait()" in printed
        assert "chat" not in printed.partition("at work")[2]
        carl = rt.subscriber("room:2", user="carl")
        printed = failure(carl.rpc, "wait", "x", within=0.1)  # in a thread
        assert "    wait, at test_advice.py:" in printed
        assert "RELEASED.wait(60)" in printed
        RELEASED.set()
        assert carl.rpc("wait", "y", within=30) == "y"
        ann.send("think")
        printed = failure(ann.expect, "an answer").partition("at work")[2]
        assert printed.count("chat, at test_advice.py:") == 1  # not that of the idle client


def test_a_text_that_python_takes_for_two_lines_is_one_message(realtime: Realtime) -> None:
    with realtime(make()) as rt:
        bob = rt.subscriber("room:1", user="bob")
        rt.publish("room:1", {"text": "one\u2028two\x85three"})
        bob.expect({"text": "one\u2028two\x85three"})
