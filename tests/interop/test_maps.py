"""Maps with the published SDK for JavaScript: entries in the reply, then changes; a client that was away recovers."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from fastapi import FastAPI

from helpers.hubs import run, serving
from helpers.node_packages import node_modules
from requirements import require
from tidewire import Hub

HERE = Path(__file__).parent


@pytest.mark.parametrize("encoding", ["json", "protobuf"])
def test_the_sdk_reads_and_changes_a_map(encoding: str, tmp_path: Path) -> None:
    require(shutil.which("node"), "apt-get install nodejs")
    packages = node_modules(HERE)

    async def main() -> None:
        hub = Hub(f"sqlite:///{tmp_path}/chat.db")

        @hub.channel("board", map=True)
        async def board() -> bool:
            return True

        @hub.channel("plain")
        async def plain() -> bool:
            return True

        app = FastAPI(lifespan=hub.lifespan)
        app.include_router(hub.client_router())
        async with serving(hub, app) as server:
            address = f"ws://127.0.0.1:{server.port}/connection/websocket"
            process = await asyncio.create_subprocess_exec(
                "node", str(HERE / "maps.mjs"), str(packages), address, encoding, stdout=-1, stderr=-1
            )
            out, err = await process.communicate()
            assert process.returncode == 0, err.decode()
            told = json.loads(out)
            assert told["late"] == {"a": {"x": 2}, "c": 3}
            assert told["syncs"] == [1, 1, 1]  # the one that was away got the changes alone
            assert told["errors"] == []
            assert told["refused"] == 108
            assert told["unsubscribed"] == 108
            assert (await hub.entries("board")).values() == told["late"]
            await hub.set("board", "from the server", 1)

    run(main())
