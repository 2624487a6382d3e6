"""A long text, twenty readers that come and go, and a killed worker: every text is the same, or a marked prefix."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import httpx
import pytest

from faults.serving import Store, store
from tidewire import Position
from tidewire.client import Client

from .serving import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

APP = Path(__file__).with_name("answering_app.py")
WORDS, READERS = 5_000, 20
WHOLE = "".join(f"word{n} " for n in range(WORDS))


class Reader(ABC):
    """Stays for a while, leaves, and comes back, where it was or from the beginning, until it has the end."""

    def __init__(self, server: Server) -> None:
        self.text = self.end = ""
        self.chunks = self.stays = 0
        self._server = server

    def _take(self, chunk: dict[str, Any]) -> None:
        self.chunks += 1
        if chunk.get("at") == 0:
            self.text = chunk["text"]
        else:
            assert chunk.get("at", len(self.text)) == len(self.text)
            self.text += chunk["text"]
        self.end = chunk.get("end", "")

    async def read(self) -> None:
        while not self.end:
            self.stays += 1
            with contextlib.suppress(TimeoutError, httpx.HTTPError):
                async with asyncio.timeout(random.uniform(0.5, 6.0)):
                    await self._stay()
            await asyncio.sleep(random.uniform(0.0, 0.5))

    @abstractmethod
    async def _stay(self) -> None:
        """Read on, and take each chunk, until the end of the text or of the connection."""


class OverWebSocket(Reader):
    async def _stay(self) -> None:
        async with Client(self._server.url("/connection/websocket")) as client:
            async for publication in client.subscribe("answer", since=Position(0, "")):
                self._take(publication.data)
                if self.end:
                    return


class OverEventSource(Reader):
    last_id = ""

    async def _stay(self) -> None:
        headers = {"last-event-id": self.last_id} if self.last_id else {}
        url = f"http://127.0.0.1:{self._server.port}/answer"
        async with httpx.AsyncClient(timeout=20) as http, http.stream("GET", url, headers=headers) as response:
            data = ""
            async for line in response.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "data":
                    data = value
                elif name == "id":
                    self.last_id = value
                elif not line and data:
                    self._take(json.loads(data))
                    data = ""
                if self.end:
                    return


@pytest.mark.parametrize("killed", ["reader", "producer"])
@pytest.mark.parametrize("name", ["sqlite", "redis", "postgres", "nats"])
def test_every_text_is_the_same_or_a_marked_prefix(tmp_path: Path, name: str, killed: str) -> None:
    async def main(server: Server, used: Store) -> None:
        producer = server.http.post("/answer", params={"words": WORDS}).json()
        began = time.monotonic()
        kinds = [OverWebSocket, OverEventSource]
        readers = [kinds[n % 2](server) for n in range(READERS)]
        reading = [asyncio.create_task(reader.read()) for reader in readers]
        await asyncio.sleep(random.uniform(3.0, 15.0))
        (other,) = set(server.worker_pids()) - {producer}
        os.kill(producer if killed == "producer" else other, signal.SIGKILL)
        async with asyncio.timeout(120):
            await asyncio.gather(*reading)
        seconds = time.monotonic() - began
        texts = {reader.text for reader in readers}
        assert len(texts) == 1, sorted(map(len, texts))
        text = texts.pop()
        assert {reader.end for reader in readers} == {"aborted" if killed == "producer" else "done"}
        assert WHOLE.startswith(text) and text.endswith(" ") if killed == "producer" else text == WHOLE
        assert all(reader.chunks <= 30 * seconds + reader.stays for reader in readers)
        found = await asyncio.to_thread(lambda: server.http.get("/kept").json())
        print(f"{name}: {text.count(' ')} tokens, {found['count']} offsets; {seconds:.0f} s")
        assert [(late["text"], late["end"]) for late in found["late"]] == [(text, readers[0].end)]
        if not used.has_holes:  # an eighth of the tokens, of a machine that keeps pace with them
            assert found["count"] <= max(WORDS // 8, 21 * seconds)

    with store(name, tmp_path) as used:
        folder = tmp_path / "run"
        folder.mkdir()
        with Server(folder, app=APP, workers=2, environment={"STORE": used.url}).running() as server:
            asyncio.run(main(server, used))
