"""Work half done when an endpoint fails is rolled back: exceptions of the block go on, as in plain Starlette."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import Depends, HTTPException, WebSocket, WebSocketException
from starlette.websockets import WebSocketDisconnect

from helpers.hubs import application, code_of, receive, run, serving
from tidewire import BadRequest, Hub, NotPublished, StoreUnavailable
from tidewire import ConnectionClosed as Ended
from tidewire.links.uvicorn import WebSocketProtocol
from tidewire.testing import wait_until

SERVERS = [WebSocketProtocol, "websockets-sansio", "hypercorn"]


class Work:
    """A database session of an application, and what became of it."""

    def __init__(self) -> None:
        self.outcome = ""

    async def __call__(self) -> AsyncIterator[Work]:
        try:
            yield self
        except BaseException as error:
            self.outcome = f"rolled back: {type(error).__name__}"
            raise
        else:
            self.outcome = "committed"


class Broken(Exception):
    """A mistake of an application."""


async def outcome(ws: Any, error: BaseException, handle: Callable[..., Any] | None = None) -> tuple[str, int, bool]:
    """Return what becomes of the work when the block raises, the client's code, and whether code behind it ran."""
    hub, work, ran = Hub(), Work(), []

    async def endpoint(websocket: WebSocket, session: Any = Depends(work)) -> None:
        async with hub.connect(websocket, user="ann") as connection:
            await connection.subscribe("room", leave="gone", leave_on_error="failed")
            await connection.send_text("last words")
            await connection.receive_text()
            raise error
        ran.append(True)  # type: ignore[unreachable]

    app = application(hub, endpoint)
    if handle is not None:
        app.add_exception_handler(type(error), handle)
    async with serving(hub, app, ws=ws) as running:
        async with running.open() as client:
            assert await receive(client) == "last words"
            await client.send("go")
            code = await code_of(client)
            await wait_until(lambda: work.outcome)
        assert not await hub.is_online("ann")
    return work.outcome, code, bool(ran)


@pytest.mark.parametrize("ws", SERVERS)
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Broken(), 1011),
        (HTTPException(404), 1011),
        (WebSocketException(4401, "log in"), 4401),
        (StoreUnavailable("the disk is away"), 1013),
        (NotPublished("the disk is full"), 1013),
        (BadRequest("a number was expected"), 1008),
        (TimeoutError(), 1011),
        (ExceptionGroup("", [WebSocketException(4401), Ended.__new__(Ended)]), 4401),
        (ExceptionGroup("", [Broken(), WebSocketDisconnect()]), 1011),
        (ExceptionGroup("", [Broken(), WebSocketException(4401)]), 4401),
        (ExceptionGroup("", [ExceptionGroup("", [NotPublished("full")]), WebSocketDisconnect()]), 1013),
    ],
)
def test_what_the_block_raises_goes_on(ws: Any, error: Exception, code: int) -> None:
    async def main() -> None:
        found = await outcome(ws, error)
        assert found[0].startswith("rolled back")
        assert found[1:] == (code, False)

    run(main())


@pytest.mark.parametrize("ws", SERVERS)
def test_a_handler_of_the_application_answers_as_without_a_hub(ws: Any) -> None:
    async def handle(websocket: WebSocket, error: Exception) -> None:
        await websocket.close(4999, "handled")

    async def main() -> None:
        assert await outcome(ws, Broken(), handle) == ("rolled back: Broken", 4999, False)

    run(main())


@pytest.mark.parametrize("ws", SERVERS)
@pytest.mark.parametrize("error", [WebSocketDisconnect(1000), ExceptionGroup("", [WebSocketDisconnect(1000)])])
def test_a_client_that_left_is_no_error(ws: Any, error: Exception) -> None:
    async def main() -> None:
        assert await outcome(ws, error) == ("committed", 1000, True)

    run(main())


@pytest.mark.parametrize("ws", SERVERS)
def test_an_ordinary_leave_inside_a_task_group_is_not_logged(ws: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        hub, work, ran = Hub(), Work(), asyncio.Event()

        async def endpoint(websocket: WebSocket, session: Any = Depends(work)) -> None:
            async with hub.connect(websocket) as connection, asyncio.TaskGroup() as group:

                async def listen() -> None:
                    while True:
                        await connection.receive_text()

                async def send() -> None:
                    while True:
                        await connection.send_text("tick")
                        await asyncio.sleep(0.01)

                group.create_task(listen())
                group.create_task(send())
            ran.set()

        async with serving(hub, endpoint, ws=ws) as running:
            async with running.open() as client:
                assert await receive(client) == "tick"
            async with asyncio.timeout(20):
                await ran.wait()
            await wait_until(lambda: work.outcome)
        assert work.outcome == "committed"

    with caplog.at_level(logging.ERROR):
        run(main())
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_the_end_of_another_connection_is_no_leave_of_this_one() -> None:
    async def main() -> None:
        hub, work, others = Hub(), Work(), []

        async def endpoint(websocket: WebSocket, session: Any = Depends(work)) -> None:
            async with hub.connect(websocket) as connection:
                await connection.send_text("in")
                if others:
                    await others[0].send_text("to one that has gone")
                others.append(connection)
                await connection.wait_closed()

        async with serving(hub, endpoint) as running:
            async with running.open() as client:
                assert await receive(client) == "in"
            await wait_until(lambda: work.outcome)
            async with running.open() as client:
                assert await receive(client) == "in"
                assert await code_of(client) == 1011
            await wait_until(lambda: work.outcome == "rolled back: ConnectionClosed")

    run(main())


@pytest.mark.parametrize("ws", SERVERS)
def test_the_websocket_itself_has_no_second_reader_and_no_second_writer(ws: Any) -> None:
    async def main() -> None:
        hub, errors = Hub(), []

        async def endpoint(websocket: WebSocket) -> None:
            async with hub.connect(websocket) as connection:
                for use in (
                    websocket.receive,
                    websocket.receive_text,
                    websocket.receive_bytes,
                    websocket.receive_json,
                    lambda: websocket.send_text("x"),
                    lambda: websocket.send_json({}),
                    websocket.close,
                ):
                    try:
                        await use()
                    except RuntimeError as error:
                        errors.append(error)
                await connection.send_text("still here")
                await connection.receive_text()

        async with serving(hub, endpoint, ws=ws) as running, running.open() as client:
            assert await receive(client) == "still here"
            assert len(errors) == 7
            await client.send("go")
            assert await code_of(client) == 1000

    run(main())


def test_a_refusal_of_a_client_that_has_left_is_rolled_back_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        hub, work = Hub(), Work()

        async def endpoint(websocket: WebSocket, session: Any = Depends(work)) -> None:
            async with hub.connect(websocket) as connection:
                await connection.send_text("in")
                await connection.wait_closed()
                raise WebSocketException(4401)

        async with serving(hub, endpoint) as running:
            async with running.open() as client:
                assert await receive(client) == "in"
            await wait_until(lambda: work.outcome)
        assert work.outcome == "rolled back: WebSocketException"

    with caplog.at_level(logging.ERROR):
        run(main())
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
