"""A channel whose messages have types, as `tidewire types --python` declares it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Generic, TypeVar

import msgspec
from pydantic import BaseModel

from tidewire.client.client import Client
from tidewire.client.client_subscription import Subscription
from tidewire.client.values import ChannelPublication
from tidewire.errors import InvalidMessage
from tidewire.messages import Position
from tidewire.protocols.message_shape import Shape
from tidewire.protocols.payload import encode_json

__all__ = ("TypedChannel", "TypedPublication", "given")

M = TypeVar("M")
A = TypeVar("A", contravariant=True)


class TypedPublication(Generic[M]):
    """A publication with its message; a message of another type (of an older model) is None, and `problem` says why."""

    __slots__ = ("data", "problem", "publication")

    def __init__(self, data: M | None, publication: ChannelPublication, problem: str = "") -> None:
        self.data = data
        self.publication = publication
        self.problem = problem


class TypedChannel(Generic[M, A]):
    """One channel of a client: subscribers get messages of type `M`, and publish those of type `A`."""

    def __init__(self, client: Client, name: str, type_: Any) -> None:
        self.client = client
        self.name = name
        self._shape = Shape(type_)

    async def publish(self, message: A) -> None:
        """Publish what `given` returns of a message; raises as `Client.publish`."""
        await self.client.publish(self.name, given(message))

    def subscribe(self, *, since: Position | None = None, token: str = "") -> Subscription:
        """Subscribe without types, as `Client.subscribe` does."""
        return self.client.subscribe(self.name, since=since, token=token)

    async def messages(self, *, since: Position | None = None) -> AsyncIterator[TypedPublication[M]]:
        """Subscribe, and iterate over publications with their messages; raises as a subscription does."""
        async with self.subscribe(since=since) as subscription:
            async for publication in subscription:
                yield self._typed(publication)

    def _typed(self, publication: ChannelPublication) -> TypedPublication[M]:
        if publication.problem:
            return TypedPublication(None, publication, publication.problem)
        try:
            return TypedPublication(self._shape.decode(encode_json(publication.data)), publication)
        except InvalidMessage as error:
            return TypedPublication(None, publication, str(error))


def given(message: Any) -> Any:
    """Return a message without the fields that nobody has set and that are None: the server has its own defaults."""
    if isinstance(message, BaseModel):
        return msgspec.Raw(message.model_dump_json(by_alias=True, exclude=_left_out(message)).encode())
    if isinstance(message, Mapping):
        return {key: given(value) for key, value in message.items()}
    return list(map(given, message)) if isinstance(message, list | tuple) else message


def _left_out(value: Any) -> Any:
    """Return the `exclude` of pydantic by which fields are left out that nobody has set and that are None."""
    if isinstance(value, Mapping):
        inner = {key: _left_out(one) for key, one in value.items()}
    elif isinstance(value, list | tuple):
        inner = {number: _left_out(one) for number, one in enumerate(value)}
    elif isinstance(value, BaseModel):
        inner = {name: _left_out(one) for name, one in value}
        inner |= {name: True for name, one in value if one is None and name not in value.model_fields_set}
    else:
        return None
    return {name: one for name, one in inner.items() if one} or None
