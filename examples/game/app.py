"""An arena for many players: the server decides, twenty times a second. `make example NAME=game`."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from arena import Arena, Snapshot, Steer
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.requests import HTTPConnection

from tidewire import Hub, Permissions, PublishError, SlowPolicy, StoreUnavailable

TICK = 1 / 20
#: Seconds after which a worker that plays no game takes over from one that is silent.
SILENCE = 1.0

hub = Hub(os.environ.get("BROKER", "sqlite:///game.db"), limits={"rate": 200, "burst": 400})


class Steered(BaseModel):
    user: str
    steer: Steer


async def visitor(connection: HTTPConnection) -> str:
    """Everybody is welcome under the name that they give: your own login goes here."""
    return connection.query_params.get("name", "")[:20]


# A client that is slow, or comes in the middle, gets the newest picture and no older one.
@hub.channel("arena", publishes=Snapshot, history=1, latest=True, slow=SlowPolicy.LATEST)
async def arena(user: str) -> Permissions:
    return Permissions(subscribe=bool(user))  # to see: only the server says what is


@hub.channel("steering", publishes=Steered, accepts=Steer, ephemeral=True)
async def steering(user: str) -> Permissions:
    return Permissions(subscribe=False, publish=bool(user))


@steering.on_publish
async def steered(message: Steer, user: str) -> Steered:
    return Steered(user=user, steer=message)


async def newest() -> Snapshot | None:
    """The picture that was published last, by any worker."""
    page = await hub.history("arena", limit=1, reverse=True)
    return Snapshot.model_validate_json(page.publications[0].data) if page.publications else None


async def play() -> None:
    """Run the game if no other worker does: a worker that sees no new tick for a second takes over where it stood."""
    while True:
        with suppress(PublishError, StoreUnavailable):
            before = await newest()
            await asyncio.sleep(SILENCE)
            now = await newest()
            if now is None or (before is not None and now.tick == before.tick):
                await lead(Arena(now))
        await asyncio.sleep(SILENCE)


async def lead(game: Arena) -> None:
    """Take what all players want, from all workers, and publish what comes of it; a tick is published once."""

    async with hub.listen("steering") as wishes:

        async def hear() -> None:
            async for wish in wishes:
                said = Steered.model_validate_json(wish.data)
                game.steer(said.user, said.steer, time.time())

        hearing = asyncio.create_task(hear())
        try:
            place, due = None, time.monotonic()
            while not hearing.done():
                picture = game.tick(time.time())
                kept = await hub.publish("arena", picture, key=f"tick:{picture.tick}")
                if place is not None and kept.offset != place + 1:
                    return  # another worker plays, too: it may have the game
                place = kept.offset
                due = max(due + TICK, time.monotonic() - 1)  # what a slow tick took, the next ones make up for
                await asyncio.sleep(due - time.monotonic())
        finally:
            hearing.cancel()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with hub, asyncio.TaskGroup() as group:
        game = group.create_task(play())
        yield
        game.cancel()


app = FastAPI(title="Arena", lifespan=lifespan)
app.include_router(hub.client_router(user=visitor))
app.mount("/", StaticFiles(directory=Path(__file__).parent / "page", html=True))
