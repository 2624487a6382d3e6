"""Job progress: a program runs on the server, and its progress is in every browser that watches.

    tidewire run jobs:app

A browser that comes late, or comes back, is shown all steps from the history.
"""

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import msgspec
from fastapi import FastAPI, HTTPException, WebSocket
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from tidewire import ChannelOptions, Hub

PAGES = Path(__file__).parent / "pages"
MOST_JOBS = 4
#: Stands for any program that says how far it is: one JSON object a line.
PROGRAM = """
import hashlib, json, os
data = os.urandom(1 << 20)
for step in ("read", "hash", "verify"):
    for percent in range(0, 101, 10):
        for _ in range(20):
            data = hashlib.sha512(data).digest() * (1 << 14)
        status = "running" if percent < 100 else "done"
        print(json.dumps({"step": step, "progress": percent, "status": status}), flush=True)
"""

hub = Hub("sqlite:///jobs.db", channels={"job:*": ChannelOptions(history_size=1_000)})
running: dict[str, asyncio.Task[None]] = {}


async def run(job: str) -> None:
    """Run the program and publish each of its lines; it never outlives the application."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        async for line in process.stdout:
            await hub.publish(f"job:{job}", msgspec.json.decode(line))
        succeeded = await process.wait() == 0
        end = {"status": "finished", "progress": 100} if succeeded else {"status": "failed", "code": process.returncode}
        await hub.publish(f"job:{job}", end)
    except asyncio.CancelledError:
        await hub.publish(f"job:{job}", {"status": "failed", "reason": "the server was stopped"})
        raise
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        running.pop(job, None)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Own the jobs: they end with the application."""
    async with hub:
        yield
        jobs = list(running.values())
        for task in jobs:
            task.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)


app = FastAPI(lifespan=lifespan)


@app.post("/jobs", status_code=202)
async def start() -> dict[str, str]:
    """Start a job, and return its name."""
    if len(running) >= MOST_JOBS:
        raise HTTPException(429, f"{MOST_JOBS} jobs run already; wait until one has finished")
    job = uuid.uuid4().hex[:8]
    await hub.publish(f"job:{job}", {"step": "start", "progress": 100, "status": "done"})
    running[job] = asyncio.create_task(run(job))
    return {"job": job}


@app.websocket("/ws/{job}")
async def watch(websocket: WebSocket, job: Annotated[str, PathParameter(pattern="^[0-9a-f]{8}$")]) -> None:
    """Push what happened in a job so far, then what happens."""
    async with hub.connect(websocket) as connection:
        await connection.subscribe(f"job:{job}", history=1_000)
        await connection.wait_closed()


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """Serve the page."""
    return FileResponse(PAGES / "jobs.html")


app.mount("/pages", StaticFiles(directory=PAGES))
