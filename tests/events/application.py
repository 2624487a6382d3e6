"""An application that writes what it is told into a file; its settings come from the environment."""

from __future__ import annotations

import json
import os
from pathlib import Path

from fastapi import FastAPI
from starlette.requests import HTTPConnection

from tidewire import Event, Hub

hub = Hub(os.environ["STORE"], limits={"grace_seconds": float(os.environ.get("GRACE", "0.5"))})
app = FastAPI(lifespan=hub.lifespan)
LOG = Path(os.environ["LOG"])


async def user(connection: HTTPConnection) -> str:
    return connection.query_params["user"]


app.include_router(hub.client_router(user=user))


@hub.channel("room:{room}")
async def room(room: int) -> bool:
    return True


def note(event: Event) -> None:
    with LOG.open("a") as file:  # one short write that is appended: lines of two processes do not mix
        file.write(json.dumps([event.id, event.kind, event.channel, event.user, os.getpid()]) + "\n")


for kind in ("joined", "left", "occupied", "vacated"):
    hub.on(kind, "room:{room}")(note)
for kind in ("connected", "disconnected"):
    hub.on(kind)(note)

if os.environ.get("WEBHOOK"):
    events = ["joined room:{room}", "left room:{room}"]
    hub.webhook(os.environ["WEBHOOK"], secret="s3cret", events=events, allow_private=True)
