"""The options of channels by their names, from the application's patterns, and the counts of each pattern."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from tidewire.channel_options import ChannelOptions
from tidewire.channels import is_events, is_reserved
from tidewire.errors import ConfigurationError
from tidewire.protocols.message_shape import Shape
from tidewire.retention import Retention
from tidewire.rules.publication_counts import Tallies
from tidewire.support.shown_value import shown

__all__ = ("OptionsByName",)

#: Channels whose options are remembered.
_REMEMBERED = 10_000
#: Joins and leaves are no history.
_EVENTS = ChannelOptions(history_size=0, history_seconds=0.0)


class OptionsByName:
    """Finds the options of a channel: an exact name first, then the patterns in the order given, then the default.

    A function that decides for some channels is preferred (`prefer`).
    """

    __slots__ = (
        "_default",
        "_exact",
        "_found",
        "_patterns",
        "_preferred",
        "retentions",
        "shape_of",
        "state_of",
        "tallies",
    )

    def __init__(
        self, channels: Mapping[str, ChannelOptions] | None = None, default: ChannelOptions | None = None
    ) -> None:
        channels = channels or {}
        for name in channels:
            if not isinstance(name, str):
                raise ConfigurationError(f"channels= names {shown(name)}; write a text, as 'lobby' or 'room:*'")
        if "" in channels:
            raise ConfigurationError("channels= has an empty name; write a channel name or a pattern as 'room:*'")
        self._default = default or ChannelOptions()
        self._exact = {name: options for name, options in channels.items() if not _is_pattern(name)}
        self._patterns = [(name, options) for name, options in channels.items() if _is_pattern(name)]
        self._found: dict[str, ChannelOptions] = {}
        #: The retention of each channel's publications, found when it is first asked for; None: they are ephemeral.
        self.retentions = _Retentions(self)
        #: Where each channel is counted, found when it is first asked for, and all of these by their patterns.
        self.tallies = Tallies(self.pattern)
        self._preferred: list[tuple[Callable[[str], ChannelOptions | None], Callable[[str], str]]] = []
        #: Finds the type of the messages of a channel; None: no channel has one.
        self.shape_of: Callable[[str], Shape | None] | None = None
        #: Finds the function that asks the application for the state of a channel; None: no channel has a state.
        self.state_of: Callable[[str], Callable[[], Awaitable[tuple[Any, bytes]]] | None] = _no_state

    def prefer(self, find: Callable[[str], ChannelOptions | None], pattern: Callable[[str], str]) -> None:
        """Ask a function first; it returns None for channels that it does not know, and the same for the same name.

        Another one returns the pattern of the channels that it knows.
        """
        self._preferred.append((find, pattern))
        self.changed()

    def check_by(self, shape_of: Callable[[str], Shape | None]) -> None:
        """Find the types of messages by a function."""
        self.shape_of = shape_of

    def ask_states_by(self, state_of: Callable[[str], Callable[[], Awaitable[tuple[Any, bytes]]] | None]) -> None:
        """Find the functions of states by a function."""
        self.state_of = state_of

    def shape(self, channel: str) -> Shape | None:
        """Return the type of the messages of a channel, if one is declared."""
        return None if self.shape_of is None else self.shape_of(channel)

    def changed(self) -> None:
        """Look every name up again: a preferred function decides for others now."""
        self._found.clear()
        self.retentions.clear()
        self.tallies.clear()

    def names(self, channel: str) -> bool:
        """Return whether a channel's name, or a pattern that fits it, was given; else the default holds."""
        return channel in self._exact or any(self._fits(channel, pattern) for pattern, _ in self._patterns)

    def of(self, channel: str) -> ChannelOptions:
        """Return the options of a channel; the same object for the same name."""
        found = self._found.get(channel)
        if found is None:
            if len(self._found) >= _REMEMBERED:
                self.changed()
            found = self._found[channel] = self._find(channel)
        return found

    def pattern(self, channel: str) -> str:
        """Return the pattern whose options a channel has, "*" for the default; there are few, however many channels."""
        for find, pattern in self._preferred:
            if find(channel) is not None:
                return pattern(channel)
        if channel in self._exact:
            return channel
        fitting = (pattern for pattern, _ in self._patterns if self._fits(channel, pattern))
        return next(fitting, f"{channel.partition(':')[0]}:*" if is_reserved(channel) else "*")

    def _find(self, channel: str) -> ChannelOptions:
        for find, _ in self._preferred:
            found = find(channel)
            if found is not None:
                return found
        exact = self._exact.get(channel)
        if exact is not None:
            return exact
        for pattern, options in self._patterns:
            if self._fits(channel, pattern):
                return options
        if is_events(channel):
            return _EVENTS
        return ChannelOptions() if is_reserved(channel) else self._default

    @staticmethod
    def _fits(channel: str, pattern: str) -> bool:
        # "*" means the application's channels; a pattern for the server's own begins with "$"
        return fnmatchcase(channel, pattern) and is_reserved(channel) == is_reserved(pattern)


class _Retentions(dict[str, Retention | None]):
    """The retentions that were found: a publication costs a look into a dictionary, and no call."""

    __slots__ = ("_options",)

    def __init__(self, options: OptionsByName) -> None:
        super().__init__()
        self._options = options

    def __missing__(self, channel: str) -> Retention | None:
        options = self._options.of(channel)
        retention = self[channel] = None if options.ephemeral else options.retention
        return retention


def _no_state(channel: str) -> None:
    """Return nothing: no channel has a state."""


def _is_pattern(name: str) -> bool:
    return any(character in name for character in "*?[")
