"""Text streams over HTTP: server-sent events that resume, and what the UI message stream says of each end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI, Header, Response
from starlette.responses import StreamingResponse

from helpers.hubs import run, serving
from tidewire import ChannelOptions, Hub, SlowPolicy
from tidewire.protocols.close_codes import SHUTDOWN
from tidewire.sessions import text_responses
from tidewire.testing import wait_until


def application(hub: Hub) -> FastAPI:
    app = FastAPI(lifespan=hub.lifespan)

    @app.get("/events")
    async def events(last_event_id: Annotated[str | None, Header()] = None) -> Response:
        return await hub.stream_events("chat:1", since=last_event_id)

    async def answer(words: int, fails: bool) -> None:
        async with hub.stream("chat:1") as out:
            for n in range(words):
                await out.write(f"{n} ")
                await asyncio.sleep(0.005)
            if fails:
                raise ZeroDivisionError

    @app.post("/ui")
    async def ask(words: int = 20, fails: bool = False) -> Response:
        return await hub.stream_ui("chat:1", answer(words, fails))

    @app.get("/ui")
    async def resume(ended: bool = False) -> Response:
        return await hub.stream_ui("chat:1", ended=ended)

    return app


@asynccontextmanager
async def open_client() -> AsyncIterator[tuple[Hub, httpx.AsyncClient]]:
    hub = Hub()
    async with serving(hub, application(hub)) as server:  # noqa: SIM117
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=10, trust_env=False) as client:
            yield hub, client


class Events:
    """The events of one response, until a chunk has an end or enough have come."""

    def __init__(self) -> None:
        self.place = ""
        self.text = ""
        self.count = 0

    async def read(self, client: httpx.AsyncClient, most: int = 10_000) -> Events:
        headers = {"Last-Event-ID": self.place} if self.place else {}
        async with client.stream("GET", "/events", headers=headers) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            return await self.take(response, most)

    async def take(self, response: httpx.Response, most: int = 10_000) -> Events:
        async for line in response.aiter_lines():
            if line.startswith("id: "):
                self.place = line[4:]
            elif line.startswith("data: "):
                chunk = json.loads(line[6:])
                self.text = chunk["text"] if chunk.get("at") == 0 else self.text + chunk["text"]
                self.count += 1
                if chunk.get("end") or self.count >= most:
                    return self
        raise AssertionError("the response has ended")


def test_an_event_source_resumes_where_it_was_and_a_late_one_begins_with_the_text_so_far() -> None:
    async def main() -> None:
        async with open_client() as (hub, client):
            whole = "".join(f"{n} " for n in range(200))

            async def produce() -> None:
                async with hub.stream("chat:1") as out:
                    for n in range(200):
                        await out.write(f"{n} ")
                        await asyncio.sleep(0.005)

            producing = asyncio.create_task(produce())
            cut = Events()
            await cut.read(client, most=4)
            await hub.publish("chat:1", {"text": "no chunk"})
            await cut.read(client)
            assert cut.text == whole
            late = await Events().read(client)
            assert (late.text, late.count) == (whole, 1)
            assert late.place == cut.place
            await producing

    run(main())


def test_a_text_that_began_before_many_other_publications_is_resumed_whole() -> None:
    """A page that came back to a busy chat was told that its connection had ended, each time."""

    async def main() -> None:
        async with open_client() as (hub, client):
            async with hub.stream("chat:1") as out:
                await out.write("the beginning")
                await wait_until(lambda: not out._unsent)
                for number in range(30):
                    await hub.publish("chat:1", {"number": number})
                await out.write(" and the end")
            response = await client.get("/ui?ended=true")
            assert "".join(part.get("delta", "") for part in parts(response.text)) == "the beginning and the end"
            assert (await Events().read(client)).text == "the beginning and the end"

    run(main())


def parts(body: str) -> list[Any]:
    found = [line[6:] for line in body.splitlines() if line.startswith("data: ")]
    assert found[-1] == "[DONE]"
    return [json.loads(one) for one in found[:-1]]


async def _return() -> None: ...


async def _end() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("answer", [_return, _end])
def test_an_answer_that_writes_nothing_ends_its_response(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page waited for ever."""
    monkeypatch.setattr(text_responses, "_LEFT", 0.1)

    async def main() -> None:
        hub = Hub()
        app = FastAPI(lifespan=hub.lifespan)

        @app.post("/ui")
        async def ask() -> Response:
            return await hub.stream_ui("chat:1", answer())

        async with serving(hub, app) as server, httpx.AsyncClient(timeout=20, trust_env=False) as client:
            response = await client.post(f"http://127.0.0.1:{server.port}/ui")
            assert parts(response.text) == [{"type": "error", "errorText": "there is no answer"}]

    run(main())


@pytest.mark.parametrize(("fails", "last"), [(False, ["text-end", "finish"]), (True, ["text-end", "error"])])
def test_an_answer_is_a_ui_message(fails: bool, last: list[str]) -> None:
    async def main() -> None:
        async with open_client() as (_, client):
            response = await client.post("/ui", params={"words": 30, "fails": fails})
            assert response.headers["x-vercel-ai-ui-message-stream"] == "v1"
            found = parts(response.text)
            kinds = [part["type"] for part in found]
            assert kinds[:2] == ["start", "text-start"]
            assert kinds[-2:] == last
            assert set(kinds[2:-2]) == {"text-delta"}
            assert "".join(part.get("delta", "") for part in found) == "".join(f"{n} " for n in range(30))
            assert (await client.get("/ui")).status_code == 204

    run(main())


def test_an_answer_goes_on_without_its_client_and_is_resumed() -> None:
    async def main() -> None:
        async with open_client() as (hub, client):
            async with client.stream("POST", "/ui", params={"words": 150}) as response:
                async for line in response.aiter_lines():
                    if "text-delta" in line:
                        break
            resumed = parts((await client.get("/ui")).text)
            assert "".join(part.get("delta", "") for part in resumed) == "".join(f"{n} " for n in range(150))
            assert (await hub.history("chat:1")).publications[-1].json()["end"] == "done"

    run(main())


def test_only_line_feeds_end_the_lines_of_a_response() -> None:
    """`httpx` ends lines where `str.splitlines` does, within a text that has such a character."""
    text = "one\u2028two\u2029three\x85four\n"

    async def main() -> None:
        async with open_client() as (hub, client):
            go = asyncio.Event()

            async def produce() -> None:
                async with hub.stream("chat:1") as out:
                    await out.write(text)
                    await go.wait()
                    await out.write(text)

            producing = asyncio.create_task(produce())
            await wait_until(lambda: hub.statistics().published == 2)
            async with client.stream("GET", "/events") as live, client.stream("GET", "/ui") as ui:
                go.set()
                await producing
                found, data = Events(), [line[6:] async for line in ui.aiter_lines() if line.startswith("data: ")]
                await found.take(live)
            assert found.text == 2 * text
            assert data.pop() == "[DONE]"
            assert "".join(json.loads(one).get("delta", "") for one in data) == 2 * text
            assert (await Events().read(client)).text.endswith(text)

    run(main())


def test_a_text_that_has_ended_is_a_response_where_that_is_asked_for() -> None:
    async def main() -> None:
        async with open_client() as (_, client):
            assert (await client.get("/ui", params={"ended": True})).status_code == 204
            for fails, last in ((False, "finish"), (True, "error")):
                asked = parts((await client.post("/ui", params={"words": 30, "fails": fails})).text)
                assert asked[-1]["type"] == last
                assert parts((await client.get("/ui", params={"ended": True})).text)[-1] == asked[-1]
                again = parts((await client.get("/ui", params={"ended": True})).text)
                assert again[0] == asked[0]  # the message has the same id
                assert "".join(part.get("delta", "") for part in again) == "".join(f"{n} " for n in range(30))
                assert (await client.get("/ui")).status_code == 204

    run(main())


@pytest.mark.parametrize("why", ["the server ends", "a hole"])
def test_a_message_that_is_cut_says_so(why: str) -> None:
    async def main() -> None:
        async with Hub() as hub, hub.stream("chat:1") as out:
            await out.write("half of ")
            await wait_until(lambda: hub.statistics().published == 2)
            response = await hub.stream_ui("chat:1")
            assert isinstance(response, StreamingResponse)
            if why == "a hole":
                await hub.publish("chat:1", {"stream": out.id, "text": "text", "at": 100})
            else:
                for connection in hub.node.registry.readers.values():
                    connection.end(SHUTDOWN)
            body = "".join([bytes(part).decode() async for part in response.body_iterator])
            assert [part["type"] for part in parts(body)] == ["start", "text-start", "text-delta", "error"]
            assert parts(body)[-1]["errorText"] == "the connection ended before the answer"

    run(main())


def test_an_answer_of_which_the_beginning_may_be_left_out_is_shown() -> None:
    async def main() -> None:
        async with Hub(channels={"chat:*": ChannelOptions(slow=SlowPolicy.LATEST)}) as hub:

            async def answer() -> None:
                await hub.publish("chat:1", "the question")  # it waits, and of the chunks behind it the newest is left
                await asyncio.sleep(0.05)
                async with hub.stream("chat:1") as out:
                    await out.write("all of it")

            await answer()
            response = await hub.stream_ui("chat:1", answer())
            assert isinstance(response, StreamingResponse)
            await wait_until(lambda: hub.statistics().published == 6)
            async with asyncio.timeout(10):
                body = "".join([bytes(part).decode() async for part in response.body_iterator])
            assert "".join(part.get("delta", "") for part in parts(body)) == "all of it"
            assert parts(body)[-1]["type"] == "finish"

    run(main())


def test_a_second_question_is_refused_and_a_stop_is_told() -> None:
    async def main() -> None:
        async with open_client() as (hub, client):
            first = asyncio.create_task(client.post("/ui", params={"words": 100_000}))
            await wait_until(lambda: hub.statistics().published >= 3)
            assert [part["type"] for part in parts((await client.post("/ui")).text)] == ["error"]
            await hub.stop_stream("chat:1")
            assert [part["type"] for part in parts((await first).text)][-2:] == ["text-end", "abort"]

    run(main())


@pytest.mark.parametrize("kind", ["events", "ui"])
def test_a_client_that_has_gone_before_the_response_begins_leaves_no_reader(kind: str) -> None:
    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        await asyncio.sleep(0.01)  # as a middleware does, which hands the message to another task

    async def answer() -> None:
        return None

    async def main() -> None:
        async with Hub() as hub:
            for _ in range(3):
                response = await (hub.stream_events("a") if kind == "events" else hub.stream_ui("a", answer()))
                await response({"type": "http", "asgi": {"spec_version": "2.3"}}, gone, send)
            assert not hub.node.registry.readers

    asyncio.run(main())
