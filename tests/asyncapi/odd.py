"""An application with messages that are easily written wrongly."""

from __future__ import annotations

import dataclasses
import enum
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel, SecretStr, computed_field
from typing_extensions import TypeAliasType

from tidewire import Hub

T = TypeVar("T")

Anything = TypeAliasType("Anything", "list[Anything] | dict[str, Anything] | str | float | bool | None")


class Color(enum.Enum):
    RED = "red"
    GREEN = "green"


class Page(BaseModel, Generic[T]):
    items: list[T]
    next: Page[T] | None = None


class Promise(BaseModel):
    """Fields that are called as types are; */ and \\ and \"\"\"."""

    model_config = ConfigDict(extra="allow")

    date: int = 1
    text: bool = Field(alias="str", default=False)
    Cat: int | None = None
    copies: Annotated[float, Field(alias="copy")] = float("inf")
    from_: int = Field(alias="from")
    self_: int = Field(alias="self", default=0)
    at: int = Field(alias="@at", default=0)
    secret: SecretStr = SecretStr("x")
    tags: list[str] = []


class Cat(BaseModel):
    pet: Literal["cat"] = "cat"
    color: Color = Color.RED
    toys: list[Cat] = []


class Dog(BaseModel):
    pet: Literal["dog", "wolf"] = "dog"
    inner: Promise | None = None


class Names(RootModel[dict[str, list[int]]]):
    """Numbers by names."""


class Message(BaseModel):
    page: Page[Cat]
    names: Names
    anything: Anything = None
    best: Annotated[Cat | Dog, Field(discriminator="pet")] | None = None


class number(BaseModel):
    """A class that is called as a type of TypeScript is."""


class set(BaseModel):
    """A class that is called as a function of Python is."""


class Priced(BaseModel):
    """It is written otherwise than it is read."""

    model_config = ConfigDict(extra="forbid")

    own: int = Field(serialization_alias="out-put")
    price: Decimal
    kind: Literal["red", Color.RED, 1, True] = 1
    dumped: int = Field(alias="model_dump", default=1)
    group: set = set()

    @computed_field
    def twice(self) -> int:
        return self.own * 2


@dataclasses.dataclass
class Begun:
    """A dataclass with an argument that is no field."""

    count: int
    step: dataclasses.InitVar[int] = 1


hub = Hub()


@hub.channel("pets", publishes=Annotated[Cat | Dog, Field(discriminator="pet")])
async def pets() -> bool:
    return True


@hub.channel("messages", publishes=Message)
async def messages() -> bool:
    return True


@hub.channel("prices", publishes=Priced | Begun | list[Priced] | None)
async def prices() -> bool:
    return True


@hub.rpc("find")
async def find(data: Cat | None) -> Message | None:
    return None


@hub.rpc("count")
async def count(data: list[Dog]) -> dict[str, number | Any]:
    return {}
