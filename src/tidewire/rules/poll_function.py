"""The function of an application that returns the values of a channel's keys, which is asked again and again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import TypeAdapter, ValidationError
from starlette.exceptions import HTTPException

from tidewire.errors import ConfigurationError, PermissionDenied, UnknownChannel
from tidewire.limits import is_number
from tidewire.rules.base import Caller, Identity, Poll
from tidewire.rules.dependency_overrides import Overrides
from tidewire.rules.handlers import Bound
from tidewire.rules.parameters import NoMatch, hints_of

__all__ = ("PollFunction",)

_NOBODY = Caller("", Identity())
#: Keys as clients may choose them.
_ANY_KEYS = ("a", " ", "-Z9", "\x01\n", "\N{GRINNING FACE}", "x" * 255, *(f"{number}" for number in range(1_000)))
#: The parameter that is given the keys, and the seconds between two calls that can be.
_KEYS, _SHORTEST, _LONGEST = "keys", 0.01, 86_400.0


class PollFunction(Bound):
    """A function that is given keys and the parameters of the pattern, and nothing of a user: it is asked for all."""

    __slots__ = ("_every", "_versioned", "_where", "secret")

    def __init__(
        self,
        function: Callable[..., Any],
        pattern: str,
        names: Sequence[str],
        overrides: Overrides,
        *,
        every: float,
        versioned: bool,
        secret: str | None,
    ) -> None:
        if not (is_number(every) and _SHORTEST <= every <= _LONGEST):
            raise ConfigurationError(f"every={every!r} is none; write seconds from {_SHORTEST} to {_LONGEST:g}")
        if secret is not None and not (isinstance(secret, str) and secret):
            raise ConfigurationError("the secret of signed keys is empty, or no text; write a long random one")
        if _KEYS in names:
            raise ConfigurationError(f"{pattern!r} has a parameter {_KEYS!r}, as the polled keys are; rename it")
        self._where, self._every, self._versioned = pattern, every, versioned
        #: Signs keys, if they are to be signed.
        self.secret = secret or ""
        super().__init__(function, (*names, _KEYS), all_names=False, overrides=overrides)
        foreign = sorted(self.given.difference(names, (_KEYS,)))
        if foreign or not _takes_texts(hints_of(function).get(_KEYS, Any)) or _KEYS not in self.given:
            raise ConfigurationError(
                f"the polled values of {pattern!r} are asked for by keys, and for all who track them; take "
                f"`keys: list[str]` of any strings, parameters of the pattern, or dependencies of none{_but(foreign)}"
            )

    def of(self, channel: str, texts: dict[str, str]) -> Poll:
        """Return the way to ask for the values of one channel."""
        return Poll(partial(self._ask, channel, texts), self._every, self._versioned, self.secret)

    async def _ask(self, channel: str, texts: dict[str, str], keys: list[str]) -> Mapping[str, Any]:
        try:
            given: dict[str, Any] = {**texts, _KEYS: list(keys)}  # which the function may empty
            values = await self(_NOBODY, given)
        except NoMatch:
            raise UnknownChannel(f"no rule is for channel {channel!r}") from None
        except HTTPException as error:
            raise PermissionDenied(str(error.detail)) from error
        if not isinstance(values, Mapping):
            raise ConfigurationError(
                f"the polled values of {self._where!r} are {type(values).__name__}; return a dict of keys and values"
            )
        wrong = next((key for key in values if not isinstance(key, str)), None)
        if wrong is not None:
            raise ConfigurationError(
                f"the polled values of {self._where!r} have a key {wrong!r:.60} of type {type(wrong).__name__}; "
                "clients track strings: write str(key)"
            )
        return values


def _but(names: Sequence[str]) -> str:
    return f", and no {names[0]!r}" if names else ""


def _takes_texts(type_: Any) -> bool:
    """Return whether a parameter takes any keys: clients choose them, and one that fits no type would fail all."""
    try:
        return set(TypeAdapter(type_).validate_python(list(_ANY_KEYS))) == set(_ANY_KEYS)
    except (ValidationError, TypeError):
        return False
