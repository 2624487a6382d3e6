"""The rules of one hub: which function decides for a channel, which one answers a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tidewire.errors import ConfigurationError, UnknownChannel
from tidewire.options import ChannelOptions
from tidewire.rules.base import Caller
from tidewire.rules.binding import Bound, NoMatch
from tidewire.rules.pattern import Pattern
from tidewire.rules.permissions import ALL, NOTHING, Permissions

__all__ = ("Rule", "RuleBook")

#: Names that are looked up once.
_REMEMBERED = 10_000


class Rule:
    """One pattern with its options, and the function that decides."""

    __slots__ = ("_bound", "options", "pattern")

    def __init__(self, pattern: Pattern, options: ChannelOptions, function: Callable[..., Any]) -> None:
        self.pattern = pattern
        self.options = options
        self._bound = Bound(function, pattern.names)

    async def decide(self, caller: Caller, channel: str, texts: dict[str, str]) -> Permissions:
        """Return what a caller may do; raises what the function raises, UnknownChannel when the name does not fit."""
        try:
            said = await self._bound(caller, texts)
        except NoMatch:
            raise UnknownChannel(f"no rule is for channel {channel!r}") from None
        if isinstance(said, bool):
            return ALL if said else NOTHING
        if not isinstance(said, Permissions):
            raise ConfigurationError(
                f"the rule for {self.pattern.text!r} returned {type(said).__name__}; "
                "return True, False or Permissions(…)"
            )
        return said


class RuleBook:
    """Rules in the order of their precedence: an exact name, then the most special pattern, then the first given."""

    __slots__ = ("_calls", "_found", "_rules")

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._calls: dict[str, Bound] = {}
        self._found: dict[str, tuple[Rule, dict[str, str]] | None] = {}

    def __len__(self) -> int:
        return len(self._rules)

    def add(self, rule: Rule) -> None:
        """Add a rule; raises ConfigurationError for a pattern that is there."""
        if any(rule.pattern.text == known.pattern.text for known in self._rules):
            raise ConfigurationError(f"there is a rule for {rule.pattern.text!r} already; decide in one function")
        self._rules.append(rule)
        self._rules.sort(key=lambda rule: rule.pattern.rank)  # stable: the first given stays first
        self._found.clear()

    def find(self, channel: str) -> tuple[Rule, dict[str, str]] | None:
        """Return the rule for a channel, and the texts of its parameters."""
        if channel not in self._found:
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            self._found[channel] = self._find(channel)
        return self._found[channel]

    def _find(self, channel: str) -> tuple[Rule, dict[str, str]] | None:
        for rule in self._rules:
            texts = rule.pattern.match(channel)
            if texts is not None:
                return rule, texts
        return None

    def options(self, channel: str) -> ChannelOptions | None:
        """Return the options of a channel that has a rule."""
        found = self.find(channel)
        return None if found is None else found[0].options

    def add_call(self, name: str, function: Callable[..., Any]) -> None:
        """Add what answers a call; raises ConfigurationError for a name that is there."""
        if name in self._calls:
            raise ConfigurationError(f"there is a function for the call {name!r} already; give this one another name")
        self._calls[name] = Bound(function, takes_data=True)

    def call(self, name: str) -> Bound | None:
        """Return what answers a call."""
        return self._calls.get(name)

    @property
    def has_calls(self) -> bool:
        """Some call is answered."""
        return bool(self._calls)
