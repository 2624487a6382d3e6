"""Answers that grow word by word, the same on every tab, device and worker. `make example NAME=ask`.

No key is needed: the model is a list of words. Reload the page while it writes, open it twice, stop it from the other.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from fastapi import BackgroundTasks, FastAPI, Header, Response
from fastapi import Path as PathParameter
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from tidewire import AlreadyStreaming, ChannelOptions, Hub

TEXT = """the tide comes in and goes out and nobody waves at it but a boat that is late may still be told what it has
missed while every gull on the quay has an opinion and says so at length"""
Chat = Annotated[str, PathParameter(pattern="^[a-z0-9]{1,32}$")]

hub = Hub(os.environ.get("BROKER", "sqlite:///ask.db"), channels={"chat:*": ChannelOptions(history_size=1_000)})
app = FastAPI(title="Ask", lifespan=hub.lifespan)


class Question(BaseModel):
    text: Annotated[str, Field(min_length=1, max_length=500)]
    words: Annotated[int, Field(ge=1, le=5_000)] = 200


async def model(question: Question) -> AsyncIterator[str]:
    """Stands for any model: one word after the other."""
    choose = random.Random(question.text)
    for _ in range(question.words):
        await asyncio.sleep(0.02)
        yield choose.choice(TEXT.split()) + " "


async def answer(chat: str, question: Question) -> None:
    """The text is the channel's: the request that asked for it may be over, and its browser closed."""
    for _ in range(600):
        with suppress(AlreadyStreaming):
            async with hub.stream(f"chat:{chat}") as out:
                await out.write(f"{question.text}\n")  # the first line, so that every tab shows it
                async for word in model(question):
                    await out.write(word)
            return
        await asyncio.sleep(0.2)  # the answer before it goes on; that of a worker that died is ended within 15 s


@app.post("/ask/{chat}", status_code=202)
async def ask(chat: Chat, question: Question, tasks: BackgroundTasks) -> None:
    tasks.add_task(answer, chat, question)


@app.delete("/ask/{chat}", status_code=204)
async def stop(chat: Chat) -> None:
    """From any tab: the answer ends, on any worker."""
    await hub.stop_stream(f"chat:{chat}")


@app.get("/ask/{chat}")
async def read(chat: Chat, last_event_id: Annotated[str | None, Header()] = None) -> Response:
    return await hub.stream_events(f"chat:{chat}", since=last_event_id)


app.include_router(hub.client_router())
app.mount("/", StaticFiles(directory=Path(__file__).parent / "page", html=True))
