"""The publications of channels and their deliveries, counted by the patterns of channels."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ("Tallies", "Tally")

#: Channels whose tallies are found without a look at the patterns.
_REMEMBERED = 10_000


class Tally:
    """The figures of the channels of one pattern since the start, in this process; nodes and fan-out count here."""

    __slots__ = ("bytes", "deliveries", "pattern", "published")

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.published = 0
        self.deliveries = 0
        #: Payloads that were delivered, without framing.
        self.bytes = 0


class Tallies(dict[str, Tally]):
    """The tally of each channel; one that it does not hold is that of the pattern that a function returns."""

    __slots__ = ("_pattern_of", "by_pattern")

    def __init__(self, pattern_of: Callable[[str], str]) -> None:
        super().__init__()
        self._pattern_of = pattern_of
        self.by_pattern: dict[str, Tally] = {}

    def __missing__(self, channel: str) -> Tally:
        if len(self) >= _REMEMBERED:
            self.clear()
        pattern = self._pattern_of(channel)
        tally = self[channel] = self.by_pattern.setdefault(pattern, Tally(pattern))
        return tally
