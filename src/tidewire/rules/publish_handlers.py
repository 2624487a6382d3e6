"""The handling of messages that clients publish, before they are kept: the application's function for a channel."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from starlette.exceptions import HTTPException

from tidewire.errors import BadRequest, ConfigurationError, PermissionDenied, UnknownChannel
from tidewire.messages import Format
from tidewire.protocols.message_shape import Shape, checked_payload, is_message_type
from tidewire.rules.base import Caller
from tidewire.rules.dependency_overrides import Overrides
from tidewire.rules.handlers import Bound
from tidewire.rules.parameters import NoMatch, Source, hints_of

__all__ = ("Handler", "MessageTypes")

_MESSAGE_NAMES = ("message", "data")


class MessageTypes:
    """The types of a channel's messages: of those that clients publish, and of those that subscribers are shown."""

    __slots__ = ("accepts", "publishes")

    def __init__(self, publishes: Any = None, accepts: Any = None) -> None:
        self.publishes = None if publishes is None else Shape(publishes)
        self.accepts = None if accepts is None else Shape(accepts)

    @property
    def of_clients(self) -> Shape | None:
        """The type of the messages that clients publish, as far as the rule says it."""
        return self.accepts or self.publishes


class Handler(Bound):
    """A function that is given each message of clients of a channel, and returns the message to publish."""

    __slots__ = ("_message", "_publishes", "_where", "reads")

    def __init__(
        self,
        function: Callable[..., Any],
        pattern: str,
        names: Sequence[str],
        types: MessageTypes,
        overrides: Overrides,
    ) -> None:
        self._where = pattern
        hints = hints_of(function)
        self._message = _message_parameter(function, hints, names, types)
        type_ = hints.get(self._message)
        #: The type by which messages are read: the rule's, or that of the parameter.
        self.reads = types.accepts or (Shape(type_) if type_ not in (None, Any) else types.publishes)
        self._publishes = types.publishes
        super().__init__(function, names, all_names=False, overrides=overrides)

    def _source(self, parameter: inspect.Parameter, type_: Any, names: Sequence[str], takes_data: bool) -> Source:
        if parameter.name == self._message:
            return lambda _, __, message: message
        return super()._source(parameter, type_, names, takes_data)

    async def handle(
        self, caller: Caller, channel: str, texts: dict[str, str], data: bytes, format_: Format
    ) -> tuple[bytes, Format] | None:
        """Return the message to publish for one of a client, None for none; raises as the function does."""
        message = _plain(data, format_) if self.reads is None else self.reads.read(data, format_)
        try:
            result = await self(caller, texts, message)
        except NoMatch:
            raise UnknownChannel(f"no rule is for channel {channel!r}") from None
        except HTTPException as error:
            raise PermissionDenied(str(error.detail)) from error
        return None if result is None else self._encoded(result)

    def _encoded(self, result: Any) -> tuple[bytes, Format]:
        try:
            return checked_payload(self._publishes, result)
        except BadRequest as error:  # the application's to mend, and not the client's
            raise ConfigurationError(
                f"the handler of {self._where!r} returned {type(result).__name__}, which its rule does not publish\n"
                f"{error}"
            ) from None


def _message_parameter(
    function: Callable[..., Any], hints: dict[str, Any], names: Sequence[str], types: MessageTypes
) -> str:
    """Return the name of the parameter that takes the message: by its name, by the rule's type, or by being a model."""
    found = [name for name in inspect.signature(function).parameters if name not in names]
    shape = types.of_clients
    for name in _MESSAGE_NAMES:
        if name in found:
            return name
    for name in found:
        if shape is not None and hints.get(name) == shape.type:
            return name
    return next((name for name in found if name != "user" and is_message_type(hints.get(name))), "")


def _plain(data: bytes, format_: Format) -> Any:
    """Return a message without a type as Python has it."""
    if format_ is Format.JSON:
        return msgspec.json.decode(data)
    return data.decode() if format_ is Format.TEXT else data
