"""The function of an application that returns the state of a channel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from starlette.exceptions import HTTPException

from tidewire.errors import BadRequest, ConfigurationError, PermissionDenied, UnknownChannel
from tidewire.protocols.payload import encode_json
from tidewire.rules.base import Caller, Identity
from tidewire.rules.dependency_overrides import Overrides
from tidewire.rules.handlers import Bound
from tidewire.rules.parameters import NoMatch

__all__ = ("StateFunction",)

_NOBODY = Caller("", Identity())


class StateFunction(Bound):
    """A function that is given the parameters of the pattern, and nothing of a user: its answer is for all."""

    __slots__ = ()

    def __init__(self, function: Callable[..., Any], pattern: str, names: Sequence[str], overrides: Overrides) -> None:
        super().__init__(function, names, all_names=False, overrides=overrides)
        foreign = sorted(self.given.difference(names))
        if foreign:
            raise ConfigurationError(
                f"the state of {pattern!r} takes a parameter {foreign[0]!r}, but it is the same for all who subscribe; "
                "take parameters of the pattern, or dependencies of none"
            )

    async def make(self, channel: str, texts: dict[str, str]) -> tuple[Any, bytes]:
        """Return the function's result, and the same as JSON; raises the function's exceptions."""
        try:
            value = _lasting(await self(_NOBODY, texts))
        except NoMatch:
            raise UnknownChannel(f"no rule is for channel {channel!r}") from None
        except HTTPException as error:
            raise PermissionDenied(str(error.detail)) from error
        try:
            return value, encode_json(value)
        except BadRequest as error:
            raise ConfigurationError(str(error)) from error


def _lasting(value: Any) -> Any:
    """Return a value that all who are given it can read: an iterator, as of rows, has something for the first alone."""
    if isinstance(value, dict) and any(isinstance(of, Iterator) for of in value.values()):
        return {key: _lasting(of) for key, of in value.items()}
    return list(value) if isinstance(value, Iterator) else value
