"""Live logs: files and a process, as they grow, nothing lost while the server is down. `make example NAME=logs`.

LOGS=/var/log/app.log:/tmp/other.log names the files; COMMAND="vmstat 1" a process, whose output goes to a file first.
"""

import asyncio
import os
import re
import shlex
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel

from tidewire import Hub, Permissions, PublishError, SlowPolicy, StoreUnavailable

COMMAND = os.environ.get("COMMAND", "")
SPOOL = Path("process.log")
FILES = [Path(name) for name in os.environ.get("LOGS", "app.log").split(os.pathsep)] + ([SPOOL] if COMMAND else [])
LINE_BYTES = 4_096  # a longer one becomes several
LINES = 500  # at a time

Level = Literal["debug", "info", "warning", "error"]
LEVELS: dict[str, Level] = {
    "debug": "debug",
    "info": "info",
    "warn": "warning",
    "error": "error",
    "critical": "error",
    "fatal": "error",
}
LEVEL = re.compile(rf"\b({'|'.join(LEVELS)})(?:ing)?\b", re.IGNORECASE)
COLORS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

hub = Hub(os.environ.get("BROKER", "sqlite:///logs.db"))


class Place(BaseModel):
    """A place in a file: the file's number, by which another of the same name is told from it, and the byte."""

    inode: int = 0
    byte: int = 0


class Line(BaseModel):
    """One line, and the place behind it, from which reading goes on after a restart."""

    source: str
    text: str
    level: Level
    at: float
    end: Place


# A reader that cannot keep up is told how many lines were dropped, and stays.
@hub.channel("log:{source}", publishes=Line, history=2_000, slow=SlowPolicy.DROP)
async def readable(source: str) -> Permissions:
    return Permissions()


def read_lines(file: Path, place: Place) -> tuple[list[Line], Place]:
    """Read the whole lines behind a place; a file that was truncated or replaced is read from its beginning."""
    lines: list[Line] = []
    if not file.exists():
        return lines, place
    with file.open("rb") as opened:
        status = os.fstat(opened.fileno())
        if status.st_ino != place.inode or status.st_size < place.byte:
            place = Place(inode=status.st_ino)
        opened.seek(place.byte)
        while len(lines) < LINES:
            read = opened.readline(LINE_BYTES)
            if not read.endswith(b"\n") and len(read) < LINE_BYTES:
                break  # its end is not written yet
            place = Place(inode=place.inode, byte=place.byte + len(read))
            text = COLORS.sub("", read.decode(errors="replace")).rstrip("\r\n")
            found = LEVEL.search(text)
            level = LEVELS[found[1].lower()] if found else "info"
            lines.append(Line(source=file.name, text=text, level=level, at=time.time(), end=place))
    return lines, place


async def last_place(channel: str) -> Place:
    """Return the place behind the line that was published last, by this process or another."""
    kept = (await hub.history(channel, limit=1, reverse=True)).publications
    return Line.model_validate_json(kept[0].data).end if kept else Place()


async def tail(file: Path) -> None:
    """Publish each new line, again and again until it is kept; several workers publish a line once, by its key."""
    channel = f"log:{file.name}"
    place: Place | None = None
    while True:
        try:
            lines, place = await asyncio.to_thread(read_lines, file, place or await last_place(channel))
            for line in lines:
                key = f"{line.end.inode}:{line.end.byte}:{zlib.crc32(line.text.encode())}"
                await hub.publish(channel, line, key=key)
        except (PublishError, StoreUnavailable):
            place = None
        await asyncio.sleep(0.2)


async def run(command: str) -> None:
    """Run a process whose output goes to a file, so that a restart of the server loses nothing of it."""
    spool = await asyncio.to_thread(SPOOL.open, "ab")
    process = await asyncio.create_subprocess_exec(*shlex.split(command), stdout=spool, stderr=spool)
    try:
        await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with hub, asyncio.TaskGroup() as group:
        tasks = [group.create_task(tail(file)) for file in FILES]
        if COMMAND:
            tasks.append(group.create_task(run(COMMAND)))
        yield
        for task in tasks:
            task.cancel()


app = FastAPI(title="Logs", lifespan=lifespan)


@app.get("/sources")
async def sources() -> list[str]:
    return [file.name for file in FILES]


app.include_router(hub.client_router())
app.mount("/", StaticFiles(directory=Path(__file__).parent / "page", html=True))
