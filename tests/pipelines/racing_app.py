"""An application in which something happens to a run between reading its past and following it, each time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from tidewire import Hub
from tidewire.messages import HistoryPage
from tidewire.pipelines import Job, Pipelines, pipeline, router

progress = 0


class RacingHub(Hub):
    """Publishes one more event after each look at the past of a run."""

    async def history(self, channel: str, **options: Any) -> HistoryPage:
        page = await super().history(channel, **options)
        if jobs:
            global progress
            progress += 1
            await jobs[0].progress(progress / 100)
            async with asyncio.timeout(10):
                while (await super().history(channel, limit=1, reverse=True)).top == page.top:
                    await asyncio.sleep(0.01)
        return page


jobs: list[Job] = []
done = asyncio.Event()


@pipeline("racing")
async def racing(job: Job) -> None:
    """Wait until enough viewers have come."""
    jobs.append(job)
    await done.wait()
    jobs.clear()


hub = RacingHub("memory://")
pipelines = Pipelines(hub, Path("runs"), [racing])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open both."""
    async with hub, pipelines:
        yield


app = FastAPI(lifespan=lifespan)
app.include_router(router(pipelines), prefix="/api/pipelines")


@app.post("/done")
async def end() -> None:
    """Let the run end."""
    done.set()
