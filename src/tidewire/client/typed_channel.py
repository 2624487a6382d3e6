"""A channel whose messages have types, as `tidewire types --python` declares it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Generic, TypeVar

import msgspec
from pydantic import BaseModel

from tidewire.client.client import Client
from tidewire.client.client_subscription import Subscription
from tidewire.client.values import ChannelPublication
from tidewire.errors import InvalidMessage
from tidewire.messages import Position
from tidewire.protocols.payload import encode_json
from tidewire.protocols.shape import Shape

__all__ = ("TypedChannel", "TypedPublication")

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
        """Publish a message, without the fields of a model that are None; raises as `Client.publish`."""
        data: Any = message
        if isinstance(message, BaseModel):
            unset = type(message).model_fields.keys() - message.model_fields_set
            left_out = {name for name in unset if getattr(message, name) is None}
            data = msgspec.Raw(message.model_dump_json(by_alias=True, exclude=left_out).encode())
        await self.client.publish(self.name, data)

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
