"""An application for `useChat`: the question is how many words the answer has."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from fastapi import FastAPI, Response
from fastapi.staticfiles import StaticFiles

from tidewire import Hub

hub = Hub(os.environ["TIDEWIRE_TEST_STORE"])
app = FastAPI(lifespan=hub.lifespan)
app.include_router(hub.client_router())


async def answer(chat: str, count: int) -> None:
    async with hub.stream(f"chat:{chat}") as out:
        for n in range(count):
            await out.write(f"word{n} ")
            await asyncio.sleep(0.02)


@app.post("/api/chat")
async def ask(body: dict[str, Any]) -> Response:
    question = body["messages"][-1]["parts"][0]["text"]
    return await hub.stream_ui(f"chat:{body['id']}", answer(body["id"], int(question)))


@app.get("/api/chat/{chat}/stream")
async def resume(chat: str) -> Response:
    return await hub.stream_ui(f"chat:{chat}", ended=True)


@app.delete("/api/chat/{chat}/stream", status_code=204)
async def stop(chat: str) -> None:
    await hub.stop_stream(f"chat:{chat}")


if "TIDEWIRE_TEST_PAGE" in os.environ:
    app.mount("/", StaticFiles(directory=os.environ["TIDEWIRE_TEST_PAGE"], html=True))
