"""An application with every kind of channel and message."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import FastAPI, Security
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from tidewire import Hub


class Said(BaseModel):
    """A message of a room."""

    type: Literal["said"] = "said"
    sender: str
    text: str = Field(min_length=2)
    pair: tuple[int, str] = (1, "a")
    counts: dict[str, float] = {}
    at: datetime | None = None


class Left(BaseModel):
    """A user has left."""

    type: Literal["left"] = "left"
    user: str
    before: list[Said] | None = None


class Say(BaseModel):
    """A message that a client sends."""

    text: str = Field(min_length=1, examples=["hello"])
    loud: bool = False


class Price(msgspec.Struct, tag="price"):
    """A price."""

    symbol: str
    cents: int


class Halt(msgspec.Struct, tag="halt"):
    """Trading has stopped."""

    symbol: str


@dataclasses.dataclass
class Point:
    """A place."""

    x: float
    y: float


class Move(TypedDict):
    """A move from one place to another."""

    start: Point
    end: Point


class Wrapped(BaseModel):
    """A message in a message."""

    event: Annotated[Said | Left, Field(discriminator="type")]


hub = Hub()
app = FastAPI(title="Example", version="1.2.3", description="Every kind of channel.", lifespan=hub.lifespan)


async def user(
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False))],
    session: Annotated[str | None, Security(APIKeyCookie(name="session", auto_error=False))],
) -> str:
    return "ann"


@hub.channel("room:{room}", publishes=Annotated[Said | Left, Field(discriminator="type")], accepts=Say)
async def room(room: int, user: str) -> bool:
    """Rooms of the chat.

    Everybody reads them.
    """
    return True


@room.on_publish
async def said(room: int, user: str, message: Say) -> Said | None:
    return Said(sender=user, text=message.text + "!")


@hub.channel("price:{symbol:path}", publishes=Price | Halt, history=1)
async def price(symbol: str) -> bool:
    return True


@hub.channel("moves", publishes=Move, presence=True)
async def moves() -> bool:
    return True


@hub.channel("wrapped", publishes=Wrapped)
async def wrapped() -> bool:
    return True


@hub.channel("numbers", publishes=list[int])
async def numbers() -> bool:
    return True


@hub.channel("any:{thing}")
async def anything(thing: str) -> bool:
    return True


@hub.rpc("twice")
async def twice(data: Say) -> Said:
    """Say something twice."""
    return Said(sender="twice", text=data.text * 2)


@hub.rpc("echo")
async def echo(data: Any) -> Any:
    return data


app.include_router(hub.client_router())
app.include_router(hub.asyncapi_router())
