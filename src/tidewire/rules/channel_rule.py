"""A rule as the application holds it: its function, to which more functions of the same channels are added."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

from tidewire.rules.book import Rule

__all__ = ("ChannelRule",)

P = ParamSpec("P")
T = TypeVar("T")


class ChannelRule(Generic[P, T]):
    """The rule of a pattern of channels, as `Hub.channel` returns it; calling it calls its function."""

    __wrapped__: Callable[P, T]

    def __init__(self, rule: Rule, function: Callable[P, T]) -> None:
        functools.update_wrapper(self, function)
        self._rule = rule

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function of the rule."""
        return self.__wrapped__(*args, **kwargs)

    @property
    def pattern(self) -> str:
        """The pattern of the channels' names."""
        return self._rule.pattern.text
