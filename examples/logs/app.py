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

Level = Literal["debug", "info", "warning", "error"]
FILES = [Path(name) for name in os.environ.get("LOGS", "app.log").split(os.pathsep)]
COMMAND = os.environ.get("COMMAND", "")
SPOOL = Path("process.log")
LINE_BYTES = 4_096
COLORS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

hub = Hub(os.environ.get("BROKER", "memory://"))


class Line(BaseModel):
    """One line: where it stood, so that reading goes on behind it after a restart."""

    source: str
    text: str
    level: Level = "info"
    at: float
    inode: int
    end: int


# A reader that cannot keep up is told how many lines were dropped, and stays.
@hub.channel("log:{source}", publishes=Line, history=2_000, slow=SlowPolicy.DROP)
async def readable(source: str) -> Permissions:
    return Permissions()


def level_of(text: str) -> Level:
    found = re.search(r"\b(DEBUG|INFO|WARN(?:ING)?|ERROR|CRITICAL|FATAL)\b", text, re.IGNORECASE)
    name = found.group(1).lower() if found else "info"
    return "warning" if name.startswith("warn") else "error" if name in ("critical", "fatal") else name  # type: ignore


def read_lines(file: Path, inode: int, place: int) -> tuple[list[Line], int, int]:
    """Read the new whole lines; a file that was truncated or replaced is read from its beginning."""
    if not file.exists():
        return [], inode, place
    status = file.stat()
    if status.st_ino != inode or status.st_size < place:
        inode, place = status.st_ino, 0
    lines = []
    with file.open("rb") as opened:
        opened.seek(place)
        while len(lines) < 500 and ((line := opened.readline(LINE_BYTES)).endswith(b"\n") or len(line) == LINE_BYTES):
            place += len(line)
            text = COLORS.sub("", line.decode(errors="replace")).rstrip("\r\n")
            lines.append(
                Line(source=file.name, text=text, level=level_of(text), at=time.time(), inode=inode, end=place)
            )
    return lines, inode, place


async def tail(file: Path) -> None:
    """Publish each new line, again and again until it is kept; several workers publish a line once, by its key."""
    channel, inode, place, is_known = f"log:{file.name}", 0, 0, False
    while True:
        try:
            if not is_known:  # go on behind what was published last, also after a restart
                for last in (await hub.history(channel, limit=1, reverse=True)).publications:
                    line = Line.model_validate_json(last.data)
                    inode, place = line.inode, line.end
                is_known = True
            lines, inode, place = await asyncio.to_thread(read_lines, file, inode, place)
            for line in lines:
                key = f"{line.inode}:{line.end}:{zlib.crc32(line.text.encode())}"
                await hub.publish(channel, line, key=key)
        except (PublishError, StoreUnavailable):
            is_known = False
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
        files = [*FILES, SPOOL] if COMMAND else FILES
        tasks = [group.create_task(tail(file)) for file in files]
        tasks += [group.create_task(run(COMMAND))] if COMMAND else []
        yield
        for task in tasks:
            task.cancel()


app = FastAPI(title="Logs", lifespan=lifespan)


@app.get("/sources")
async def sources() -> list[str]:
    return [file.name for file in ([*FILES, SPOOL] if COMMAND else FILES)]


app.include_router(hub.client_router())
app.mount("/", StaticFiles(directory=Path(__file__).parent / "page", html=True))
