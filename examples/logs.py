"""Live logs: whatever is appended to app.log is in the browser at once, with what came before.

    tidewire run logs:app --workers 2
    echo "hello from a shell" >> app.log

Each worker follows the file, and each line is published once all the same: its place in the file is its key.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, WebSocket
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from tidewire import ChannelOptions, Hub, PublishError, SlowPolicy

PAGES = Path(__file__).parent / "pages"
FILE = Path("app.log")
LINE_BYTES = 4_096

#: A reader who cannot follow is told how many lines were dropped, and stays.
hub = Hub("sqlite:///logs.db", channels={"log": ChannelOptions(history_size=500, slow=SlowPolicy.DROP)})


class Tail:
    """What is appended to a file; one that was truncated or replaced is read from its beginning."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._inode, self._place = 0, 0
        if file.exists():
            self._inode = file.stat().st_ino
            # behind the last whole line, so that a half one is published whole
            self._place = file.read_bytes().rfind(b"\n") + 1

    def read(self) -> list[tuple[str, str]]:
        """Return the new whole lines, each with a key that is the same in every worker."""
        if not self._file.exists():
            return []
        status = self._file.stat()
        if status.st_ino != self._inode or status.st_size < self._place:
            self._inode, self._place = status.st_ino, 0
        lines = []
        with self._file.open("rb") as opened:
            opened.seek(self._place)
            while (line := opened.readline(LINE_BYTES)).endswith(b"\n") or len(line) == LINE_BYTES:
                # the text is in the key too: after a truncation another line may stand at the same place
                key = f"{self._inode}:{self._place}:{zlib.crc32(line)}"
                lines.append((key, line.decode(errors="replace").rstrip("\r\n")))
                self._place += len(line)
        return lines


async def follow(tail: Tail) -> None:
    """Publish each new line, again and again until it is kept: its key makes that harmless."""
    while True:
        for key, text in await asyncio.to_thread(tail.read):
            while True:
                try:
                    await hub.publish("log", text, key=key)
                    break
                except PublishError:
                    await asyncio.sleep(1)
        await asyncio.sleep(0.2)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Follow the file for as long as the application runs."""
    async with hub, asyncio.TaskGroup() as group:
        following = group.create_task(follow(Tail(FILE)))
        yield
        following.cancel()


app = FastAPI(lifespan=lifespan)


@app.websocket("/ws")
async def read(websocket: WebSocket) -> None:
    """Push the newest lines, then each new one."""
    async with hub.connect(websocket) as connection:
        await connection.subscribe("log", history=200)
        await connection.wait_closed()


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """Serve the page."""
    return FileResponse(PAGES / "logs.html")


app.mount("/pages", StaticFiles(directory=PAGES))
