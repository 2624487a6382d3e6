"""An application that answers word by word, two hundred a second."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated, Any

from fastapi import BackgroundTasks, FastAPI, Header, Response

from tidewire import Hub

hub = Hub(os.environ["STORE"])
app = FastAPI(lifespan=hub.lifespan)
RATE = 200


@hub.channel("answer", history=2_000)
async def answer_rule() -> bool:
    return True


async def answer(words: int) -> None:
    loop = asyncio.get_running_loop()
    begin = loop.time()
    async with hub.stream("answer") as out:
        for n in range(words):
            await out.write(f"word{n} ")
            await asyncio.sleep(max(0.0, begin + n / RATE - loop.time()))


@app.post("/answer")
async def ask(words: int, tasks: BackgroundTasks) -> int:
    tasks.add_task(answer, words)
    return os.getpid()


@app.get("/answer")
async def read(last_event_id: Annotated[str | None, Header()] = None) -> Response:
    return await hub.stream_events("answer", since=last_event_id)


@app.get("/kept")
async def kept() -> dict[str, Any]:
    page = await hub.history("answer")
    return {"count": page.top.offset, "late": [publication.json() for publication in page.publications]}


app.include_router(hub.client_router())
