"""A chat: login, rooms, presence, typing notices, history upwards. `make example NAME=chat`."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import jwt
from fastapi import FastAPI, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field, StringConstraints
from starlette.requests import HTTPConnection

from tidewire import Hub, Refused

SECRET = os.environ.get("SECRET", "only for this example: set your own in SECRET")
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=32)]

hub = Hub(os.environ.get("BROKER", "sqlite:///chat.db"))
app = FastAPI(title="Chat", lifespan=hub.lifespan)


class Login(BaseModel):
    name: Name


class Say(BaseModel):
    """A message as a client publishes it."""

    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2_000)]


class Said(Say):
    """A message as everybody in the room gets it: the server adds the name and the time."""

    user: str
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))


class Typing(BaseModel):
    user: str = ""


# The user of a request: your own check goes here.


@app.post("/login", status_code=204)
async def login(given: Login, response: Response) -> None:
    token = jwt.encode({"sub": given.name}, SECRET, "HS256")
    response.set_cookie("session", token, httponly=True, samesite="strict", max_age=30 * 86_400)


@app.post("/logout", status_code=204)
async def logout(response: Response) -> None:
    response.delete_cookie("session", httponly=True, samesite="strict")


async def current_user(connection: HTTPConnection) -> str | None:
    try:
        return str(jwt.decode(connection.cookies.get("session", ""), SECRET, ["HS256"])["sub"])
    except jwt.InvalidTokenError:
        return None


@app.get("/me")
async def me(connection: HTTPConnection) -> dict[str, str | None]:
    return {"name": await current_user(connection)}


# The rights of a user.


@hub.channel("room:{room}", publishes=Said, accepts=Say, history=1_000, presence=True, join_leave=True)
async def room(room: str, user: str) -> bool:
    return bool(user) and len(room) <= 32


@room.on_publish
async def said(message: Say, user: str) -> Said:
    return Said(user=user, text=message.text)


@hub.channel("typing:{room}", publishes=Typing, ephemeral=True)
async def typing(room: str, user: str) -> bool:
    return bool(user)


@typing.on_publish
async def typed(message: Typing, user: str) -> Typing:
    return Typing(user=user)


@hub.rpc("rooms")
async def rooms(data: list[str], user: str) -> dict[str, int]:
    """How many people are in each of these rooms."""
    if not user or len(data) > 20:
        raise Refused(403, "log in first, and ask for at most 20 rooms")
    return {name: len(await hub.users(f"room:{name}")) for name in data}


app.include_router(hub.client_router(user=current_user))
app.mount("/", StaticFiles(directory=Path(__file__).parent / "page", html=True))
