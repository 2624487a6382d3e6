"""A board for everybody: strokes are kept, cursors are not, a late comer sees it whole. `make example NAME=collab`."""

import os
from pathlib import Path
from typing import Annotated, Literal

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.requests import HTTPConnection

from tidewire import Hub, Refused

#: Strokes that one board keeps: a late comer reads it in pages.
STROKES = 5_000
#: A board has these units on every screen, and each page scales them: what is round here is round there.
WIDTH, HEIGHT = 16_000, 12_000

Point = tuple[Annotated[int, Field(ge=0, le=WIDTH)], Annotated[int, Field(ge=0, le=HEIGHT)]]
Name = Annotated[str, Field(min_length=1, max_length=32)]

hub = Hub(os.environ.get("BROKER", "sqlite:///collab.db"))
app = FastAPI(title="Board", lifespan=hub.lifespan)


class Pen(BaseModel):
    color: Annotated[str, Field(pattern="^#[0-9a-f]{6}$")]
    width: Annotated[int, Field(ge=10, le=600)] = 60


class Stroke(Pen):
    """One line, from where the pen comes down to where it is lifted."""

    kind: Literal["stroke"] = "stroke"
    points: Annotated[list[Point], Field(min_length=1, max_length=1_000)]


class Drawn(Stroke):
    user: str


class Undone(BaseModel):
    """Takes the user's newest stroke away. A board has one order for everybody, so all pages take the same one."""

    kind: Literal["undone"] = "undone"
    user: str


class Cleared(BaseModel):
    kind: Literal["cleared"] = "cleared"
    user: str


class Pointer(Pen):
    """Where somebody points, and what has been drawn since the last time: the stroke itself comes when it is done."""

    at: Point
    trail: Annotated[list[Point], Field(max_length=100)] = []


class Cursor(Pointer):
    user: str


async def visitor(connection: HTTPConnection) -> str:
    """Everybody is welcome under the name that they give: your own login goes here."""
    return connection.query_params.get("name", "")[:32]


@hub.channel(
    "board:{board}", publishes=Drawn | Undone | Cleared, accepts=Stroke, history=STROKES, presence=True, join_leave=True
)
async def board(board: Name, user: str) -> bool:
    return bool(user)


@board.on_publish
async def drawn(message: Stroke, user: str) -> Drawn:
    return Drawn(user=user, **message.model_dump())


@hub.channel("cursors:{board}", publishes=Cursor, accepts=Pointer, ephemeral=True)
async def cursors(board: Name, user: str) -> bool:
    return bool(user)


@cursors.on_publish
async def moved(message: Pointer, user: str) -> Cursor:
    return Cursor(user=user, **message.model_dump())


@hub.rpc("undo")
async def undo(data: Name, user: str) -> None:
    """Take back one's own newest stroke on a board."""
    if not user:
        raise Refused(403, "give a name first")
    await hub.publish(f"board:{data}", Undone(user=user))


@hub.rpc("clear")
async def clear(data: Name, user: str) -> None:
    """Wipe a board, for everybody and for all who come later."""
    if not user:
        raise Refused(403, "give a name first")
    await hub.remove_history(f"board:{data}")
    await hub.publish(f"board:{data}", Cleared(user=user))


app.include_router(hub.client_router(user=visitor))
app.mount("/", StaticFiles(directory=Path(__file__).parent / "page", html=True))
