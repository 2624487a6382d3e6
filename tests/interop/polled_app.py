"""An application with polled values that stand in a file; it notes each call."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from fastapi import Body, FastAPI

from tidewire import Hub

hub = Hub(os.environ.get("STORE", "memory://"))
app = FastAPI(lifespan=hub.lifespan)


@hub.channel("prices:{market}")
async def prices(market: str) -> bool:
    return True


@prices.poll(every=0.1, secret="a secret that all workers know")
def current(market: str, keys: list[str]) -> dict[str, Any]:
    with Path("calls.txt").open("a") as calls:
        calls.write(f"{os.getpid()} {','.join(sorted(keys))}\n")
    found = json.loads(Path("prices.json").read_text())
    return {key: found[key] for key in keys if key in found}


@app.post("/keys")
async def sign(keys: list[str] = Body()) -> dict[str, Any]:
    allowed = [key for key in keys if key != "secret"]
    return {"keys": allowed, "signature": prices.sign("prices:eu", allowed, seconds=60)}


app.include_router(hub.client_router())
