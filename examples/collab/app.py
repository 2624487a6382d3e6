"""A board for everybody: strokes are kept, cursors are not, a late comer sees it whole. `make example NAME=collab`."""

import os
from pathlib import Path
from typing import Annotated, Literal

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.requests import HTTPConnection

from tidewire import Hub

#: Strokes that one board keeps: a late comer reads it in pages.
STROKES = 5_000
Place = Annotated[int, Field(ge=0, le=10_000)]
Color = Annotated[str, Field(pattern="^#[0-9a-f]{6}$")]

hub = Hub(os.environ.get("BROKER", "memory://"))
app = FastAPI(title="Board", lifespan=hub.lifespan)


class Stroke(BaseModel):
    """One line, in ten-thousandths of the board's width and height."""

    kind: Literal["stroke"] = "stroke"
    color: Color
    width: Annotated[int, Field(ge=1, le=40)] = 4
    points: Annotated[list[tuple[Place, Place]], Field(min_length=1, max_length=1_000)]


class Drawn(Stroke):
    user: str


class Cleared(BaseModel):
    kind: Literal["cleared"] = "cleared"
    user: str


class Pointer(BaseModel):
    x: Place
    y: Place
    color: Color


class Cursor(Pointer):
    user: str


async def visitor(connection: HTTPConnection) -> str:
    """Everybody is welcome under the name that they give: your own login goes here."""
    return connection.query_params.get("name", "")[:32]


@hub.channel(
    "board:{board}", publishes=Drawn | Cleared, accepts=Stroke, history=STROKES, presence=True, join_leave=True
)
async def board(board: str, user: str) -> bool:
    return bool(user)


@board.on_publish
async def drawn(message: Stroke, user: str) -> Drawn:
    return Drawn(user=user, **message.model_dump())


@hub.channel("cursors:{board}", publishes=Cursor, accepts=Pointer, ephemeral=True)
async def cursors(board: str, user: str) -> bool:
    return bool(user)


@cursors.on_publish
async def moved(message: Pointer, user: str) -> Cursor:
    return Cursor(user=user, **message.model_dump())


@hub.rpc("clear")
async def clear(data: str, user: str) -> None:
    """Wipe a board, for everybody and for all who come later."""
    await hub.remove_history(f"board:{data}")
    await hub.publish(f"board:{data}", Cleared(user=user))


app.include_router(hub.client_router(user=visitor))
app.mount("/", StaticFiles(directory=Path(__file__).parent / "page", html=True))
